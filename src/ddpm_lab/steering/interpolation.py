"""Images between two images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ddpm_lab.diffusion.coefficients import times_of
from ddpm_lab.errors import UserError
from ddpm_lab.samplers.interpolation import slerp
from ddpm_lab.samplers.sampler import Sampler
from ddpm_lab.steering.job import Job, Outcome, numbers, sheet, whole
from ddpm_lab.wording import counted


def fractions(columns: int) -> list[float]:
    """Lambda from 0 to 1 in so many columns. Raises ValueError for fewer than two."""
    whole("task.columns", columns, 2)
    return [k / (columns - 1) for k in range(columns)]


def captions(fractions: list[float]) -> list[str]:
    """The fractions as names of columns."""
    return [f"{fraction:g}" for fraction in fractions]


def pairs_of_sources(job: Job) -> tuple[Tensor, Tensor]:
    """n pairs of neighbouring images, both [n, C, H, W]."""
    sources, _ = job.sources(2 * job.n)
    return sources[0::2], sources[1::2]


class Interpolate:
    """Ho et al. 2020, section 4.3 and figure 9: diffuse both to depth t, mix them, denoise the mixture.

    Both images and all mixtures share their noise, so that a mixture has as much of it as any x_t; the paper keeps the noise of
    either image over all mixtures, and draws another for the other. The deeper, the more is made up, and the less is left.

    t: depths in timesteps, 0 (mixed pixels) to T; null takes nine from 0 to T. Each becomes the nearest stage of the sampler's
    walk. columns: how many lambda from 0 to 1.
    """

    name = "interpolate"

    def __init__(self, t: Sequence[float] | float | None, columns: int) -> None:
        self.depths = t
        self.fractions = fractions(columns)

    def __call__(self, job: Job) -> Outcome:
        """For each pair a row for each depth."""
        stages = _stages(job, self.depths)
        first, second = pairs_of_sources(job)
        labels = job.labels_of(job.n, None)
        job.expect(len(stages) * len(self.fractions) * job.n)
        noise = job.noise(*range(job.n))
        rows = []
        for stage in stages:
            t = times_of([stage])[0]
            x, x_ = (job.samples.denoiser.process.diffuse(image, t, noise) for image in (first, second))
            mixed = [job.walk((1 - fraction) * x + fraction * x_, labels, start=stage) for fraction in self.fractions]
            rows.append(torch.stack([first, *mixed, second], 1))  # [n, columns, C, H, W]
        grid = torch.stack(rows, 1)  # [n, depths, columns, C, H, W]
        names = ["source", *captions(self.fractions), "source"]
        beside = [f"t = {stage:g}" for stage in stages] * job.n
        return _outcome(job, grid, labels, names, beside, "mixed at depth t, lambda from 0 to 1", len(stages))


class InterpolateLatents:
    """Song et al. 2021, section 5.3: the latents of DDIM, spherically interpolated and decoded.

    encode: the latents of pairs of images; false: of the seed's noise. columns: how many fractions from 0 to 1.
    Needs a sampler without noise, and to encode one with `invert`: sampler=ddim with sampler.eta=0.
    """

    name = "interpolate_latents"

    def __init__(self, encode: bool, columns: int) -> None:
        self.encode = encode
        self.fractions = fractions(columns)

    def __call__(self, job: Job) -> Outcome:
        """A row for each pair."""
        sampler = job.sampler
        check_deterministic(job, sampler, self.name, self.encode)
        labels = job.labels_of(job.n, None) if self.encode else job.samples.labels(range(job.n))
        ends: tuple[Tensor, ...] = ()
        start = None
        if self.encode:
            ends = pairs_of_sources(job)
            latents = [encode(job, sampler, image, labels) for image in ends]
            start = sampler.times(job.process)[-1]  # wherever that is
        else:
            latents = [job.noise(*range(k, 2 * job.n, 2)) for k in (0, 1)]
        job.expect(len(self.fractions) * job.n)
        decoded = [
            job.walk(slerp(latents[0], latents[1], fraction), labels, start=start) for fraction in self.fractions
        ]
        columns = [ends[0], *decoded, ends[1]] if self.encode else decoded
        sides = ["source"] if self.encode else []
        names = [*sides, *captions(self.fractions), *sides]
        grid = torch.stack(columns, 1)[:, None]
        return _outcome(job, grid, labels, names, [], "spherical interpolation of DDIM latents", 1)


def check_deterministic(job: Job, sampler: Sampler, task: str, encodes: bool) -> None:
    """Raise ValueError unless the sampler draws no noise, so that latents stand for images, and can encode where asked to."""
    name = type(sampler).__name__
    if encodes and not hasattr(sampler, "invert"):
        raise UserError(f"task={task} encodes images, and {name} has no `invert`: set sampler=ddim sampler.eta=0")
    if job.draws_noise(sampler):
        raise UserError(
            f"task={task} needs a walk without noise, and {name} draws some: set sampler=ddim sampler.eta=0"
        )


def encode(job: Job, sampler: Any, images: Tensor, labels: Tensor | None) -> Tensor:
    """Latents of images, batch by batch, on the CPU, by a sampler that has `invert`."""
    device, done = job.samples.device, []
    for first in range(0, len(images), job.batch_size):
        rows = slice(first, first + job.batch_size)
        y = None if labels is None else labels[rows].to(device)
        done.append(sampler.invert(job.samples.denoiser, images[rows].to(device), y).cpu())
    return torch.cat(done)


def _stages(job: Job, depths: Sequence[float] | float | None) -> list[float]:
    if depths is None:
        depths = [k * job.T / 8 for k in range(9)]
    depths = numbers("task.t", depths, 0, job.T)
    return list(dict.fromkeys(job.sampler.nearest(job.process, t) for t in depths))


def _outcome(
    job: Job, grid: Tensor, labels: Tensor | None, columns: list[str], rows: list[str], what: str, depths: int
) -> Outcome:
    y = None if labels is None else labels.repeat_interleave(depths * len(columns))
    images = grid.flatten(0, 2)
    return Outcome(
        images,
        y,
        sheet(images, f"{what}: {job.caption}", columns, rows),
        f"{counted(job.n, 'pair')}, {counted(len(images), 'image')}",
    )
