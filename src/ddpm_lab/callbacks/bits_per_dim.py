"""Bits per dimension while a model trains, and at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning

from ddpm_lab import runs
from ddpm_lab.callbacks.periodic import Periodic
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.likelihood import Fast, metrics, sentence
from ddpm_lab.provenance import origin
from ddpm_lab.training.diffusion import Diffusion
from ddpm_lab.training.say import say


class BitsPerDimension(Periodic):
    """Estimates the bound of the averaged weights, the raw ones where there is no average, at the end of training.

    bound: how; `evaluate.py` computes the exact one. every: also every so many optimizer steps, 0 for the end alone.
    splits: of "test" and "train": where the model overfits, train falls below test. All ranks share the images.
    """

    def __init__(self, folder: str, bound: Fast, every: int, splits: Sequence[str] = ("test",), seed: int = 0) -> None:
        if every < 0:
            raise UserError(f"every={every} must not be negative; take 0 for the end of training alone")
        self.folder = Path(folder)
        self.bound = bound
        self.every = every
        self.splits = splits
        self.seed = seed

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Refuse a split that is none, before anything is trained."""
        for split in self.splits:
            trainer.datamodule.images(split)  # type: ignore[attr-defined]

    def on_period(self, trainer: lightning.Trainer, module: Diffusion) -> None:
        """Estimate the bound of this step; that of the last is left to the end."""
        self._estimate(trainer, module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Estimate the bound of what was trained."""
        assert isinstance(pl_module, Diffusion)
        say(f"estimating bits/dim ({', '.join(self.splits)}) …")
        self._estimate(trainer, pl_module)

    def _estimate(self, trainer: lightning.Trainer, module: Diffusion) -> None:
        """Estimate, print, log, and write to metrics.json."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        weights, called = ("ema", "averaged weights") if len(module.emas) else ("raw", "raw weights")
        for split in self.splits:
            bound = self.bound(
                module.averaged(),
                data.images(split),
                split=split,
                name=data.name,
                conditional=module.conditional,
                seed=self.seed,
                device=module.device,
                progress=False,
            )
            if trainer.is_global_zero:
                found = metrics(
                    bound, step=trainer.global_step, weights=weights, **origin(module.kept.get("config", {}))
                )
                runs.add_metrics(self.folder, found)
                scalars = {name: value for name, value in found.items() if isinstance(value, float)}
                for logger in trainer.loggers:
                    logger.log_metrics(scalars, step=trainer.global_step)
            say(f"bits/dim ({bound.protocol['images']}, {called}): {sentence(bound)}")
