"""Progressive generation: what a sampler believes the image to be, at every stage of its walk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ddpm_lab.diffusion.coefficients import times_of
from ddpm_lab.evaluation.generation import Samples
from ddpm_lab.pictures import FRAME, captioned, grid
from ddpm_lab.samplers.sampler import Sampler
from ddpm_lab.seeds import ImageNoise


@torch.no_grad()
def progressive(samples: Samples, indices: Sequence[int], columns: int) -> tuple[Tensor, list[float]]:
    """Estimates of x_0 [len(indices), columns, C, H, W] along the walk of these images, and their timesteps.

    Evenly spaced over the walk, from pure noise to the image itself, whose timestep is 0; fewer columns for shorter walks
    (Ho et al. 2020, section 4.3 and figure 6).
    """
    denoiser, sampler = samples.denoiser, samples.sampler
    y = samples.labels(indices)
    y = y if y is None else y.to(samples.device)
    noise = ImageNoise(samples.seed, indices, samples.device)
    x_T = noise.normal(*samples.shape)
    steps = samples.steps
    if type(sampler).walk is not Sampler.walk:  # how long such a walk is, it alone knows
        alone = ImageNoise(samples.seed, indices[:1], samples.device)
        alone.normal(*samples.shape)
        steps = sum(1 for _ in sampler.walk(denoiser, x_T[:1], None if y is None else y[:1], alone))
    shown = set(torch.linspace(0, steps, min(columns, steps + 1)).round().int().tolist())
    estimates, timesteps = [], []
    t, x = sampler.times(denoiser.process)[-1], x_T
    for i, (s, x_s) in enumerate(sampler.walk(denoiser, x_T, y, noise)):
        if i in shown:
            estimates.append(denoiser.estimate(x, times_of([t])[0], y, clip=sampler.clip).x_0)
            timesteps.append(t)
        t, x = s, x_s
    return torch.stack([*estimates, x], 1).cpu(), [*timesteps, 0]


def progressive_strip(samples: Samples, caption: str, path: Path, images: int = 8, columns: int = 11) -> None:
    """Write the strip as a PNG: a row for each image, a column for each stage."""
    estimates, timesteps = progressive(samples, range(images), columns)
    scale = max(1, round(56 / estimates.shape[-1]))
    sheet = grid(estimates.flatten(0, 1), len(timesteps), scale)
    width = estimates.shape[-1] * scale + FRAME
    names = [(k * width + FRAME, f"t = {t:g}" if t else "image") for k, t in enumerate(timesteps)]
    captioned(sheet, caption, names).save(path)
