"""A run that goes on otherwise than it began: what is refused, what is applied as a whole, and what stays of before."""

import json
import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from ddpm_lab.runs import latest_checkpoint, load_checkpoint
from ddpm_lab.tasks.comparing import Difference, differences
from ddpm_lab.tasks.resuming import _of_the_data
from ddpm_lab.training import lr_schedules
from ddpm_lab.training.continuing import averages, can_go_on, settings_at
from tests.doors import QUICK, checkpoint, run, scalars

OPTIONS = [*QUICK, "logger=csv", "callbacks.sample_grid=null", "trainer.log_every_n_steps=1", "trainer.max_steps=6"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    run("train", *OPTIONS, "lr_scheduler=warmup", f"hydra.run.dir={folder}")
    return folder


def content(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def test_another_meaning_is_refused_and_touches_nothing(trained: Path) -> None:
    before = content(trained)
    options = [*OPTIONS, "lr_scheduler=warmup", "trainer.max_steps=8", "resume=auto", f"hydra.run.dir={trained}"]
    printed = run("train", *options, "prediction=epsilon", "schedule.T=41", "seed=1", expect=1)
    sentence = printed.strip().splitlines()[-1]
    assert sentence.startswith(f"error: {trained}/checkpoints/last.ckpt was trained otherwise than this: ")
    for change in ("prediction velocity -> epsilon", "schedule.T 40 -> 41", "seed 0 -> 1"):
        assert change in sentence
    assert "data.seed" not in sentence  # a copy of seed
    assert "allow_changes=[seed, schedule, prediction]" in sentence
    assert "names no option whose change is refused" in run("train", *options, "allow_changes=[lr]", expect=1)
    assert content(trained) == before


def test_a_change_that_is_meant_goes_into_a_new_folder(trained: Path, tmp_path: Path) -> None:
    last = trained / "checkpoints" / "last.ckpt"
    meant = ["prediction=epsilon", "timestep_sampler=loss_second_moment", "ema_rates=[0.9,0.999]"]
    allowed = "allow_changes=[prediction,timestep_sampler,ema_rates]"
    printed = run(
        "train", *OPTIONS, "lr_scheduler=warmup", *meant, allowed, "trainer.max_steps=7", f"resume={last}",
        f"hydra.run.dir={tmp_path}/new",
    )  # fmt: skip
    assert "note: from step 6 on, otherwise than in its checkpoint: " in printed
    assert "ema_rates [0.999] -> [0.9, 0.999], " in printed
    state = checkpoint(tmp_path / "new")["state_dict"]
    assert [int(state[f"emas.{i}._extra_state"]) for i in (0, 1)] == [1, 7]
    assert int(state["timesteps.counts"].sum()) == 16
    (before,) = (tmp_path / "new" / "configs").iterdir()
    assert before.name == "until_step_00000006.yaml"
    assert OmegaConf.load(before) == OmegaConf.load(trained / "config.yaml")
    assert OmegaConf.load(tmp_path / "new" / "config.yaml").prediction._target_.endswith(".Epsilon")


def test_a_change_of_the_training_is_applied_and_recorded(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    given = ["optimizer=adamw", "optimizer.lr=0.01", "optimizer.weight_decay=0.2", "lr_scheduler.steps=100"]
    printed = run(
        "train",
        *OPTIONS,
        "lr_scheduler=warmup",
        *given,
        "trainer.max_steps=8",
        "resume=auto",
        f"hydra.run.dir={folder}",
    )
    for change in (
        *("optimizer adam -> adamw", "optimizer.lr 0.002 -> 0.01", "optimizer.weight_decay 0 -> 0.2"),
        *("lr_scheduler.steps 5000 -> 100", "trainer.max_steps 6 -> 8"),
    ):
        assert change in printed
    (group,) = checkpoint(folder)["optimizer_states"][0]["param_groups"]
    assert group["decoupled_weight_decay"]
    assert (group["initial_lr"], group["weight_decay"]) == (0.01, 0.2)
    # As in a run that had this schedule from its start: after step s the next step's lr.
    rates = {int(step): float(value) for step, name, value in scalars(folder) if name == "train/lr" and step > "6"}
    assert rates == {s: pytest.approx(0.01 * (s + 1) / 100) for s in (7, 8)}
    first, second = json.loads((folder / "provenance.json").read_text())["sessions"]
    assert (first["step"], second["step"]) == (0, 6)
    assert "lr_scheduler.steps=100" in second["overrides"]
    now, before = OmegaConf.load(folder / "config.yaml"), OmegaConf.load(folder / "configs/until_step_00000006.yaml")
    assert (now.optimizer.lr, before.optimizer.lr) == (0.01, 0.002)
    assert load_checkpoint(folder / "checkpoints" / "last.ckpt")["config"] == OmegaConf.to_container(now)

    # An optimizer of another kind has no use for what this one has kept.
    sgd = ["optimizer._target_=torch.optim.SGD", "~optimizer.betas", "resume=auto", f"hydra.run.dir={folder}"]
    printed = run("train", *OPTIONS, "lr_scheduler=warmup", *given, *sgd, "trainer.max_steps=9", expect=1)
    assert "optimizer adamw -> sgd" in printed
    assert "allow_changes=[optimizer]" in printed


def test_other_images_under_the_same_options_are_refused(tmp_path: Path) -> None:
    """And the same ones in another place are not."""
    import numpy as np

    generator = np.random.default_rng(0)
    arrays = {split: generator.integers(0, 256, (12, 8, 8, 1), dtype=np.uint8) for split in ("train", "test")}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for split, images in arrays.items():
            np.savez(tmp_path / name / f"{split}.npz", arr_0=images)
    options = [*OPTIONS, "data=npz", "data.image_size=8", "data.channels=1", "callbacks.bits_per_dim=null"]
    options += ["resume=auto", f"hydra.run.dir={tmp_path}/run"]
    run("train", *options, "trainer.max_steps=1", f"data.dataset.root={tmp_path}/one")
    run("train", *options, "trainer.max_steps=2", f"data.dataset.root={tmp_path}/two")
    arrays["train"][0] += 1
    np.savez(tmp_path / "two" / "train.npz", arr_0=arrays["train"])
    printed = run("train", *options, "trainer.max_steps=3", f"data.dataset.root={tmp_path}/two", expect=1)
    assert "-> other images" in printed
    assert "allow_changes=[data]" in printed


def test_what_differs() -> None:
    def of(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
        return list(map(str, differences(before, now)))

    one = {"seed": 0, "optimizer": {"lr": 0.001, "betas": [0.9, 0.999]}, "class_conditional": True, "debug": None}
    assert of(one, {"seed": 0.0, "optimizer": {"lr": "1e-3", "betas": (0.9, 0.999)}, "class_conditional": True}) == []
    assert of(one, {**one, "class_conditional": 1}) == ["class_conditional true -> 1"]
    assert of({"betas": list(range(1000))}, {"betas": [1]}) == ["betas [0, 1, 2, …, 998, 999] -> [1]"]
    # An option that one of them lacks stands for its default.
    small = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.1}
    assert of({"optimizer": small}, {"optimizer": {**small, "weight_decay": 0.0}}) == []
    assert of({"optimizer": {**small, "eps": 1e-5}}, {"optimizer": small}) == ["optimizer.eps 1e-05 -> 1e-08"]
    assert of({"optimizer": small}, {"optimizer": {**small, "none_of_it": 1}}) == []
    # What an interpolation has copied is told once; a group by its choice.
    snr, uniform = ({"_target_": f"ddpm_lab.diffusion.weightings.{name}"} for name in ("snr", "uniform"))
    hybrid = {"_target_": "ddpm_lab.diffusion.objectives.Hybrid", "weighting": uniform}
    before = {"weighting": uniform, "objective": hybrid, "data": {"seed": 0}, "seed": 0}
    now = {"weighting": snr, "objective": {**hybrid, "weighting": snr}, "data": {"seed": 1}, "seed": 1}
    assert of(before, now) == ["weighting uniform -> snr", "seed 0 -> 1"]
    learned = {"_target_": "ddpm_lab.diffusion.variances.LearnedRange"}
    assert of({"variance": None}, {"variance": learned}) == ["variance null -> learned_range"]


def test_what_counts_as_other_data() -> None:
    moved, named = (
        Difference("data.dataset.root", "data/npz", "/new/npz"),
        Difference("data.class_names", "null", "[a, b]"),
    )
    mirrored = Difference("data.mirror", "false", "true")
    assert _of_the_data([moved, named, mirrored], "1", "1") == [mirrored]  # the same images, in another place
    assert _of_the_data([moved, named], None, "1") == [moved]  # of an earlier version's checkpoint nobody knows
    assert [str(one) for one in _of_the_data([], "1" * 64, "2" * 64)] == [
        "data images 11111111 -> other images 22222222"
    ]


SCHEDULES = {
    "warmup": partial(lr_schedules.warmup, steps=9),
    "warmup_cosine": partial(lr_schedules.warmup_cosine, steps=3, total=30),
    "constant": partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0),
    "one_cycle": partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=20),
    "none": None,
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_where_it_had_been_from_the_start(name: str) -> None:
    parameters = [torch.nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    schedule = SCHEDULES[name] and SCHEDULES[name](optimizer)
    for _ in range(7):
        parameters[0].grad = torch.ones(2)
        optimizer.step()
        if schedule is not None:
            schedule.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        groups, states = settings_at(7, partial(torch.optim.Adam, lr=0.01), SCHEDULES[name], parameters)
    assert groups == optimizer.state_dict()["param_groups"]
    assert states == ([] if schedule is None else [schedule.state_dict()])


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (torch.optim.AdamW, True),
        (torch.optim.SGD, False),
        (partial(torch.optim.Adam, amsgrad=True), False),
        (partial(torch.optim.Adam, fused=True), True),
        (torch.optim.LBFGS, False),
    ],
)
def test_which_optimizers_go_on_with_adam_s_state(now: Any, expected: bool) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([parameter])
    assert can_go_on(now, {"optimizer_states": [adam.state_dict()]})  # that has not begun
    parameter.grad = torch.ones(3)
    adam.step()
    assert can_go_on(now, {"optimizer_states": [adam.state_dict()]}) == expected


def test_averages_of_other_rates_begin_at_the_live_weights() -> None:
    state = {f"{place}network.w": torch.tensor(float(i)) for i, place in enumerate(("denoiser.", "emas.0.", "emas.1."))}
    state |= {f"emas.{i}._extra_state": torch.tensor(5) for i in (0, 1)}
    found = averages(state, [0.9, 0.99], [0.999, 0.9])
    assert {name: float(tensor) for name, tensor in found.items()} == {
        "denoiser.network.w": 0, "emas.0.network.w": 0, "emas.0._extra_state": 0,
        "emas.1.network.w": 1, "emas.1._extra_state": 5,
    }  # fmt: skip


def test_a_copy_of_a_folder_goes_on_from_the_same_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("last.ckpt", "last-1.ckpt"):  # the later one is older
        (tmp_path / "checkpoints" / name).touch()
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "last.ckpt"
