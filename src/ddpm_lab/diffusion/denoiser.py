"""The one place that knows what the network's output means: everything after the network sees a Denoiser."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ddpm_lab.diffusion.coefficients import Level, Transition, affine, as_batch
from ddpm_lab.diffusion.gaussian import Gaussian
from ddpm_lab.diffusion.predictions import Prediction
from ddpm_lab.diffusion.process import GaussianPath, Time
from ddpm_lab.diffusion.variances import Variance
from ddpm_lab.errors import UserError, form


class GuidanceShift(NamedTuple):
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
    shift: GuidanceShift | None = None


class NetworkInput(Protocol):
    """What a network is shown of noisy images x_t [B, C, H, W]: an input of their shape, and a time [B]."""

    def __call__(self, process: GaussianPath, x_t: Tensor, level: Level) -> tuple[Tensor, Tensor]: ...  # noqa: D102


class CountedTime:
    """x_t itself, and the time (t - 1) * time_scale.

    Published checkpoints count timesteps from 0: this "- 1" stands nowhere else. Half precision has too few digits to tell
    4000 timesteps apart, so that the time is at least float32. time_scale: 1000 / T is the public code's "rescale_timesteps".
    """

    def __init__(self, time_scale: float = 1.0) -> None:
        self.time_scale = time_scale

    def __call__(self, process: GaussianPath, x_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """The images, and [B]."""
        time = as_batch(level.t - 1, x_t, torch.promote_types(x_t.dtype, torch.float32))
        return x_t, time if self.time_scale == 1 else time * self.time_scale


class Denoiser(nn.Module):
    """p(x_s | x_t), built from a network and the meaning of its output.

    network: (x [B, C, H, W], time [B], y [B] or None) -> [B, heads * C, H, W].
    time_scale: of CountedTime, which it is shown where no other `shown` is given.
    """

    def __init__(
        self,
        network: nn.Module,
        process: GaussianPath,
        prediction: Prediction,
        variance: Variance,
        time_scale: float = 1.0,
        shown: NetworkInput | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.process = process
        self.prediction = prediction
        self.variance = variance
        self.shown = CountedTime(time_scale) if shown is None else shown

    def with_network(self, network: nn.Module) -> Denoiser:
        """The same denoiser around another network."""
        return Denoiser(network, self.process, self.prediction, self.variance, shown=self.shown)

    def estimate(self, x_t: Tensor, t: Time, y: Tensor | None = None, *, clip: bool) -> Estimate:
        """Call the network once. x_t: [B, C, H, W]; t: in (0, T], [B] or [] for all; y: [B] labels.

        clip: clamp x_0 to [-1, 1]; the noise, and the mean in `step`, follow from the clipped x_0.
        """
        level = self.process.at(t)
        output, raw_variance = self.outputs(x_t, level, y)
        x_0 = self.prediction.x_0(self.process, output, x_t, level)
        if clip:
            x_0 = x_0.clamp(-1, 1)
        return Estimate(output, x_0, self.noise(x_0, x_t, level), raw_variance)

    def outputs(self, x_t: Tensor, t: Time, y: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The network's output [B, C, H, W] and its raw variance, None for fixed ones; arguments as of `estimate`."""
        channels = x_t.shape[1]
        output = self.network(*self.shown(self.process, x_t, self.process.at(t)), y)
        if not isinstance(output, Tensor) or output.shape[:1] + output.shape[2:] != x_t.shape[:1] + x_t.shape[2:]:
            raise UserError(
                f"{type(self.network).__name__} must return a tensor [B, heads * C, H, W] for images [B, C, H, W] = "
                f"{list(x_t.shape)}, and returned {form(output)}"
            )
        output = output.to(x_t.dtype)  # mixed precision ends here: what follows needs the precision of x_t
        if output.shape[1] != self.variance.heads * channels:
            raise UserError(
                f"{type(self.variance).__name__} needs a network with {self.variance.heads * channels} output channels "
                f"for images of {channels}, and this one returned {output.shape[1]}; set its out_channels"
            )
        return (output, None) if self.variance.heads == 1 else (output[:, :channels], output[:, channels:])

    def noise(self, x_0: Tensor, x_t: Tensor, t: Time) -> Tensor:
        """The noise that leads from x_0 to x_t: (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t)."""
        level = self.process.at(t)
        return affine(level.noise.reciprocal(), x_t, -level.signal / level.noise, x_0)

    def step(self, estimate: Estimate, x_t: Tensor, t: Time, s: Time, previous: Tensor | None = None) -> Gaussian:
        """p(x_s | x_t) for any s < t, without a network call: q(x_s | x_t, x_0) at the estimated x_0.

        previous: the time from which the walk came to t; see GaussianPath.log_variance_bounds.
        """
        return self.reverse(estimate, x_t, self.process.transition(t, s, previous))

    def reverse(self, estimate: Estimate, x_t: Tensor, step: Transition) -> Gaussian:
        """As `step`, of a transition whose coefficients are known."""
        mean = affine(step.of_x_0, estimate.x_0, step.of_x_t, x_t)
        log_variance = self.variance.log_variance(estimate.raw_variance, step, x_t)
        return Gaussian(mean, log_variance.expand_as(mean) if log_variance.dim() else log_variance)
