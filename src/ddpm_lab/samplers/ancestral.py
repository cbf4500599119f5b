"""Ancestral sampling: draw x_s ~ p(x_s | x_t), step by step."""

from __future__ import annotations

from torch import Tensor

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.samplers.sampler import RandnLike, Sampler


class Ancestral(Sampler):
    """Algorithm 2 of Ho et al. 2020; strided as in Nichol & Dhariwal 2021, section 4."""

    def move(
        self,
        denoiser: Denoiser,
        x: Tensor,
        y: Tensor | None,
        t: int,
        s: int,
        above: int | None,
        randn_like: RandnLike,
    ) -> Tensor:
        """A draw of p(x_s | x_t), or its mean where s is the image."""
        p = denoiser.step(denoiser.estimate(x, t, y, clip=self.clip), x, t, s, above)
        return p.sample(randn_like(x)) if s > 0 else p.mean
