"""Bits per dimension of the test split at the end of training."""

from __future__ import annotations

from pathlib import Path

import lightning
import torch

from ddpm_lab.diffusion.likelihood import estimate_bits_per_dim, importance
from ddpm_lab.runs import add_metrics
from ddpm_lab.seeds import mix
from ddpm_lab.training.diffusion import Diffusion
from ddpm_lab.training.say import say


class BitsPerDimension(lightning.Callback):
    """Estimates the bound of the averaged weights on test images, unbiased and with its standard error.

    images: how many of the test split, all if None. draws: network calls per image besides the decoder's; see
    `estimate_bits_per_dim`. `evaluate.py` computes the exact bound. All ranks share the images.
    """

    def __init__(self, folder: str, images: int | None, draws: int, seed: int = 0) -> None:
        self.folder = Path(folder)
        self.images = images
        self.draws = draws
        self.seed = seed

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Estimate, print, log and write test/bits_per_dim to metrics.json."""
        assert isinstance(pl_module, Diffusion)
        data = trainer.datamodule  # type: ignore[attr-defined]
        n = min(self.images or len(data.images("test")), len(data.images("test")))
        say(f"estimating bits/dim on {n} test images …")
        denoiser, device = pl_module.averaged(), pl_module.device
        # The pilot draws the same numbers on every rank, so that all use the same probabilities.
        torch.manual_seed(mix(self.seed, 0))
        x, y = data.test_images(n)
        y = y if pl_module.conditional else None
        few = slice(0, 32)
        p = importance(denoiser, x[few].to(device), None if y is None else y[few].to(device))
        torch.manual_seed(mix(self.seed, 1, trainer.global_rank))
        sums = torch.zeros(3, dtype=torch.float64, device=device)  # count, sum, sum of squares
        mine = torch.arange(trainer.global_rank, n, trainer.world_size)
        for part in mine.split(data.test_batch_size):
            labels = None if y is None else y[part].to(device)
            bits = estimate_bits_per_dim(
                denoiser, x[part].to(device), labels, probabilities=p, draws=self.draws
            ).double()
            sums += torch.stack([bits.new_tensor(len(bits)), bits.sum(), (bits**2).sum()])
        count, total, squares = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        mean = total / count
        error = ((squares / count - mean**2) / max(count - 1, 1)) ** 0.5
        if trainer.is_global_zero:
            metrics = {"test/bits_per_dim": mean, "test/bits_per_dim_standard_error": error}
            add_metrics(self.folder, {**metrics, "test/bits_per_dim_images": n, "step": trainer.global_step})
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)
        say(f"bits/dim (test, {n} images, averaged weights): {mean:.3f} ± {error:.3f}")
