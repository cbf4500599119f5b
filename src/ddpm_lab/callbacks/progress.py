"""A progress bar that counts optimizer steps to the end of the run."""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm


class StepBar(TQDMProgressBar):
    """One bar from 0 to max_steps; validation has none. refresh_rate: in steps."""

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
        step = trainer.global_step
        if step % self.refresh_rate == 0 or step == trainer.max_steps:
            bar = self.train_progress_bar
            bar.n = step
            bar.set_postfix(self.get_metrics(trainer, pl_module))

    def init_validation_tqdm(self) -> Tqdm:
        """No bar."""
        return Tqdm(disable=True)

    def get_metrics(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The loss alone."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name == "loss"}
