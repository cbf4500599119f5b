"""Checkpoints that a crash cannot damage: last.ckpt every so many steps and on Ctrl-C, best.ckpt by a metric."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning

from ddpm_lab.training.say import say


class Checkpoint(lightning.Callback):
    """Keeps two files: checkpoints/last.ckpt, and checkpoints/best.ckpt, the one of the least `monitor`.

    every: optimizer steps between two saves of last.ckpt; one more is made at the end and on Ctrl-C or SIGTERM. Each is
    written beside its predecessor and then takes its place, so a crash while writing leaves the predecessor.

    Saves happen between two batches, where every counter of the Trainer tells the same.
    """

    def __init__(self, folder: str, every: int, monitor: str = "val/loss") -> None:
        if every < 1:
            raise ValueError(f"checkpoint.every counts steps and must be positive, got {every}")
        self.folder = Path(folder) / "checkpoints"
        self.run = folder
        self.every = every
        self.monitor = monitor
        self.best = math.inf
        self.saved_at = -1
        self.interrupted: int | None = None
        self._handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value so far."""
        self.best = state_dict["best"]

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """From here on a first Ctrl-C waits for the step to end."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._ask_to_stop)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Do not save again what was just loaded."""
        self.saved_at = trainer.global_step

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save the state after the previous batch, if it is time; leave, if asked to."""
        if self.interrupted is not None:
            self._save(trainer, "last.ckpt")
            say(
                f"\nstopped by {signal.Signals(self.interrupted).name} after step {trainer.global_step}; nothing is lost: "
                f"continue with the same command and resume=auto hydra.run.dir={self.run}"
            )
            raise KeyboardInterrupt
        if trainer.global_step % self.every == 0 and trainer.global_step > self.saved_at:
            self._save(trainer, "last.ckpt")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep the best."""
        value = trainer.callback_metrics.get(self.monitor)
        if value is not None and float(value) < self.best:
            self.best = float(value)
            self._save(trainer, "best.ckpt")

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the end."""
        if trainer.global_step > self.saved_at:
            self._save(trainer, "last.ckpt")

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take back the batch that is ready but not trained on, which Lightning would count twice after a resume."""
        for count in checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"].values():
            if isinstance(count, dict):
                count["ready"] = count["started"] = count["completed"]

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _save(self, trainer: lightning.Trainer, name: str) -> None:
        partial = self.folder / f"{name}.partial"
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            os.replace(partial, self.folder / name)
        if name == "last.ckpt":
            self.saved_at = trainer.global_step

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted is not None:
            raise KeyboardInterrupt
        self.interrupted = number
        say("\nstopping after this step and saving; once more to stop at once")
