"""Samplers as people write them for themselves: right by themselves, but not what a task takes for granted."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm_lab.diffusion.denoiser import Denoiser, Estimate
from ddpm_lab.samplers.ddim import DDIM
from ddpm_lab.samplers.sampler import RandnLike, Sampler


def line(denoiser: Denoiser, estimate: Estimate, s: float, noise: Tensor | None = None) -> Tensor:
    """DDIM's move without noise; between two timesteps the table is interpolated."""
    low = int(s)
    alpha_bar = denoiser.process.alpha_bar
    ab = float(torch.lerp(alpha_bar[low], alpha_bar[min(low + 1, denoiser.process.T)], s - low))
    return ab**0.5 * estimate.x_0 + (1 - ab) ** 0.5 * (estimate.noise if noise is None else noise)


class Silent(Sampler):
    """Asks for noise and makes nothing of it."""

    def move(
        self, denoiser: Denoiser, x: Tensor, y: Tensor | None, t: int, s: int, above: int | None, randn_like: RandnLike
    ) -> Tensor:
        return line(denoiser, denoiser.estimate(x, t, y, clip=self.clip), s) + 0.0 * randn_like(x)


class Encoder(Silent):
    """DDIM's inversion beside it."""

    def invert(self, denoiser: Denoiser, x: Tensor, y: Tensor | None = None) -> Tensor:
        return DDIM(self.steps, 0.0, self.spacing, self.clip).invert(denoiser, x, y)


class Past(Sampler):
    """Two steps of Adams and Bashforth: keeps the noise of the step before."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.before: list[Tensor] = []

    def move(
        self, denoiser: Denoiser, x: Tensor, y: Tensor | None, t: int, s: int, above: int | None, randn_like: RandnLike
    ) -> Tensor:
        estimate = denoiser.estimate(x, t, y, clip=self.clip)
        noise = estimate.noise if above is None else 1.5 * estimate.noise - 0.5 * self.before[-1]
        self.before = [estimate.noise]
        return line(denoiser, estimate, s, noise)


class Heun(Sampler):
    """Two questions in each step but the last."""

    def move(
        self, denoiser: Denoiser, x: Tensor, y: Tensor | None, t: int, s: int, above: int | None, randn_like: RandnLike
    ) -> Tensor:
        here = denoiser.estimate(x, t, y, clip=self.clip)
        there = line(denoiser, here, s)
        if s == 0:
            return there
        return (there + line(denoiser, denoiser.estimate(there, s, y, clip=self.clip), s)) / 2


class Own(Sampler):
    """Walks down in strides of three, noisy, wherever it is told to start."""

    def walk(
        self,
        denoiser: Denoiser,
        x: Tensor,
        y: Tensor | None = None,
        randn_like: RandnLike = torch.randn_like,
        *,
        start: int | None = None,
    ) -> Iterator[Tensor]:
        for t in range(denoiser.process.T, 0, -3):
            s = max(t - 3, 0)
            estimate = denoiser.estimate(x, t, y, clip=self.clip)
            x = line(denoiser, estimate, s, randn_like(x))
            yield x

    def move(self, *given: object) -> Tensor:
        raise NotImplementedError
