"""Exactly n images, the same ones at any batch size and any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.samplers.sampler import Sampler
from ddpm_lab.seeds import ImageNoise


@torch.inference_mode()
def generate(
    denoiser: Denoiser,
    sampler: Sampler,
    shape: Sequence[int],
    indices: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    labels: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """Yield batches of images [b, C, H, W] in about [-1, 1]: those of `seed` whose numbers are `indices`, in their order.

    They are inference tensors: what is to be changed in place, or differentiated, must be cloned.

    shape: (C, H, W). labels: [len(indices)] or None. A rank r of W asks for the indices r, r + W, r + 2 W, ….
    """
    for start in range(0, len(indices), batch_size):
        noise = ImageNoise(seed, indices[start : start + batch_size], device)
        y = None if labels is None else labels[start : start + batch_size].to(device)
        yield sampler(denoiser, noise.normal(*shape), y, noise)
