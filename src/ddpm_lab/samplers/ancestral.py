"""Ancestral sampling: draw x_s ~ p(x_s | x_t), step by step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.samplers.sampler import RandnLike, Sampler
from ddpm_lab.samplers.spacings import pairs


class Ancestral(Sampler):
    """Algorithm 2 of Ho et al. 2020; strided as in Nichol & Dhariwal 2021, section 4."""

    @torch.no_grad()
    def walk(
        self, denoiser: Denoiser, x: Tensor, y: Tensor | None = None, randn_like: RandnLike = torch.randn_like
    ) -> Iterator[Tensor]:
        """Yield x after every step; no noise is added by the last."""
        for t, s in pairs(self.timesteps(denoiser.process.T)):
            now, next_ = (torch.full((len(x),), time, device=x.device) for time in (t, s))
            p = denoiser.step(denoiser.estimate(x, now, y, clip=self.clip), x, now, next_)
            x = p.sample(randn_like(x)) if s > 0 else p.mean
            yield x
