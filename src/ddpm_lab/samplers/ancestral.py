"""Ancestral sampling: draw x_s ~ p(x_s | x_t), step by step."""

from __future__ import annotations

from torch import Tensor

from ddpm_lab.diffusion.coefficients import Transition
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.samplers.sampler import RandnLike, Sampler, Step


class Ancestral(Sampler):
    """Algorithm 2 of Ho et al. 2020 (arXiv 2006.11239); strided as in Nichol & Dhariwal 2021 (arXiv 2102.09672), section 4."""

    def begin(self, denoiser: Denoiser, y: Tensor | None, randn_like: RandnLike) -> Step:
        """Draws of p(x_s | x_t), or its mean where s is the image."""

        def step(x: Tensor, to: Transition) -> Tensor:
            p = denoiser.reverse(denoiser.estimate(x, to.t, y, clip=self.clip), x, to)
            return p.sample(randn_like(x)) if to.s.t > 0 else p.mean

        return step
