"""What a run says of its own progress: the bar, the time to come, the files that there will not be."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from ddpm_lab.callbacks.checkpoint import Checkpoint
from ddpm_lab.callbacks.periodic import Periodic
from ddpm_lab.callbacks.progress import ExpectedTime, StepBar, duration
from ddpm_lab.training.diffusion import Diffusion
from tests.callbacks.toy import known_false_alarms, module, stream, trainer

pytestmark = known_false_alarms


class Clock:
    """In the place of the module time: it stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


class Work(Periodic):
    """A step takes 2 seconds, and what comes after every other one 100 more."""

    every = 2

    def __init__(self, clock: Clock, stop: int | None = None) -> None:
        self.clock, self.stop = clock, stop

    def on_before_zero_grad(self, *_: Any) -> None:
        self.clock.now += 2

    def on_period(self, trainer: lightning.Trainer, module: Diffusion) -> None:
        self.clock.now += 100

    def on_train_batch_end(self, trainer: lightning.Trainer, *rest: Any) -> None:
        super().on_train_batch_end(trainer, *rest)
        trainer.should_stop = trainer.global_step == self.stop


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_expected_time_is_that_of_the_steps_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    clock = Clock()
    monkeypatch.setattr("ddpm_lab.training.stopwatch.time", clock)
    options = {
        "max_steps": 1_800,
        "accumulate_grad_batches": accumulate,
        "limit_val_batches": 0,
        "log_every_n_steps": 3,
    }
    run = trainer(tmp_path, Work(clock, stop=30), ExpectedTime(), **options)
    run.fit(module(), stream())
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("about ")]
    left = 1_788 if accumulate == 1 else 1_789  # 20 seconds come before 20 steps; the first batch begins the clock
    assert line == f"about 1 h 0 min for the remaining {left:,} steps (measured over 10)"


def test_a_short_time_is_not_worth_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path, ExpectedTime(), max_steps=25, limit_val_batches=0).fit(module(), stream())
    assert "about" not in capsys.readouterr().out


def test_durations() -> None:
    found = [duration(seconds) for seconds in (61, 3540, 3600, 7800, 35_700, 36_000, 170_000, 180_000)]
    assert found == ["1 min", "59 min", "1 h 0 min", "2 h 10 min", "9 h 55 min", "10 h", "47 h", "2 d 2 h"]


def test_the_bar_is_drawn_every_second_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("ddpm_lab.callbacks.progress.time", clock)
    clock.now = 100.0
    bar, drawn = StepBar(), []
    monkeypatch.setattr(bar, "get_metrics", lambda *_: drawn.append(bar.train_progress_bar.n) or {})
    run = trainer(tmp_path, Work(clock), bar, max_steps=4, limit_val_batches=0, enable_progress_bar=True)
    run.fit(module(), stream())
    assert drawn[:4] == [1, 2, 3, 4]
    bar.SECONDS, clock.now, drawn[:] = 500.0, 1000.0, []  # of four steps and their pauses
    run = trainer(tmp_path, Work(clock), bar, max_steps=14, limit_val_batches=0, enable_progress_bar=True)
    run.fit(module(), stream())
    assert drawn[:3] == [1, 10, 14]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"val_check_interval": 500},
            "validation comes every 500 batches (trainer.val_check_interval), and the run ends after 6",
        ),
        ({"limit_val_batches": 0}, "trainer.limit_val_batches or val_check_interval leaves validation out"),
        ({"val_check_interval": 6}, None),
        ({"val_check_interval": 7, "accumulate_grad_batches": 2}, None),
    ],
)
def test_a_best_checkpoint_that_there_will_not_be_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], told: str | None
) -> None:
    callback = Checkpoint(str(tmp_path), 100, {"best.ckpt": "val/loss", "fid.ckpt": "fid"})
    trainer(tmp_path, callback, **options).fit(module(), stream(), stream_of_tests())
    printed = capsys.readouterr().out
    assert (f"note: there will be no best.ckpt: {told}" in printed) == (told is not None)
    assert ("no best.ckpt" in printed) == (told is not None) != (tmp_path / "checkpoints" / "best.ckpt").exists()
    assert "note: there is no fid.ckpt: fid has not been measured" in printed


def stream_of_tests() -> Any:
    images = torch.zeros(4, 1, 8, 8)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, torch.zeros(4)), batch_size=4)
