"""What the network's output means. Only the Denoiser asks.

A prediction is an object with three methods; output, x_0, x_t and noise are [B, C, H, W]; level is of x_t:
    target(process, x_0, noise, level)   what the network should return
    x_0(process, output, x_t, level)     the image that an output stands for
    scale(process, level)                float64: mean squared error of the output / mean squared error of its x_0
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ddpm_lab.diffusion.coefficients import Level, affine, reciprocal
from ddpm_lab.diffusion.process import GaussianPath


class Prediction(Protocol):
    """See the head of this file."""

    def target(self, process: GaussianPath, x_0: Tensor, noise: Tensor, level: Level) -> Tensor: ...  # noqa: D102

    def x_0(self, process: GaussianPath, output: Tensor, x_t: Tensor, level: Level) -> Tensor: ...  # noqa: D102

    def scale(self, process: GaussianPath, level: Level) -> Tensor: ...  # noqa: D102


class Epsilon:
    """The network predicts the noise: x_0 = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t) (Ho et al., eq. 15).

    Where a schedule ends in pure noise (alpha_bar_T = 0) the noise says nothing of x_0; the estimate there is 0, the
    centre of the data's range.
    """

    def target(self, process: GaussianPath, x_0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """Eps."""
        return noise

    def x_0(self, process: GaussianPath, output: Tensor, x_t: Tensor, level: Level) -> Tensor:
        """x_0 from eps."""
        of_x_t = reciprocal(level.signal)
        return affine(of_x_t, x_t, -of_x_t * level.noise, output)

    def scale(self, process: GaussianPath, level: Level) -> Tensor:
        """SNR."""
        return level.snr


class Start:
    """The network predicts x_0 itself."""

    def target(self, process: GaussianPath, x_0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """x_0."""
        return x_0

    def x_0(self, process: GaussianPath, output: Tensor, x_t: Tensor, level: Level) -> Tensor:
        """The output."""
        return output

    def scale(self, process: GaussianPath, level: Level) -> Tensor:
        """1."""
        return torch.ones_like(level.snr)


class Velocity:
    """The network predicts v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 (Salimans & Ho 2022, section 4)."""

    def target(self, process: GaussianPath, x_0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """v."""
        return affine(level.signal, noise, -level.noise, x_0)

    def x_0(self, process: GaussianPath, output: Tensor, x_t: Tensor, level: Level) -> Tensor:
        """x_0 = sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) v."""
        return affine(level.signal, x_t, -level.noise, output)

    def scale(self, process: GaussianPath, level: Level) -> Tensor:
        """SNR + 1 = 1 / (1 - alpha_bar_t)."""
        return level.snr + 1


class PreviousMean:
    """The network predicts mu~, the mean of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, equation 8)."""

    def target(self, process: GaussianPath, x_0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """mu~_t(x_t, x_0)."""
        step = process.transition(level, level.t - 1)
        return affine(step.of_x_0, x_0, step.of_x_t, process.diffuse(x_0, level, noise))

    def x_0(self, process: GaussianPath, output: Tensor, x_t: Tensor, level: Level) -> Tensor:
        """x_0 = (mu~ - c_t x_t) / c_0 with equation 7's weights."""
        step = process.transition(level, level.t - 1)
        return affine(1 / step.of_x_0, output, -step.of_x_t / step.of_x_0, x_t)

    def scale(self, process: GaussianPath, level: Level) -> Tensor:
        """The square of x_0's weight in mu~."""
        return process.transition(level, level.t - 1).of_x_0 ** 2
