"""What the timestep sampler draws, while a model trains."""

from __future__ import annotations

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from ddpm_lab.callbacks.periodic import Periodic
from ddpm_lab.errors import UserError
from ddpm_lab.training.diffusion import Diffusion


class TimestepDistribution(Periodic):
    """Logs the probability of t in 64 equal parts of 1..T (T where that is less), every `every` steps and at the end.

    W&B and TensorBoard get a histogram, every logger how many timesteps the distribution amounts to: exp of its entropy, T
    where it is uniform. Raises ValueError for a negative `every`; 0 logs at the end alone.
    """

    def __init__(self, every: int) -> None:
        if every < 0:
            raise UserError(
                f"callbacks.timestep_distribution.every={every} must not be negative; take 0 for the end alone"
            )
        self.every = every

    def on_period(self, trainer: lightning.Trainer, module: Diffusion) -> None:
        """Log it as it is."""
        if not trainer.is_global_zero:
            return
        p = module.timesteps.probabilities().cpu().double()
        T = len(p)
        edges = torch.linspace(0, T, min(64, T) + 1).round().long()
        cumulated = torch.cat([p.new_zeros(1), p.cumsum(0)])[edges]
        heights, borders = cumulated.diff().numpy(), (edges + 0.5).numpy()  # t = 1 lies between 0.5 and 1.5
        effective = float(torch.special.entr(p).sum().exp())
        for logger in trainer.loggers:
            logger.log_metrics({"timesteps/effective": effective}, step=trainer.global_step)
            if isinstance(logger, WandbLogger):
                import wandb

                histogram = wandb.Histogram(np_histogram=(heights, borders))
                logger.log_metrics({"timesteps/probability": histogram}, step=trainer.global_step)  # type: ignore[dict-item]
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_histogram_raw(
                    "timesteps/probability",
                    min=0.5,
                    max=T + 0.5,
                    num=1,
                    sum=float((p * torch.arange(1, T + 1)).sum()),
                    sum_squares=float((p * torch.arange(1, T + 1) ** 2).sum()),
                    bucket_limits=borders[1:].tolist(),
                    bucket_counts=heights.tolist(),
                    global_step=trainer.global_step,
                )

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log the last."""
        assert isinstance(pl_module, Diffusion)
        self.on_period(trainer, pl_module)
