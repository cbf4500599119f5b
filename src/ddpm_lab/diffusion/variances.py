"""The variance of p(x_s | x_t).

A variance says how many heads the network needs (1, or 2 when it returns raw variances too) and turns the raw head
[B, C, H, W] (None for fixed ones) into a log-variance that broadcasts over x_t. above: see Process.log_variance_bounds.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.tables import Numbers, Times, choose, expand
from ddpm_lab.errors import UserError


class Variance(Protocol):
    """See the head of this file."""

    heads: int

    def log_variance(  # noqa: D102
        self, process: Process, raw: Tensor | None, x_t: Tensor, t: Times, s: Times, above: Times | None = None
    ) -> Tensor: ...

    def variance(
        self, process: Process, raw: Tensor | None, x_t: Tensor, t: Times, s: Times, above: Times | None = None
    ) -> Tensor:
        """exp(log_variance), but for variances whose logarithm is another's where they are 0."""
        return self.log_variance(process, raw, x_t, t, s, above).exp()


class FixedSmall(Variance):
    """beta~_{t|s}: right where every x_0 is one point (Ho et al. 2020, section 3.2)."""

    heads = 1

    def log_variance(
        self, process: Process, raw: Tensor | None, x_t: Tensor, t: Times, s: Times, above: Times | None = None
    ) -> Tensor:
        """Log beta~, [B, 1, 1, 1]."""
        return _spread(process.log_variance_bounds(t, s, above)[0], x_t)

    def variance(
        self, process: Process, raw: Tensor | None, x_t: Tensor, t: Times, s: Times, above: Times | None = None
    ) -> Tensor:
        """beta~, [B, 1, 1, 1]: 0 at s = 0."""
        return choose(expand(s, x_t) > 0, super().variance(process, raw, x_t, t, s, above), x_t.new_zeros(()))


class FixedLarge(Variance):
    """beta_{t|s}: right where x_0 is standard normal; at s = 0 the clipped beta~, as the public code has it."""

    heads = 1

    def log_variance(
        self, process: Process, raw: Tensor | None, x_t: Tensor, t: Times, s: Times, above: Times | None = None
    ) -> Tensor:
        """Log beta, [B, 1, 1, 1]."""
        lower, upper = process.log_variance_bounds(t, s, above)
        return choose(expand(s, x_t) == 0, _spread(lower, x_t), _spread(upper, x_t))


class Learned(Variance):
    """The raw head is the log-variance itself (Ho et al. 2020, table 2), whatever the stride."""

    heads = 2

    def log_variance(
        self, process: Process, raw: Tensor | None, x_t: Tensor, t: Times, s: Times, above: Times | None = None
    ) -> Tensor:
        """Raw, [B, C, H, W]."""
        return _required(raw, self)


class LearnedRange(Variance):
    """The raw head v interpolates between the bounds (Nichol & Dhariwal 2021, equation 15).

    log Sigma = f log beta + (1 - f) log beta~, with f = (v + 1) / 2, so that v lies about in [-1, 1].
    """

    heads = 2

    def log_variance(
        self, process: Process, raw: Tensor | None, x_t: Tensor, t: Times, s: Times, above: Times | None = None
    ) -> Tensor:
        """The interpolation, [B, C, H, W]."""
        lower, upper = (expand(bound, x_t) for bound in process.log_variance_bounds(t, s, above))
        fraction = (_required(raw, self) + 1) / 2
        return fraction * upper + (1 - fraction) * lower


def _spread(log_variance: Numbers, x_t: Tensor) -> Tensor:
    """As [B, 1, 1, 1], or [1, 1, 1, 1] of one number."""
    if isinstance(log_variance, Tensor):
        return expand(log_variance, x_t)
    return x_t.new_full([1] * x_t.dim(), log_variance)


def _required(raw: Tensor | None, variance: Variance) -> Tensor:
    if raw is None:
        raise UserError(f"{type(variance).__name__} needs the network's second head of raw variances, and got none")
    return raw
