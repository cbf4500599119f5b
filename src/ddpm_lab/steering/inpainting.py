"""Inpainting of real images."""

from __future__ import annotations

import torch

from ddpm_lab.diffusion.guidance import Inpainted
from ddpm_lab.samplers.repaint import RePaint
from ddpm_lab.steering.job import Job, Outcome, rmse, sheet, whole
from ddpm_lab.steering.masks import read_mask
from ddpm_lab.wording import counted

GREY = 0.0  # of what is unknown, in the picture


class Inpaint:
    """Paints what a mask leaves unknown of n images, several times each (Lugmayr et al. 2022).

    mask: a name of masks.py, or a picture's file. fillings: of each image. jump_length, resamples: of `RePaint`; resamples=1 is
    plain replacement, whose parts need not agree.
    """

    name = "inpaint"

    def __init__(self, mask: str, fillings: int, jump_length: int, resamples: int) -> None:
        self.mask = mask
        self.fillings = whole("task.fillings", fillings, 1)
        self.jump_length = whole("task.jump_length", jump_length, 1)
        self.resamples = whole("task.resamples", resamples, 1)

    def _walk(self) -> str:
        return "" if self.resamples == 1 else f"RePaint ({self.jump_length} x {self.resamples}), "

    def __call__(self, job: Job) -> Outcome:
        """A row for each image: itself, what is known of it, and its fillings."""
        _, H, W = job.samples.shape
        mask = read_mask(str(self.mask), H, W, job.samples.seed)[None, None]  # [1, 1, H, W]
        sampler = job.sampler
        if self.resamples > 1:
            sampler = RePaint(sampler, self.jump_length, self.resamples)
            sampler.places(len(sampler.times(job.process)))  # says so if the walk is too short for its jumps
        sources, of_sources = job.sources(job.n)
        labels = job.labels_of(job.n, of_sources)
        known = sources.repeat_interleave(self.fillings, 0)
        y = None if labels is None else labels.repeat_interleave(self.fillings)
        job.expect(len(known))
        device = job.samples.device
        images = job.walk(
            job.noise(*range(len(known))),
            y,
            sampler=sampler,
            around=lambda denoiser, rows: Inpainted(denoiser, known[rows].to(device), mask.to(device)),
        )
        shown = torch.where(mask, sources, GREY)
        rows = torch.cat([sources[:, None], shown[:, None], images.unflatten(0, (job.n, -1))], 1)
        names = ["image", "known", *["painted"] * self.fillings]
        unknown = (~mask).expand_as(images)
        error = rmse(images[unknown].view(len(images), -1), known[unknown].view(len(images), -1))
        kept = torch.equal(images[~unknown], known[~unknown])
        return Outcome(
            images,
            y,
            sheet(rows.flatten(0, 1), f"inpainting, mask {self.mask}: {self._walk()}{job.caption}", names, []),
            f"{counted(self.fillings, 'filling')} of {counted(job.n, 'image')}; known pixels "
            f"{'are' if kept else 'are NOT'} as they were, painted ones differ from the image's own by {error.mean():.1f} grey "
            "levels (RMSE)",
            {"rmse_of_painted": error.mean().item(), "known_pixels_equal": kept},
            {"source": sources, "mask": mask[0, 0]},
        )
