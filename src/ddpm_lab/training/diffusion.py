"""The LightningModule of a diffusion model: batches in, losses out, no formula."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.guidance import drop_labels
from ddpm_lab.diffusion.objectives import Objective, per_image
from ddpm_lab.diffusion.timesteps import TimestepSampler
from ddpm_lab.seeds import ImageNoise, mix, reseed
from ddpm_lab.training.ema import EMA
from ddpm_lab.training.guard import Guard
from ddpm_lab.training.means import Means
from ddpm_lab.training.say import say
from ddpm_lab.training.stopwatch import Stopwatch

Batch = tuple[Tensor, Tensor]  # images [B, C, H, W] in [-1, 1], labels [B]


@contextmanager
def evaluating(denoiser: Denoiser) -> Iterator[None]:
    """Without dropout inside, and then as before."""
    training = denoiser.network.training
    denoiser.network.eval()
    try:
        yield
    finally:
        denoiser.network.train(training)


class Diffusion(lightning.LightningModule):
    """Trains a Denoiser, or a Classifier by its own objective, and keeps averages of its network on every rank.

    optimizer: parameters -> Optimizer. lr_scheduler: Optimizer -> LRScheduler, stepped once per optimizer step.
    ema_rates: one average each; the first is what samples and evaluations use. ema_warmup: as of `EMA`. channels_last: the
    memory format of weights and images.
    conditional: labels are given to the network; in training each becomes null_label with probability label_dropout.

    All randomness of a step (t, noise, dropout) is a function of seed, rank and the number of the batch, so that a resumed
    run repeats what an uninterrupted one would have drawn.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        objective: Objective,
        timesteps: TimestepSampler,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        *,
        ema_rates: Sequence[float] = (0.9999,),
        ema_warmup: bool = True,
        conditional: bool = False,
        label_dropout: float = 0.0,
        null_label: int = 0,
        seed: int = 0,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.objective = objective
        self.timesteps = timesteps
        self.emas = nn.ModuleList(EMA(denoiser.network, rate, ema_warmup) for rate in ema_rates)
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.conditional = conditional
        self.label_dropout = label_dropout
        self.null_label = null_label
        self.seed = seed
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.train_means = Means()
        self.val_means = Means()
        self.grad_norm: Tensor | None = None
        self.guard: Guard | None = None
        self.kept: dict[str, Any] = {}  # in every checkpoint: what it was trained with
        self.adapt: Callable[[dict[str, Any]], None] = lambda checkpoint: None  # to what is asked for now
        self.stopwatch = Stopwatch(lambda: self.device)
        self._images = 0  # trained on since the last log, by all ranks
        self._validated = 0
        self._timed = False

    def __setattr__(self, name: str, value: Any) -> None:
        """As every module, but for what Lightning notes forty times a step: a sixth of all the time that it adds to one."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def averaged(self, i: int = 0) -> Denoiser:
        """The denoiser with the i-th average of the network in place of the live one; the live one if there is none."""
        return self.denoiser.with_network(self.emas[i].network) if len(self.emas) else self.denoiser  # type: ignore[arg-type]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted loss, averaged over the batch."""
        x, y = self._inputs(batch)
        reseed(mix(self.seed, self.global_rank, self.batches_done), self.device)
        t, weight = self.timesteps.draw(len(x))
        t, weight = t.to(x.device), weight.to(x.device)
        if y is not None and self.label_dropout > 0:
            y = drop_labels(y, self.label_dropout, self.null_label)
        losses = per_image(self.objective(self.denoiser, x, t, y), len(x))
        self.timesteps.update(t, losses["loss"].detach())
        self.train_means.add(losses, quartile=4 * (t - 1) // self.denoiser.process.T)
        if self.guard:
            self.guard.watch(*batch, t, losses)
        return (weight * losses["loss"]).mean()

    def on_train_start(self) -> None:
        """Free what a fit that was stopped between a backward pass and its step has left."""
        self.trainer.optimizers[0].zero_grad()

    def on_validation_start(self) -> None:
        """Validation is no training time."""
        self._timed = self.stopwatch.stop()

    def on_validation_end(self) -> None:
        """Back to training."""
        if self._timed:
            self.stopwatch.start()

    def on_validation_epoch_start(self) -> None:
        """Count the test images from the first again."""
        self._validated = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The averaged weights' losses; the split's k-th image meets the same t and noise at every validation of every run."""
        x, y = self._inputs(batch)
        T = self.denoiser.process.T
        first = self._validated
        self._validated += len(x)
        # The DataModule hands rank r of W the images r, r + W, r + 2 W, … of its order.
        indices = [self.global_rank + self.trainer.world_size * i for i in range(first, self._validated)]
        # Multiples of the golden ratio spread evenly over [0, 1), whatever their number.
        t = torch.tensor([1 + int(T * (i * 0.6180339887498949 % 1)) for i in indices], device=x.device)
        losses = self.objective(self.averaged(), x, t, y, ImageNoise(0, indices, x.device)(x))
        self.val_means.add(losses, quartile=4 * (t - 1) // T)

    def on_validation_epoch_end(self) -> None:
        """Log the means over all ranks' images; those of a sanity check are of too few."""
        metrics = {f"val/{name}": value for name, value in self.val_means.flush(self._sum_over_ranks).items()}
        if not self.trainer.sanity_checking:
            self._log(metrics)
        self.log_dict(metrics, logger=False)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then let the averages follow."""
        super().optimizer_step(*args, **kwargs)
        # Lightning frees the gradients after the next forward pass, beside all of its activations.
        self.trainer.optimizers[0].zero_grad()
        for ema in self.emas:
            ema.update(self.denoiser.network)  # type: ignore[operator]

    def optimizer_zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: `optimizer_step` has freed them, and `on_train_start` those of a fit before."""

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm or value, 0 meaning not at all, and keep the norm for the log; drop gradients that the guard refuses."""
        every = (parameter for group in optimizer.param_groups for parameter in group["params"])
        parameters = [parameter for parameter in every if parameter.grad is not None]
        by_norm = gradient_clip_algorithm in (None, "norm")
        self.grad_norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
        if self.guard and self.guard.check(self._spoils(self.grad_norm), self.global_step, self.global_rank):
            optimizer.zero_grad()  # an optimizer leaves parameters without gradients as they are
        elif not by_norm:
            if (
                gradient_clip_val
            ):  # not by Lightning, which refuses fused optimizers in bf16 too, where nothing is scaled
                nn.utils.clip_grad_value_(parameters, gradient_clip_val)
        elif gradient_clip_val and (self.grad_norm.device.type != "cpu" or not self.grad_norm <= gradient_clip_val):
            # On a CPU the norm is at hand, and a pass that multiplies by 1 costs as much as half of the optimizer's step.
            nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, self.grad_norm)

    def _spoils(self, grad_norm: Tensor) -> bool:
        """Whether this step's gradient is not finite; the same on every rank."""
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            return not bool(torch.isfinite(grad_norm))  # of all ranks' gradients
        # A loss scaler meets infinite gradients as a rule, and leaves such steps out itself; but not infinite losses.
        assert self.guard is not None
        return self.trainer.strategy.reduce_boolean_decision(self.guard.losses_are_bad(), all=False)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over the live network, and its schedule per step."""
        optimizer = self.make_optimizer(self.denoiser.parameters())
        if self.make_lr_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_lr_scheduler(optimizer), "interval": "step"},
        }

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log the means since the last time, every log_every_n_steps optimizer steps; only then wait for the device."""
        self._images += len(batch[0]) * self.trainer.world_size
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        stepped = (self.batches_done + 1) % self.trainer.accumulate_grad_batches == 0
        if stepped and every and self.global_step % every == 0:
            metrics = {f"train/{name}": value for name, value in self.train_means.flush(self._sum_over_ranks).items()}
            if self.grad_norm is not None:
                metrics["train/grad_norm"] = float(self.grad_norm)
            metrics["train/lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
            # Since the last log, less the pauses for validation, samples and checkpoints.
            seconds = self.stopwatch.lap()
            if seconds:
                metrics["train/images_per_second"] = self._images / seconds
            self._images = 0
            self._log(metrics)
            self.log("loss", metrics["train/loss"], prog_bar=True, logger=False)
        if self.stopwatch.since is None:
            # A session's first batch compiles and fills caches; images/s is about those that follow.
            self.stopwatch.start()
            self._images = 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what it was trained with, the layout, and the sums that the next log will be made of. A collective."""
        checkpoint.update(self.kept)
        checkpoint["layout"] = self._layout()
        if self.train_means.sums is not None:
            checkpoint["train_means"] = self._sum_over_ranks(self.train_means.sums.clone()).cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on summing where the checkpoint stopped: the sums of all ranks go to the first, and all have some to give."""
        self.adapt(checkpoint)
        before, now = checkpoint.get("layout", {}), self._layout()
        changed = [f"{name} {before[name]} -> {now[name]}" for name in now if before.get(name, now[name]) != now[name]]
        if changed:
            say(
                f"note: {', '.join(changed)} since the checkpoint: the images go on in their order from where they were, but "
                "timesteps, noise and dropout are other draws from here on, so this is no longer bitwise the run it was"
            )
        if "train_means" in checkpoint:
            sums = checkpoint["train_means"]
            mine = sums if self.global_rank == 0 else torch.zeros_like(sums)
            self.train_means.restore(mine, self.trainer.strategy.root_device)

    @property
    def batches_done(self) -> int:
        """How many batches each rank has trained on, over all restarts."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.completed

    def _layout(self) -> dict[str, int]:
        """What the draws of a step follow from, beside the seed."""
        layout = {
            "processes": self.trainer.world_size,
            "accumulate_grad_batches": self.trainer.accumulate_grad_batches,
        }
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return layout if data is None else {**layout, "data.batch_size": data.batch_size}

    def _log(self, metrics: dict[str, float]) -> None:
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, step=self.global_step)

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        x, y = batch
        return x.contiguous(memory_format=self.memory_format), y if self.conditional else None

    def _sum_over_ranks(self, sums: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(sums, reduce_op="sum")
