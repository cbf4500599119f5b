"""The LightningModule in real Trainers: clipping, formats, dropout, the clock."""

import copy
import time
from pathlib import Path

import lightning
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm_lab.seeds import reseed
from ddpm_lab.training.diffusion import evaluating
from ddpm_lab.training.ema import EMA, binds_from, never_bind
from ddpm_lab.training.means import Means, widest
from ddpm_lab.training.stopwatch import Stopwatch
from tests.callbacks.toy import known_false_alarms, module, stream, trainer

pytestmark = known_false_alarms


def weights_after(folder: Path, **options: object) -> Tensor:
    model = module()
    trainer(folder, limit_val_batches=0, max_steps=2, **options).fit(model, stream())
    return torch.nn.utils.parameters_to_vector(model.denoiser.parameters()).detach()


def test_a_limit_of_zero_clips_nothing(tmp_path: Path) -> None:
    free = weights_after(tmp_path)
    assert torch.equal(weights_after(tmp_path, gradient_clip_val=0), free)
    assert torch.equal(weights_after(tmp_path, gradient_clip_val=None), free)
    assert not torch.equal(weights_after(tmp_path, gradient_clip_val=1e-3), free)
    assert not torch.equal(weights_after(tmp_path, gradient_clip_val=1e-3, gradient_clip_algorithm="value"), free)
    assert torch.equal(weights_after(tmp_path, gradient_clip_val=0, gradient_clip_algorithm="value"), free)


class Gradients(lightning.Callback):
    """Whether any gradients are left when a batch begins."""

    def __init__(self) -> None:
        self.left: list[bool] = []

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object
    ) -> None:
        self.left.append(any(parameter.grad is not None for parameter in pl_module.denoiser.parameters()))


@pytest.mark.parametrize(("accumulate", "left"), [(1, [False] * 4), (2, [False, True, False, True])])
def test_gradients_are_gone_before_the_next_forward_pass(tmp_path: Path, accumulate: int, left: list[bool]) -> None:
    seen, model = Gradients(), module()
    options = {"accumulate_grad_batches": accumulate, "max_steps": 4 // accumulate}
    trainer(tmp_path, seen, limit_val_batches=0, **options).fit(model, stream())
    assert seen.left == left


@pytest.mark.parametrize("limit", [1e-3, 1e6, 1.0])
def test_clipping_is_torch_s_whether_it_is_needed_or_not(limit: float) -> None:
    model = module()
    parameters = list(model.denoiser.parameters())
    twin = [torch.nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    for k, (one, two) in enumerate(zip(parameters, twin, strict=True)):
        one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(k)) / 100
        two.grad = one.grad.clone()
    model.guard = None
    model.configure_gradient_clipping(optimizer, limit, None)
    norm = torch.nn.utils.clip_grad_norm_(twin, limit)
    assert model.grad_norm == norm
    assert all(torch.equal(one.grad, two.grad) for one, two in zip(parameters, twin, strict=True))
    parameters[0].grad[0] = float("nan")
    twin[0].grad[0] = float("nan")
    model.configure_gradient_clipping(optimizer, limit, None)
    torch.nn.utils.clip_grad_norm_(twin, limit)
    assert all(one.grad.isnan().all() and two.grad.isnan().all() for one, two in zip(parameters, twin, strict=True))


def test_an_average_follows_a_network_that_moves() -> None:
    live = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    ema = EMA(live, 0.5)
    for moved in (lambda module: module, lambda module: module.double()):  # another type, as another device would
        moved(live)(torch.randn(8, 3, dtype=next(moved(live).parameters()).dtype))
        moved(ema)
        with torch.no_grad():
            live[0].weight.add_(1)
        before = ema.network[0].weight.clone()
        decay = min(0.5, (1 + ema.updates) / (10 + ema.updates))
        ema.update(live)
        torch.testing.assert_close(ema.network[0].weight, decay * before + (1 - decay) * live[0].weight)
        assert torch.equal(ema.network[1].running_mean, live[1].running_mean)
        assert ema.network[1].num_batches_tracked == live[1].num_batches_tracked


def test_reseeding_is_seeding() -> None:
    reseed(7, torch.device("cpu"))
    found = torch.randn(5)
    torch.manual_seed(7)
    assert torch.equal(found, torch.randn(5))


@pytest.mark.parametrize("channels_last", [False, True])
def test_any_memory_format_comes_in(channels_last: bool) -> None:
    model = module(channels_last=channels_last)
    x = torch.randn(8, 8, 3, 4).permute(3, 2, 0, 1)[:, :1, ::2]
    y = torch.zeros(4)
    assert not x.is_contiguous()
    inputs, _ = model._inputs((x, y))
    assert torch.equal(inputs, x)
    assert inputs.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def test_evaluating_is_without_dropout_and_goes_back() -> None:
    denoiser = module(dropout=0.5, ema_rates=[]).averaged()
    x, t = torch.randn(4, 1, 8, 8), torch.ones(4, dtype=torch.long)

    def differs() -> bool:
        return not torch.equal(denoiser.network(x, t, None), denoiser.network(x, t, None))

    assert differs()
    with evaluating(denoiser):
        assert not differs()
    assert differs()
    with pytest.raises(ZeroDivisionError), evaluating(denoiser):
        1 / 0  # noqa: B018
    assert differs()


class Slow(lightning.Callback):
    """Every batch takes 20 ms, and one in the middle is followed by a pause of a second."""

    def on_before_zero_grad(self, *_: object) -> None:
        time.sleep(0.02)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object) -> None:
        if trainer.global_step == 3:
            with pl_module.stopwatch.paused():
                time.sleep(1)

    def on_validation_epoch_start(self, *_: object) -> None:
        time.sleep(1)


