"""Losses and gradients that are not finite: the run stops before its weights are spoilt, or leaves the step out."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor

from ddpm_lab.training.guard import Guard
from tests.callbacks.toy import known_false_alarms, module, stream, trainer
from tests.doors import QUICK, checkpoint, run


def seen(guard: Guard, loss: float) -> None:
    x = torch.zeros(2, 1, 4, 4)
    guard.watch(x, torch.tensor([0, 1]), torch.tensor([3, 7]), {"loss": torch.tensor([0.5, loss])})


@pytest.mark.parametrize(("loss", "bad"), [(1.0, False), (math.nan, True), (-math.inf, True)])
def test_losses_are_looked_at(loss: float, bad: bool, tmp_path: Path) -> None:
    guard = Guard(tmp_path)
    seen(guard, 1.0)
    assert not guard.losses_are_bad()
    seen(guard, loss)
    seen(guard, 1.0)
    assert guard.losses_are_bad() == bad


def test_steps_in_a_row_are_counted(tmp_path: Path) -> None:
    guard = Guard(tmp_path, skip=2)
    for step, loss in enumerate([math.nan, math.inf, 1.0, math.nan, math.nan]):
        seen(guard, loss)
        assert guard.check(guard.losses_are_bad(), step, rank=0) == (not math.isfinite(loss))
    seen(guard, math.nan)
    with pytest.raises(
        FloatingPointError, match="step 5 after 2 steps left out: 1 of 2 losses are not finite, at t = 7;"
    ):
        guard.check(guard.losses_are_bad(), 5, rank=0)
    names = sorted(path.name for path in (tmp_path / "nonfinite").iterdir())
    assert names == ["step_00000000_rank_0.pt", "step_00000003_rank_0.pt"]
    (batch,) = torch.load(tmp_path / "nonfinite" / names[1], weights_only=True)
    assert batch["step"] == 3
    assert batch["t"].tolist() == [3, 7]
    assert math.isnan(batch["losses"]["loss"][1])


def test_a_negative_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        Guard(tmp_path, skip=-1)


def test_a_run_that_diverges_stops_before_its_weights_are_spoilt(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    diverges = ["optimizer.lr=1e30", "lr_scheduler=constant", "trainer.gradient_clip_val=0", "checkpoint.every=1"]
    output = run("train", *QUICK, *diverges, "logger=csv", f"hydra.run.dir={folder}", expect=1)
    last = output.strip().splitlines()[-1]
    assert last.startswith("error: step ")
    assert "guard.skip=k" in last
    assert "Traceback" not in output
    assert all(torch.isfinite(x).all() for x in checkpoint(folder)["state_dict"].values() if x.is_floating_point())
    (file,) = (folder / "nonfinite").iterdir()
    (batch,) = torch.load(file, weights_only=True)
    assert batch["images"].shape == (16, 1, 8, 8)


class Record(lightning.Callback):
    """The weights after every step."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object) -> None:
        self.weights.append(torch.nn.utils.parameters_to_vector(pl_module.denoiser.parameters()).detach().clone())


@known_false_alarms
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_a_step_is_left_out(tmp_path: Path, algorithm: str) -> None:
    model, record = module(), Record()
    model.guard = Guard(tmp_path, skip=1)
    objective, calls = model.objective, iter(range(10))

    def poisoned(*arguments: Any) -> dict[str, Tensor]:
        factor = math.nan if next(calls) == 2 else 1
        return {name: loss * factor for name, loss in objective(*arguments).items()}

    model.objective = poisoned  # type: ignore[assignment]
    clip = {"gradient_clip_val": 1.0, "gradient_clip_algorithm": algorithm}
    trainer(tmp_path, record, limit_val_batches=0, max_steps=5, **clip).fit(model, stream())
    assert [torch.equal(a, b) for a, b in pairwise(record.weights)] == [False, True, False, False]
    assert torch.isfinite(record.weights[-1]).all()
    assert [path.name for path in (tmp_path / "nonfinite").iterdir()] == ["step_00000002_rank_0.pt"]
