"""Grids of samples while a model trains, and beside real images at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from ddpm_lab.callbacks.periodic import Periodic
from ddpm_lab.callbacks.pictures import log_picture
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.errors import UserError
from ddpm_lab.pictures import LIGHT, panels, save_npz
from ddpm_lab.samplers.generate import generate
from ddpm_lab.samplers.sampler import Sampler
from ddpm_lab.training.diffusion import Diffusion, evaluating
from ddpm_lab.training.say import say

MOST_COLUMNS = 16


class SampleGrid(Periodic):
    """Every `every` steps, raw and averaged weights side by side from the same noise; at the end, samples beside real data.

    every: optimizer steps, 0 for the end alone. Writes samples/step_….png, and samples.png and .npz at the end. All ranks
    draw their share of the n images; image k of a class-conditional model has label k modulo the number of classes, and each
    of up to 16 classes a column, of the real images too. Where there is no average, the raw weights stand alone.

    Raises ValueError for numbers that make no sense.
    """

    def __init__(self, folder: str, sampler: Sampler, n: int, every: int, seed: int = 0) -> None:
        if n < 1 or every < 0:
            raise UserError(
                f"callbacks.sample_grid needs n of at least 1 image and every >= 0 (0: at the end alone), got n={n} and "
                f"every={every}"
            )
        self.folder = Path(folder)
        self.sampler = sampler
        self.n = n
        self.every = every
        self.seed = seed

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Refuse a sampler that does not fit the process, before anything is trained."""
        assert isinstance(pl_module, Diffusion)
        self.sampler.times(pl_module.denoiser.process)

    def on_period(self, trainer: lightning.Trainer, module: Diffusion) -> None:
        """Draw and write the grid of this step."""
        step = trainer.global_step
        denoisers = {"raw weights": module.denoiser}
        if len(module.emas):
            denoisers["averaged weights"] = module.averaged()
        drawn = [(f"step {step}: {name}", self._draw(module, d)) for name, d in denoisers.items()]
        if trainer.is_global_zero:
            path = self.folder / "samples" / f"step_{step:08d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            panels(drawn, path, *self._columns(module))
            log_picture(trainer, "samples", path)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw the last grid, beside real images of the test split."""
        assert isinstance(pl_module, Diffusion)
        say(f"drawing {self.n} samples with {type(self.sampler).__name__} …")
        images = self._draw(pl_module, pl_module.averaged())
        if trainer.is_global_zero:
            data = trainer.datamodule  # type: ignore[attr-defined]
            columns, names = self._columns(pl_module)
            path = self.folder / "samples.png"
            real = self._real(data, columns)
            panels(
                [(f"generated, step {trainer.global_step}", images), (f"real {data.name}, test split", real)],
                path,
                columns,
                names,
            )
            save_npz(self.folder / "samples.npz", images, self._labels(pl_module, range(self.n)))
            log_picture(trainer, "samples_and_real", path)

    def _labels(self, module: Diffusion, indices: Sequence[int]) -> Tensor | None:
        """Those of these images, [len(indices)]; None for a model without."""
        classes = module.trainer.datamodule.num_classes  # type: ignore[attr-defined]
        return torch.tensor([k % classes for k in indices]) if module.conditional else None

    def _columns(self, module: Diffusion) -> tuple[int | None, Sequence[str]]:
        """One for each class, where the model has classes and not too many, and their names."""
        data = module.trainer.datamodule  # type: ignore[attr-defined]
        if not module.conditional or data.num_classes > MOST_COLUMNS:
            return None, ()
        return data.num_classes, data.class_names or ()

    def _real(self, data: Any, columns: int | None) -> Tensor:
        """At most n test images; where classes have columns each in that of its class, which ends where those found do."""
        among = len(data.images("test"))
        if columns is None:
            return data.test_images(min(self.n, among), self.seed)[0]
        images, labels = data.test_images(min(4 * self.n, among), self.seed)
        found = torch.full((self.n, *images.shape[1:]), LIGHT / 127.5 - 1)
        for label in range(min(columns, self.n)):
            of_class = images[labels == label][: len(range(label, self.n, columns))]
            found[label : label + columns * len(of_class) : columns] = of_class
        return found

    def _draw(self, module: Diffusion, denoiser: Denoiser) -> Tensor:
        """Images 0..n-1 of the seed, on every rank; rank r of W draws r, r + W, …."""
        trainer = module.trainer
        data = trainer.datamodule  # type: ignore[attr-defined]
        rank, world = trainer.global_rank, trainer.world_size
        shape = (data.channels, data.image_size, data.image_size)
        indices = list(range(rank, self.n, world))
        # Every rank holds equally many rows: the gather needs it, and the surplus is cut off.
        images = torch.zeros(-(-self.n // world), *shape, device=module.device)
        with evaluating(denoiser):
            drawn = generate(
                denoiser,
                self.sampler,
                shape,
                indices,
                seed=self.seed,
                batch_size=data.test_batch_size,
                labels=self._labels(module, indices),
                device=module.device,
            )
            if indices:
                images[: len(indices)] = torch.cat(list(drawn))
        gathered = module.all_gather(images).view(world, -1, *shape)  # type: ignore[union-attr]
        return gathered.transpose(0, 1).reshape(-1, *shape)[: self.n]