def test_images_per_second_leave_out_the_pauses(tmp_path: Path) -> None:
    model = module()
    logged: list[dict[str, float]] = []
    model._log = logged.append
    run = trainer(tmp_path, Slow(), max_steps=8, log_every_n_steps=4, val_check_interval=5, limit_val_batches=1)
    start = time.perf_counter()
    run.fit(model, stream(), stream())
    whole = time.perf_counter() - start
    speeds = [metrics["train/images_per_second"] for metrics in logged if "train/loss" in metrics]
    # 4 images in each of 3 batches (the first is not counted), then of 4 batches; each of 20 ms and more.
    seconds = [images / speed for images, speed in zip((12, 16), speeds, strict=True)]
    assert seconds[0] >= 3 * 0.02
    assert seconds[1] >= 4 * 0.02
    assert sum(seconds) < whole - 2  # the two pauses


def test_the_stopwatch_nests_its_pauses() -> None:
    watch = Stopwatch(lambda: torch.device("cpu"))
    with watch.paused():
        assert watch.since is None
    assert watch.lap() == 0
    watch.start()
    with watch.paused():
        with watch.paused():
            time.sleep(0.2)
        assert watch.since is None
    assert watch.lap() < 0.1
    time.sleep(0.05)
    assert 0.05 <= watch.lap() < 0.15


class NoFloat64(TorchDispatchMode):
    """A device without float64, as Apple's GPUs are."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        assert not isinstance(out, Tensor) or out.dtype != torch.float64, func
        return out


def test_the_means_can_do_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    assert widest(torch.device("mps")) == torch.float32
    assert widest(torch.device("cuda")) == widest(torch.device("cpu")) == torch.float64
    losses = {"loss": torch.tensor([1.0, 2.0, 3.0]), "mse": torch.tensor([0.5, 0.5, 2.0])}
    quartile = torch.tensor([0, 0, 3])
    expected = {"loss": 2.0, "mse": 1.0, "loss_q0": 1.5, "loss_q3": 3.0}
    means = Means()
    means.add(losses, quartile)
    assert means.flush(lambda sums: sums) == expected
    monkeypatch.setattr("ddpm_lab.training.means.widest", lambda device: torch.float32)
    with NoFloat64():
        means.add(losses, quartile)
        assert means.sums is not None
        means.restore(means.sums.clone(), torch.device("cpu"))
        assert means.flush(lambda sums: sums) == expected


def test_a_rate_binds_from_where_the_warm_up_reaches_it() -> None:
    for rate, n in ((0.999, 8990), (0.9999, 89990), (0.9, 80), (0.5, 8), (0.1, 0), (0.0, 0)):
        assert binds_from(rate) == n
        ema = EMA(torch.nn.Linear(1, 1), rate)
        for updates in {n, max(n - 1, 0)}:
            ema.updates = updates
            live = copy.deepcopy(ema.network)
            with torch.no_grad():
                live.weight.add_(1)
            before = ema.network.weight.clone()
            ema.update(live)
            decay = 1 - float(ema.network.weight - before)  # of a step of 1
            assert decay == pytest.approx(rate if updates >= n else (1 + updates) / (10 + updates), abs=1e-6)
    assert never_bind([0.9, 0.999], 8991) is None
    told = never_bind([0.9, 0.995, 0.9999], 1365)
    assert told is not None
    assert "ema_rates 0.995, 0.9999 have no effect in 1,365 steps, and their averages are the same" in told
    assert "until step 1,790, 89,990;" in told


def test_without_warm_up_the_rate_is_constant() -> None:
    live = torch.nn.Linear(1, 1)
    ema = EMA(live, 0.9, warmup=False)
    before = live.weight.detach().clone()
    with torch.no_grad():
        live.weight.add_(1)
    ema.update(live)
    torch.testing.assert_close(ema.network.weight, before + 0.1)
