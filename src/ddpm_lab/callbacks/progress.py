"""How far a run is: a progress bar that counts optimizer steps to its end, and how long that will take."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from ddpm_lab.training.diffusion import Diffusion
from ddpm_lab.training.say import say


class StepBar(TQDMProgressBar):
    """One bar from 0 to max_steps, which also tells of validation; it is drawn anew every second."""

    SECONDS = 1.0

    def __init__(self) -> None:
        super().__init__(refresh_rate=1)
        self._drawn = 0.0

    def on_train_start(self, *_: Any) -> None:
        """Start at the step where the run resumes."""
        super().on_train_start(*_)
        steps, done = self.trainer.max_steps, self.trainer.global_step
        bar = self.train_progress_bar
        bar.reset(steps if steps > 0 else None)
        bar.initial = bar.n = done
        bar.set_description("training")

    def on_exception(self, *_: Any) -> None:
        """End the bar's line: what went wrong is told on the next."""
        super().on_exception(*_)
        if self._train_progress_bar is not None:
            self._train_progress_bar.close()

    def on_train_epoch_start(self, *_: Any) -> None:
        """The one epoch has no end; the bar counts steps."""

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move to the present step."""
        if self._is_time() or trainer.global_step == trainer.max_steps:
            bar = self.train_progress_bar
            bar.n = trainer.global_step
            bar.set_postfix(self.get_metrics(trainer, pl_module))

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Say what goes on."""
        super().on_validation_start(trainer, pl_module)
        self._describe("validation")

    def on_validation_batch_end(self, *_: Any) -> None:
        """Show that time passes."""
        if self._train_progress_bar is not None and self._is_time():
            self._train_progress_bar.refresh()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Back to training."""
        super().on_validation_end(trainer, pl_module)
        self._describe("training")

    def init_validation_tqdm(self) -> Tqdm:
        """No bar."""
        return Tqdm(disable=True)

    def get_metrics(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The loss alone."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name == "loss"}

    def _describe(self, what: str) -> None:
        if self._train_progress_bar is not None:
            self._train_progress_bar.set_description(what)

    def _is_time(self) -> bool:
        now = time.monotonic()
        if now - self._drawn < self.SECONDS:
            return False
        self._drawn = now
        return True


class ExpectedTime(lightning.Callback):
    """Says once, after so many steps or seconds of them, how long the others will take, if that is more than a minute."""

    STEPS, SECONDS = 20, 20.0

    def __init__(self) -> None:
        self._from: tuple[int, float] | None = None
        self._said = False

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure; the first batch, which compiles and fills caches, is left out, and so are pauses for anything else."""
        assert isinstance(pl_module, Diffusion)
        stepped = (pl_module.batches_done + 1) % trainer.accumulate_grad_batches == 0
        if self._said or pl_module.stopwatch.since is None or not stepped:
            return
        step, seconds = trainer.global_step, pl_module.stopwatch.total()
        if self._from is None:
            self._from = step, seconds
            return
        steps, seconds = step - self._from[0], seconds - self._from[1]
        if steps < self.STEPS and seconds < self.SECONDS:
            return
        self._said = True
        left = trainer.max_steps - step
        if trainer.is_global_zero and left * seconds / steps > 60:
            text = f"about {duration(left * seconds / steps)} for the remaining {left:,} steps (measured over {steps})"
            bars = [callback for callback in trainer.callbacks if isinstance(callback, ProgressBar)]  # type: ignore[attr-defined]
            (bars[0].print if bars else say)(text)  # above the bar
            sys.stdout.flush()


def duration(seconds: float) -> str:
    """For people, by two units at most: 2 h 10 min."""
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60 if minutes < 600 else round(minutes / 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if minutes < 600 else f"{hours} h"
