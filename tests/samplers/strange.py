"""Samplers as people write them for themselves: right by themselves, but not what a task takes for granted."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm_lab.diffusion.coefficients import Level, Transition, affine
from ddpm_lab.diffusion.denoiser import Denoiser, Estimate
from ddpm_lab.samplers.ddim import DDIM
from ddpm_lab.samplers.sampler import RandnLike, Sampler, Step


def line(estimate: Estimate, s: Level, noise: Tensor | None = None) -> Tensor:
    """DDIM's step without noise."""
    return affine(s.signal, estimate.x_0, s.noise, estimate.noise if noise is None else noise)


class Silent(Sampler):
    """Asks for noise and makes nothing of it."""

    def begin(self, denoiser: Denoiser, y: Tensor | None, randn_like: RandnLike) -> Step:
        return lambda x, to: line(denoiser.estimate(x, to.t, y, clip=self.clip), to.s) + 0.0 * randn_like(x)


class Encoder(Silent):
    """DDIM's inversion beside it."""

    def invert(self, denoiser: Denoiser, x: Tensor, y: Tensor | None = None) -> Tensor:
        return DDIM(self.steps, 0.0, self.spacing, self.clip).invert(denoiser, x, y)


class Past(Sampler):
    """Two steps of Adams and Bashforth: remembers the noise of the step before."""

    def begin(self, denoiser: Denoiser, y: Tensor | None, randn_like: RandnLike) -> Step:
        before: list[Tensor] = []

        def step(x: Tensor, to: Transition) -> Tensor:
            estimate = denoiser.estimate(x, to.t, y, clip=self.clip)
            noise = 1.5 * estimate.noise - 0.5 * before.pop() if before else estimate.noise
            before.append(estimate.noise)
            return line(estimate, to.s, noise)

        return step


class Own(Sampler):
    """Walks down in strides of three, noisy, wherever it is told to start."""

    def walk(
        self,
        denoiser: Denoiser,
        x: Tensor,
        y: Tensor | None = None,
        randn_like: RandnLike = torch.randn_like,
        *,
        start: float | None = None,
    ) -> Iterator[tuple[float, Tensor]]:
        for t in range(denoiser.process.T, 0, -3):
            s = max(t - 3, 0)
            estimate = denoiser.estimate(x, torch.tensor(t), y, clip=self.clip)
            x = line(estimate, denoiser.process.at(torch.tensor(s)), randn_like(x))
            yield s, x

    def begin(self, *given: object) -> Step:
        raise NotImplementedError
