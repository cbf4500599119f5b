"""What is done every so many optimizer steps."""

from __future__ import annotations

from typing import Any

import lightning

from ddpm_lab.training.diffusion import Diffusion


class Periodic(lightning.Callback):
    """Calls `on_period` after every `every`-th optimizer step, 0 for never, and counts it as no time of training.

    Not after the last step of the run: what ends a run is done in `on_train_end`.
    """

    every: int

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Call it, if it is time."""
        assert isinstance(pl_module, Diffusion)
        step = trainer.global_step
        stepped = (pl_module.batches_done + 1) % trainer.accumulate_grad_batches == 0
        if self.every and stepped and step % self.every == 0 and not step >= trainer.max_steps >= 0:
            with pl_module.stopwatch.paused():
                self.on_period(trainer, pl_module)

    def on_period(self, trainer: lightning.Trainer, module: Diffusion) -> None:
        """Do it; on every rank."""
        raise NotImplementedError
