"""The variance of p(x_s | x_t).

A variance says how many heads the network needs (1, or 2 when it returns raw variances too) and turns the raw head
[B, C, H, W] (None for fixed ones) into the log-variance of a step from x_t, which broadcasts over x_t.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ddpm_lab.diffusion.coefficients import Transition, append_dims
from ddpm_lab.errors import UserError


class Variance(Protocol):
    """See the head of this file."""

    heads: int

    def log_variance(  # noqa: D102
        self, raw: Tensor | None, step: Transition, x_t: Tensor
    ) -> Tensor: ...

    def variance(self, raw: Tensor | None, step: Transition, x_t: Tensor) -> Tensor:
        """exp(log_variance), but for variances whose logarithm is another's where they are 0."""
        return self.log_variance(raw, step, x_t).exp()


class FixedSmall(Variance):
    """beta~_{t|s}: right where every x_0 is one point (Ho et al. 2020, section 3.2)."""

    heads = 1

    def log_variance(self, raw: Tensor | None, step: Transition, x_t: Tensor) -> Tensor:
        """Log beta~, [B, 1, 1, 1]."""
        return append_dims(step.log_beta_tilde, x_t)

    def variance(self, raw: Tensor | None, step: Transition, x_t: Tensor) -> Tensor:
        """beta~, [B, 1, 1, 1]: 0 at s = 0."""
        return torch.where(append_dims(step.s.t, x_t) > 0, super().variance(raw, step, x_t), 0.0)


class FixedLarge(Variance):
    """beta_{t|s}: right where x_0 is standard normal; at s = 0 the clipped beta~, as the public code has it."""

    heads = 1

    def log_variance(self, raw: Tensor | None, step: Transition, x_t: Tensor) -> Tensor:
        """Log beta, [B, 1, 1, 1]."""
        return append_dims(torch.where(step.s.t == 0, step.log_beta_tilde, step.log_beta), x_t)


class Learned(Variance):
    """The raw head is the log-variance itself (Ho et al. 2020, table 2), whatever the stride."""

    heads = 2

    def log_variance(self, raw: Tensor | None, step: Transition, x_t: Tensor) -> Tensor:
        """Raw, [B, C, H, W]."""
        return _required(raw, self)


class LearnedRange(Variance):
    """The raw head v interpolates between the bounds (Nichol & Dhariwal 2021, equation 15).

    log Sigma = f log beta + (1 - f) log beta~, with f = (v + 1) / 2, so that v lies about in [-1, 1].
    """

    heads = 2

    def log_variance(self, raw: Tensor | None, step: Transition, x_t: Tensor) -> Tensor:
        """The interpolation, [B, C, H, W]."""
        lower, upper = append_dims(step.log_beta_tilde, x_t), append_dims(step.log_beta, x_t)
        fraction = (_required(raw, self) + 1) / 2
        return fraction * upper + (1 - fraction) * lower


def _required(raw: Tensor | None, variance: Variance) -> Tensor:
    if raw is None:
        raise UserError(f"{type(variance).__name__} needs the network's second head of raw variances, and got none")
    return raw
