"""What the network's output means. Only the Denoiser asks.

A prediction is an object with three methods; output, x_0, x_t and noise are [B, C, H, W], t is [B]:
    target(process, x_0, noise, t)   what the network should return
    x_0(process, output, x_t, t)     the image that an output stands for; in sampling t is one integer (tables.py)
    scale(process, t)                [B] float64: mean squared error of the output / mean squared error of its x_0
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.tables import Times, combine, reciprocal


class Prediction(Protocol):
    """See the head of this file."""

    def target(self, process: Process, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor: ...  # noqa: D102

    def x_0(self, process: Process, output: Tensor, x_t: Tensor, t: Times) -> Tensor: ...  # noqa: D102

    def scale(self, process: Process, t: Tensor) -> Tensor: ...  # noqa: D102


class Epsilon:
    """The network predicts the noise: x_0 = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t) (Ho et al., eq. 15).

    Where a schedule ends in pure noise (alpha_bar_T = 0) the noise says nothing of x_0; the estimate there is 0, the
    centre of the data's range.
    """

    def target(self, process: Process, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Eps."""
        return noise

    def x_0(self, process: Process, output: Tensor, x_t: Tensor, t: Times) -> Tensor:
        """x_0 from eps."""
        signal, noise = process.scales(t)
        of_x_t = reciprocal(signal)
        return combine(of_x_t, x_t, -of_x_t * noise, output)

    def scale(self, process: Process, t: Tensor) -> Tensor:
        """SNR."""
        return process.snr(t)


class Start:
    """The network predicts x_0 itself."""

    def target(self, process: Process, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_0."""
        return x_0

    def x_0(self, process: Process, output: Tensor, x_t: Tensor, t: Times) -> Tensor:
        """The output."""
        return output

    def scale(self, process: Process, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(process.snr(t))


class Velocity:
    """The network predicts v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 (Salimans & Ho 2022, section 4)."""

    def target(self, process: Process, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """v."""
        of_noise, of_x_0 = process.scales(t)
        return combine(of_noise, noise, -of_x_0, x_0)

    def x_0(self, process: Process, output: Tensor, x_t: Tensor, t: Times) -> Tensor:
        """x_0 = sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) v."""
        of_x_t, of_output = process.scales(t)
        return combine(of_x_t, x_t, -of_output, output)

    def scale(self, process: Process, t: Tensor) -> Tensor:
        """SNR + 1 = 1 / (1 - alpha_bar_t)."""
        return process.snr(t) + 1


class PreviousMean:
    """The network predicts mu~, the mean of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, equation 8)."""

    def target(self, process: Process, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """mu~_t(x_t, x_0)."""
        return process.posterior_mean(x_0, process.diffuse(x_0, t, noise), t, t - 1)

    def x_0(self, process: Process, output: Tensor, x_t: Tensor, t: Times) -> Tensor:
        """x_0 = (mu~ - c_t x_t) / c_0 with equation 7's weights."""
        of_x_0, of_x_t = process.posterior_coefficients(t, t - 1)
        return combine(1 / of_x_0, output, -of_x_t / of_x_0, x_t)

    def scale(self, process: Process, t: Tensor) -> Tensor:
        """The square of x_0's weight in mu~."""
        return process.posterior_coefficients(t, t - 1)[0] ** 2
