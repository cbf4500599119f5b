"""Denoising diffusion implicit models (Song, Meng & Ermon 2021, arXiv 2010.02502)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ddpm_lab.diffusion.coefficients import Level, Transition, affine, levels_of, times_of
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.errors import UserError
from ddpm_lab.samplers.sampler import RandnLike, Sampler, Step
from ddpm_lab.samplers.spacings import Spacing


class DDIM(Sampler):
    """eta = 0: deterministic; eta = 1: as random as ancestral sampling with variance fixed_small (equation 16)."""

    def __init__(
        self,
        steps: int | None = None,
        eta: float = 0.0,
        spacing: Spacing = "uniform",
        clip: bool = True,
        times: Sequence[float] | None = None,
    ) -> None:
        super().__init__(steps, spacing, clip, times)
        if not 0 <= eta <= 1:
            raise UserError(
                f"eta scales the noise from none (0) to that of ancestral sampling (1), got {eta}; take 0 to 1"
            )
        self.eta = eta

    @property
    def deterministic(self) -> bool:
        """Without noise."""
        return self.eta == 0

    def begin(self, denoiser: Denoiser, y: Tensor | None, randn_like: RandnLike) -> Step:
        """Equation 12."""

        def step(x: Tensor, to: Transition) -> Tensor:
            if self.eta == 0:
                return self._line(denoiser, x, y, to.t, to.s)
            variance = self.eta**2 * (1 - to.s.alpha_bar) / (1 - to.t.alpha_bar) * to.beta
            x = self._line(denoiser, x, y, to.t, to.s, variance)
            return x + variance.sqrt() * randn_like(x) if variance > 0 else x

        return step

    @torch.no_grad()
    def invert(self, denoiser: Denoiser, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Encode images [B, C, H, W]: the deterministic line followed upwards to the walk's last time (section 4.3).

        The image stands for x at the walk's first time, where the network can be asked, as in the public code.
        `DDIM(steps, eta=0)(denoiser, latent)` decodes.
        """
        latent = x
        for _, latent in self.walk_up(denoiser, x, y):  # noqa: B007
            pass
        return latent

    @torch.no_grad()
    def walk_up(self, denoiser: Denoiser, x: Tensor, y: Tensor | None = None) -> Iterator[tuple[float, Tensor]]:
        """Yield (s, x_s) after every step of `invert`."""
        chosen = self.times(denoiser.process)
        for here, there in pairwise(levels_of(denoiser.process.at(times_of(chosen)))):
            x = self._line(denoiser, x, y, here, there)
            yield there.t.item(), x

    def _line(
        self, denoiser: Denoiser, x: Tensor, y: Tensor | None, t: Level, s: Level, variance: Tensor | None = None
    ) -> Tensor:
        """sqrt(alpha_bar_s) x_0 + sqrt(1 - alpha_bar_s - sigma^2) eps: equation 12 without its noise."""
        estimate = denoiser.estimate(x, t, y, clip=self.clip)
        of_noise = s.noise if variance is None else (1 - s.alpha_bar - variance).clamp(min=0).sqrt()
        return affine(s.signal, estimate.x_0, of_noise, estimate.noise)
