"""What the Checkpoint callback keeps, in real Trainers."""

import math
import signal
from pathlib import Path

import lightning
import pytest
import torch

from ddpm_lab.callbacks.checkpoint import Checkpoint
from tests.callbacks.toy import known_false_alarms, module, stream, trainer

pytestmark = known_false_alarms


class Judge(lightning.Callback):
    """Puts values into callback_metrics after the steps it is told."""

    def __init__(self, values: dict[int, float]) -> None:
        self.values = values

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        if trainer.global_step in self.values:
            trainer.callback_metrics["fid5k"] = torch.tensor(self.values[trainer.global_step])


def saved(folder: Path, name: str) -> dict:
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def fit(folder: Path, values: dict[int, float], resume: str | None = None, **options: object) -> Checkpoint:
    callback = Checkpoint(str(folder), 1, {"best.ckpt": "val/loss", "fid.ckpt": "fid5k", "never.ckpt": "nothing"})
    path = folder / "checkpoints" / resume if resume else None
    trainer(folder, callback, Judge(values), **options).fit(module(), stream(), ckpt_path=path, weights_only=True)
    return callback


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_metric_keeps_its_least(tmp_path: Path, accumulate: int) -> None:
    fit(tmp_path, {1: 5.0, 2: 3.0, 4: 4.0, 5: math.nan}, accumulate_grad_batches=accumulate)
    best = saved(tmp_path, "fid.ckpt")
    assert best["global_step"] == 2
    assert best["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"] == 2 * accumulate
    assert saved(tmp_path, "last.ckpt")["global_step"] == 6
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "fid.ckpt",
        "last-1.ckpt",
        "last.ckpt",
    ]


def test_the_last_step_may_be_the_best(tmp_path: Path) -> None:
    fit(tmp_path, {1: 5.0, 6: 3.0})
    assert saved(tmp_path, "fid.ckpt")["global_step"] == 6


def test_resuming_keeps_the_best(tmp_path: Path) -> None:
    fit(tmp_path, {2: 3.0})
    assert fit(tmp_path, {7: 4.0}, resume="last.ckpt", max_steps=8).least == {"fid.ckpt": 3.0}
    assert saved(tmp_path, "fid.ckpt")["global_step"] == 2
    fit(tmp_path, {9: 2.0}, resume="last.ckpt", max_steps=10)
    assert saved(tmp_path, "fid.ckpt")["global_step"] == 9


def test_validation_decides_but_not_the_sanity_check(tmp_path: Path) -> None:
    callback = Checkpoint(str(tmp_path), 100, {"best.ckpt": "val/loss"})
    few = trainer(tmp_path, callback, num_sanity_val_steps=1, limit_val_batches=1, max_steps=3)
    few.fit(module(), stream(), stream())
    best = saved(tmp_path, "best.ckpt")
    assert best["global_step"] == 2
    assert callback.least == {"best.ckpt": pytest.approx(float(few.callback_metrics["val/loss"]))}


def test_a_run_that_had_but_its_end_to_do(tmp_path: Path) -> None:
    """Lightning alone leaves on_train_end out where no step is left."""
    ends: list[int] = []

    class End(lightning.Callback):
        def on_train_end(self, trainer: lightning.Trainer, *_: object) -> None:
            ends.append(trainer.global_step)
            assert trainer.max_steps == 6

    fit(tmp_path, {})
    before = (tmp_path / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    callback = Checkpoint(str(tmp_path), 1, {})
    again = trainer(tmp_path, callback, End())
    again.fit(module(), stream(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert ends == [6]
    assert again.global_step == 6
    assert (tmp_path / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


@pytest.mark.parametrize("fails", [False, True])
def test_the_signals_are_given_back(tmp_path: Path, fails: bool) -> None:
    class Bomb(lightning.Callback):
        def on_train_batch_end(self, *_: object) -> None:
            if fails:
                raise RuntimeError("boom")

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    run = trainer(tmp_path, Checkpoint(str(tmp_path), 1, {}), Bomb())
    if fails:
        with pytest.raises(RuntimeError, match="boom"):
            run.fit(module(), stream())
    else:
        run.fit(module(), stream())
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize(("every", "best"), [(0, {}), (1, {"best": "val/loss"}), (1, {"last_best.ckpt": "val/loss"})])
def test_what_makes_no_sense_is_refused(tmp_path: Path, every: int, best: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="checkpoint"):
        Checkpoint(str(tmp_path), every, best)
