"""Progressive generation: what a sampler believes the image to be, at every stage of its walk."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from ddpm_lab.evaluation.generation import Samples
from ddpm_lab.pictures import FRAME, captioned, grid
from ddpm_lab.samplers.spacings import pairs
from ddpm_lab.seeds import ImageNoise


@torch.no_grad()
def progressive(samples: Samples, indices: Sequence[int], columns: int) -> tuple[Tensor, list[int]]:
    """Estimates of x_0 [len(indices), columns, C, H, W] along the walk of these images, and their timesteps.

    Evenly spaced over the walk, from pure noise to the image itself, whose timestep is 0; fewer columns for shorter walks
    (Ho et al. 2020, section 4.3 and figure 6).
    """
    denoiser, sampler = samples.denoiser, samples.sampler
    y = samples.labels(indices)
    y = y if y is None else y.to(samples.device)
    noise = ImageNoise(samples.seed, indices, samples.device)
    x_T = noise.normal(*samples.shape)
    walked = pairs(sampler.timesteps(denoiser.process.T))
    places = [walked[0][0], *(s for _, s in walked)]  # where x stands after every step
    shown = set(torch.linspace(0, len(places) - 1, min(columns, len(places))).round().int().tolist())
    estimates, timesteps = [], []
    for i, x in enumerate(chain([x_T], sampler.walk(denoiser, x_T, y, noise))):
        if i in shown:
            t = torch.full((len(indices),), places[i], device=samples.device)
            estimates.append(denoiser.estimate(x, t, y, clip=sampler.clip).x_0 if places[i] else x)
            timesteps.append(places[i])
    return torch.stack(estimates, 1).cpu(), timesteps


def progressive_strip(samples: Samples, caption: str, path: Path, images: int = 8, columns: int = 11) -> None:
    """Write the strip as a PNG: a row for each image, a column for each stage."""
    estimates, timesteps = progressive(samples, range(images), columns)
    scale = max(1, round(56 / estimates.shape[-1]))
    sheet = grid(estimates.flatten(0, 1), len(timesteps), scale)
    width = estimates.shape[-1] * scale + FRAME
    names = [(k * width + FRAME, f"t = {t}" if t else "image") for k, t in enumerate(timesteps)]
    captioned(sheet, caption, names).save(path)
