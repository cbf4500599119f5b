"""The one place that knows what the network's output means: everything after the network sees a Denoiser."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddpm_lab.diffusion.gaussian import Gaussian
from ddpm_lab.diffusion.predictions import Prediction
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.tables import Times, combine, of_batch
from ddpm_lab.diffusion.variances import Variance
from ddpm_lab.errors import UserError, form


class Shift(NamedTuple):
    """How a gradient has moved an estimate. x_0: before that. gradient: of log p(y | x_t), scaled. Both [B, C, H, W]."""

    x_0: Tensor
    gradient: Tensor


class Estimate(NamedTuple):
    """What one network call says about x_0; every tensor [B, C, H, W].

    output: the network's first head. x_0: the image it stands for. noise: the noise that leads from x_0 to x_t.
    raw_variance: the second head, None for fixed variances. shift: None unless a gradient has moved x_0 and noise.
    """

    output: Tensor
    x_0: Tensor
    noise: Tensor
    raw_variance: Tensor | None
    shift: Shift | None = None


def network_time(t: Times, time_scale: float, x_t: Tensor) -> Tensor:
    """(t - 1) * time_scale [B], what a network of noisy images x_t [B, ...] is told of t in 1..T.

    Published checkpoints count timesteps from 0: this "- 1" stands nowhere else. Half precision has too few digits to tell
    4000 timesteps apart, so that the result is at least float32.
    """
    dtype = torch.promote_types(x_t.dtype, torch.float32)
    time = of_batch(t - 1, x_t, dtype)
    return time if time_scale == 1 else time * time_scale


class Denoiser(nn.Module):
    """p(x_s | x_t), built from a network and the meaning of its output.

    network: (x [B, C, H, W], time [B], y [B] or None) -> [B, heads * C, H, W]; see network_time.
    time_scale: 1000 / T is the public code's "rescale_timesteps".
    """

    def __init__(
        self, network: nn.Module, process: Process, prediction: Prediction, variance: Variance, time_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.network = network
        self.process = process
        self.prediction = prediction
        self.variance = variance
        self.time_scale = time_scale

    def with_network(self, network: nn.Module) -> Denoiser:
        """The same denoiser around another network."""
        return Denoiser(network, self.process, self.prediction, self.variance, self.time_scale)

    def estimate(self, x_t: Tensor, t: Times, y: Tensor | None = None, *, clip: bool) -> Estimate:
        """Call the network once. x_t: [B, C, H, W]; t: integers in 1..T, [B] or one for all; y: [B] labels.

        clip: clamp x_0 to [-1, 1]; the noise, and the mean in `step`, follow from the clipped x_0.
        """
        output, raw_variance = self.outputs(x_t, t, y)
        x_0 = self.prediction.x_0(self.process, output, x_t, t)
        if clip:
            x_0 = x_0.clamp(-1, 1)
        return Estimate(output, x_0, self.noise(x_0, x_t, t), raw_variance)

    def outputs(self, x_t: Tensor, t: Times, y: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The network's output [B, C, H, W] and its raw variance, None for fixed ones; arguments as of `estimate`."""
        channels = x_t.shape[1]
        time = network_time(t, self.time_scale, x_t)
        # Mixed precision ends here: what follows needs the precision of x_t.
        output = self.network(x_t, time, y)
        if not isinstance(output, Tensor) or output.shape[:1] + output.shape[2:] != x_t.shape[:1] + x_t.shape[2:]:
            raise UserError(
                f"{type(self.network).__name__} must return a tensor [B, heads * C, H, W] for images [B, C, H, W] = "
                f"{list(x_t.shape)}, and returned {form(output)}"
            )
        output = output.to(x_t.dtype)
        if output.shape[1] != self.variance.heads * channels:
            raise UserError(
                f"{type(self.variance).__name__} needs a network with {self.variance.heads * channels} output channels "
                f"for images of {channels}, and this one returned {output.shape[1]}; set its out_channels"
            )
        return (output, None) if self.variance.heads == 1 else (output[:, :channels], output[:, channels:])

    def noise(self, x_0: Tensor, x_t: Tensor, t: Times) -> Tensor:
        """The noise that leads from x_0 to x_t: (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t)."""
        of_x_0, of_noise = self.process.scales(t)
        return combine(1 / of_noise, x_t, -of_x_0 / of_noise, x_0)

    def step(self, estimate: Estimate, x_t: Tensor, t: Times, s: Times, above: Times | None = None) -> Gaussian:
        """p(x_s | x_t) for any s < t, without a network call: q(x_s | x_t, x_0) at the estimated x_0.

        above: the timestep from which the walk came to t; see Process.log_variance_bounds.
        """
        mean = self.process.posterior_mean(estimate.x_0, x_t, t, s)
        log_variance = self.variance.log_variance(self.process, estimate.raw_variance, x_t, t, s, above)
        return Gaussian(mean, log_variance.expand_as(mean))
