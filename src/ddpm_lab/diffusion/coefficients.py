"""Coefficients of a time: double precision, [B] where every image has a time of its own, [] where a batch shares one.

A walk asks for those of all its steps at once, on the CPU: a number there times images on any device is no copy and no wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

# A schedule that ends in pure noise has SNR 0 there; this keeps ratios of SNRs finite. Published ones stay above 1e-10.
LOWEST_SNR = 1e-20


class Float64Buffers(nn.Module):
    """A module whose own buffers stay float64 under `.half()`, `.bfloat16()` and mixed-precision wrappers.

    In single precision 1 - alpha_bar_t / alpha_bar_s errs by up to 5e-4 of beta, so schedules are indexed in double
    precision and cast last. Devices without float64 (MPS) leave the buffers on the CPU, where they are gathered.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for name, buffer in self._buffers.items():
            if buffer is None:
                continue
            device = fn(torch.empty(0, device=buffer.device)).device
            self._buffers[name] = buffer if device.type == "mps" else buffer.to(device)
        return self


class Level(NamedTuple):
    """How noisy x_t is: x_t = signal x_0 + noise eps, all float64.

    t: integers or reals. alpha_bar: signal squared. log_alpha_bar: its logarithm, without the rounding of alpha_bar near 1.
    """

    t: Tensor
    alpha_bar: Tensor
    log_alpha_bar: Tensor
    signal: Tensor
    noise: Tensor

    @property
    def snr(self) -> Tensor:
        """alpha_bar / (1 - alpha_bar), at least 1e-20."""
        return (self.alpha_bar / (1 - self.alpha_bar)).clamp(min=LOWEST_SNR)

    @property
    def half_log_snr(self) -> Tensor:
        """lambda = ln(signal / noise) (Lu et al. 2022, arXiv 2206.00927): infinite where one of them is 0."""
        return self.signal.log() - self.noise.log()


class Transition(NamedTuple):
    """From x_t to x_s, s < t: q(x_s | x_t, x_0) has the mean of_x_0 x_0 + of_x_t x_t (Ho et al. 2020, equation 7).

    beta: beta_{t|s} = 1 - alpha_bar_t / alpha_bar_s. log_beta_tilde, log_beta: see GaussianPath.log_variance_bounds.
    """

    t: Level
    s: Level
    beta: Tensor
    of_x_0: Tensor
    of_x_t: Tensor
    log_beta_tilde: Tensor
    log_beta: Tensor


def times_of(times: Sequence[float]) -> Tensor:
    """Times as a tensor [K]: int64 where all are whole numbers of Python, float64 else."""
    return torch.tensor(times, dtype=torch.int64 if all(isinstance(t, int) for t in times) else torch.float64)


def levels_of(levels: Level) -> list[Level]:
    """Levels of times [K], one by one and on the CPU."""
    return [Level(*fields) for fields in zip(*(field.cpu().unbind() for field in levels), strict=True)]


def transitions_of(transitions: Transition) -> list[Transition]:
    """Transitions of times [K], one by one and on the CPU."""
    t, s, *coefficients = transitions
    rows = zip(levels_of(t), levels_of(s), *(field.cpu().unbind() for field in coefficients), strict=True)
    return [Transition(*row) for row in rows]


def append_dims(values: Tensor, like: Tensor) -> Tensor:
    """Values [B] as [B, 1, 1, ...] on the device and in the dtype of `like` [B, ...]; one for all, [], as it is."""
    if values.dim() == 0:
        return values
    return values.to(like.device, like.dtype).reshape(-1, *[1] * (like.dim() - 1))


def affine(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """a x + b y; a and b are coefficients, [B] or []."""
    if a.dim() == 0:
        return torch.add(a * x, y, alpha=b.item())
    return append_dims(a, x) * x + append_dims(b, y) * y


def as_batch(t: Tensor, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Times [B] or [] as those of x [B, ...], [B] on its device; dtype: that of t if None."""
    return t.to(x.device, dtype).expand(len(x))


def reciprocal(values: Tensor) -> Tensor:
    """1 / values, and 0 where they are 0."""
    return torch.where(values != 0, 1 / torch.where(values != 0, values, 1.0), 0.0)
