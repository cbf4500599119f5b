"""FID and its kin while a model trains, and by the full protocol at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import lightning
import torch
from lightning.pytorch.loggers import WandbLogger

from ddpm_lab.callbacks.periodic import Periodic
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.generation import Samples, judge, protocol_of_reference, records, sentence, table
from ddpm_lab.evaluation.reference import reference_statistics
from ddpm_lab.metrics.features import Extractor, FeatureSource, WeightsNotFoundError
from ddpm_lab.metrics.scores import Metric, Score
from ddpm_lab.metrics.statistics import Statistics
from ddpm_lab.provenance import origin
from ddpm_lab.runs import add_metrics
from ddpm_lab.samplers.sampler import Sampler
from ddpm_lab.training.diffusion import Diffusion
from ddpm_lab.training.say import say


class GenerationMetrics(Periodic):
    """Judges the averaged weights by `metrics`, all ranks sharing the work.

    every: optimizer steps between two judgements of n samples by `sampler`, 0 for the end alone. final_n, final_sampler: those
    of the end; final_n None leaves it out. features: the extractor's source; where its weights cannot be had, training goes
    on without. split: of the data set, that the samples are compared with. cache: where its statistics are kept.

    Raises ValueError for numbers that make no sense.
    """

    def __init__(
        self,
        folder: str,
        features: FeatureSource,
        metrics: Mapping[str, Metric | None],
        cache: str,
        *,
        every: int,
        n: int,
        sampler: Sampler,
        final_n: int | None,
        final_sampler: Sampler,
        split: str = "train",
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        if every < 0 or n < 2 or batch_size < 1 or (final_n is not None and final_n < 2):
            raise UserError(
                "callbacks.generation_metrics needs every >= 0, batch_size >= 1, and n and final_n of at least 2 images, got "
                f"every={every}, batch_size={batch_size}, n={n} and final_n={final_n}"
            )
        self.folder = Path(folder)
        self.features = features
        self.metrics = metrics
        self.cache = Path(cache)
        self.every = every
        self.n = n
        self.sampler = sampler
        self.final_n = final_n
        self.final_sampler = final_sampler
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.extractor: Extractor | None = None
        self.reference: Statistics | None = None

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Find the extractor and the reference statistics before anything is trained."""
        assert isinstance(pl_module, Diffusion)
        for sampler in (self.sampler, self.final_sampler):
            sampler.times(pl_module.denoiser.process)
        data, device = trainer.datamodule, pl_module.device  # type: ignore[attr-defined]
        try:
            self.extractor = self.features(
                data.images("train"), name=data.name, num_classes=data.num_classes, cache=self.cache, device=device
            )
        except WeightsNotFoundError as error:
            say(f"training goes on without generation metrics: {error}")
            return
        self.reference, _ = reference_statistics(
            data.images(self.split),
            self.extractor,
            data=data.name,
            split=self.split,
            n=None,
            batch_size=self.batch_size,
            cache=self.cache,
            device=device,
        )

    def on_period(self, trainer: lightning.Trainer, module: Diffusion) -> None:
        """Judge by the cheap protocol."""
        scores = self._judge(trainer, module, self.sampler, self.n)
        # Where the checkpoint callback looks for what makes a model the best; the end's protocol is another.
        trainer.callback_metrics.update({score.name: torch.tensor(score.value) for score in scores})

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Judge by the full protocol."""
        assert isinstance(pl_module, Diffusion)
        if self.final_n is not None:
            self._judge(trainer, pl_module, self.final_sampler, self.final_n)

    def _judge(self, trainer: lightning.Trainer, module: Diffusion, sampler: Sampler, n: int) -> list[Score]:
        if self.extractor is None or self.reference is None:
            return []
        data = trainer.datamodule  # type: ignore[attr-defined]
        denoiser = module.averaged()
        shape = (data.channels, data.image_size, data.image_size)
        labels = range(data.num_classes) if module.conditional else None
        samples = Samples(
            denoiser, sampler, shape, self.seed, labels, module.device, class_names=data.class_names or ()
        )
        training = denoiser.network.training
        denoiser.network.eval()
        samples.announce(n, self.batch_size, self.extractor)
        judged = judge(
            samples,
            n,
            self.extractor,
            self.reference,
            self.metrics,
            batch_size=self.batch_size,
            device=module.device,
        )
        denoiser.network.train(training)
        protocol = {
            **samples.protocol(),
            **protocol_of_reference(self.extractor, self.reference, self.batch_size),
            "weights": "ema" if len(module.emas) else "raw",
            "step": trainer.global_step,
            **origin(module.kept.get("config", {})),
        }
        found = records(judged.scores, protocol)
        numbers = {name: value for name, value in found.items() if isinstance(value, float)}
        say(f"step {trainer.global_step}: {sentence(judged.scores)}")
        if trainer.is_global_zero:
            add_metrics(self.folder, {**found, "step": trainer.global_step})
            columns, rows = table(found)
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=trainer.global_step)
                if isinstance(logger, WandbLogger):
                    logger.log_table("generation_metrics", columns, rows, step=trainer.global_step)
        return judged.scores
