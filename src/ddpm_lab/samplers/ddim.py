"""Denoising diffusion implicit models (Song, Meng & Ermon 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.tables import combine
from ddpm_lab.errors import UserError
from ddpm_lab.samplers.sampler import RandnLike, Sampler
from ddpm_lab.samplers.spacings import Spacing


class DDIM(Sampler):
    """eta = 0: deterministic; eta = 1: as random as ancestral sampling with variance fixed_small (equation 16)."""

    def __init__(
        self, steps: int | None = None, eta: float = 0.0, spacing: Spacing = "uniform", clip: bool = True
    ) -> None:
        super().__init__(steps, spacing, clip)
        if not 0 <= eta <= 1:
            raise UserError(
                f"eta scales the noise from none (0) to that of ancestral sampling (1), got {eta}; take 0 to 1"
            )
        self.eta = eta

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
        """Equation 12."""
        alpha_bar_t, alpha_bar_s = denoiser.process.alpha_bar_at(t), denoiser.process.alpha_bar_at(s)
        sigma = self.eta * ((1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s)) ** 0.5
        x = self._line(denoiser, x, y, t, alpha_bar_s, sigma)
        return x + sigma * randn_like(x) if sigma > 0 else x

    @torch.no_grad()
    def invert(self, denoiser: Denoiser, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Encode images [B, C, H, W]: the deterministic line followed upwards to the walk's last timestep (section 4.3).

        The image stands for x at the walk's first timestep, where the network can be asked, as in the public code.
        `DDIM(steps, eta=0)(denoiser, latent)` decodes.
        """
        latent = x
        for latent in self.walk_up(denoiser, x, y):  # noqa: B007
            pass
        return latent

    @torch.no_grad()
    def walk_up(self, denoiser: Denoiser, x: Tensor, y: Tensor | None = None) -> Iterator[Tensor]:
        """Yield x after every step of `invert`."""
        chosen = self.timesteps(denoiser.process.T)
        for t, s in pairwise(chosen):
            x = self._line(denoiser, x, y, t, denoiser.process.alpha_bar_at(s), sigma=0.0)
            yield x

    def _line(
        self, denoiser: Denoiser, x: Tensor, y: Tensor | None, t: int, alpha_bar_s: float, sigma: float
    ) -> Tensor:
        """sqrt(alpha_bar_s) x_0 + sqrt(1 - alpha_bar_s - sigma^2) eps: equation 12 without its noise."""
        estimate = denoiser.estimate(x, t, y, clip=self.clip)
        of_noise = max(1 - alpha_bar_s - sigma**2, 0.0) ** 0.5
        return combine(alpha_bar_s**0.5, estimate.x_0, of_noise, estimate.noise)
