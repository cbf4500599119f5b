"""Between two points of latent space."""

from __future__ import annotations

import torch
from torch import Tensor


def slerp(a: Tensor, b: Tensor, fraction: float) -> Tensor:
    """Spherical interpolation of latents [B, C, H, W] (Song et al. 2021, equation 67): each image's as one vector.

    sin((1 - f) theta) / sin(theta) a + sin(f theta) / sin(theta) b, with the angle theta between both. Unlike a straight
    line it keeps the norm that noise has. Parallel latents are interpolated linearly, as the formula tends to.
    """
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()
    cosine = (flat_a * flat_b).sum(1) / (flat_a.norm(dim=1) * flat_b.norm(dim=1))
    theta = torch.arccos(cosine.clamp(-1, 1)).view(-1, *[1] * (a.dim() - 1))
    sine = torch.sin(theta)
    parallel = sine < 1e-6
    of_a = torch.where(parallel, 1 - fraction, torch.sin((1 - fraction) * theta) / sine.clamp(min=1e-6))
    of_b = torch.where(parallel, fraction, torch.sin(fraction * theta) / sine.clamp(min=1e-6))
    return (of_a * a + of_b * b).to(a.dtype)
