"""Noise schedules: T -> betas, float64 [T], where betas[t - 1] is the papers' beta_t.

A schedule of your own is one more function here (or anywhere) and one YAML file in conf/schedule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ddpm_lab.errors import UserError


def _checked(betas: Tensor, schedule: str) -> Tensor:
    wrong = ~((betas > 0) & (betas <= 1))  # NaN too
    if wrong.any():
        t = int(wrong.nonzero()[0]) + 1
        raise UserError(
            f"schedule {schedule}: every beta must lie in (0, 1], and {int(wrong.sum())} of T={len(betas)} do not: the first "
            f"is beta_{t} = {betas[t - 1].item():.4g}; change T, beta_start or beta_end"
        )
    return betas


def _linspace(start: float, end: float, T: int) -> Tensor:
    if T < 1:
        raise UserError(f"a schedule needs at least one timestep, got T={T}")
    return torch.linspace(start, end, T, dtype=torch.float64)


def linear(T: int, beta_start: float = 1e-4, beta_end: float = 0.02, rescale: bool = True) -> Tensor:
    """Betas that grow linearly (Ho et al. 2020, section 4).

    rescale: multiply both ends by 1000 / T, so that any T destroys the image equally (Nichol & Dhariwal 2021, public
    code); Ho et al. themselves use rescale=False. Raises ValueError for T <= 20 when rescaled: beta_T would reach 1.
    """
    scale = 1000 / T if rescale and T > 0 else 1.0
    if scale * beta_end >= 1:
        raise UserError(
            f"schedule linear: beta_end must stay below 1, got {beta_end}; take 0.02"
            if beta_end >= 1
            else f"schedule linear: with T={T} the last beta is {scale * beta_end:.4g}, which destroys the image in one step; "
            f"take T > {math.floor(1000 * beta_end)}, a smaller beta_end, or schedule=cosine"
        )
    return _checked(_linspace(scale * beta_start, scale * beta_end, T), "linear")


def cosine(T: int, s: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """alpha_bar(t) = f(t) / f(0), f(t) = cos((t/T + s) / (1 + s) * pi/2)^2 (Nichol & Dhariwal 2021, equation 17).

    Betas are clipped at max_beta, which touches only the last one.
    """

    def f(u: float) -> float:
        return math.cos((u + s) / (1 + s) * math.pi / 2) ** 2

    if T < 1:
        raise UserError(f"a schedule needs at least one timestep, got T={T}")
    betas = [min(1 - f((t + 1) / T) / f(t / T), max_beta) for t in range(T)]
    return _checked(torch.tensor(betas, dtype=torch.float64), "cosine")


def quadratic(T: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """Betas whose square roots grow linearly (Ho et al. 2020, public code)."""
    return _checked(_linspace(math.sqrt(beta_start), math.sqrt(beta_end), T) ** 2, "quadratic")


def constant(T: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """beta_t = beta_end for every t (Ho et al. 2020, public code); beta_start plays no part."""
    return _checked(_linspace(beta_end, beta_end, T), "constant")


def warmup(T: int, beta_start: float = 1e-4, beta_end: float = 0.02, fraction: float = 0.1) -> Tensor:
    """beta_end everywhere but in the first int(T * fraction) steps, which grow linearly (Ho et al. 2020, public code)."""
    if not 0 <= fraction <= 1:
        raise UserError(f"schedule warmup: fraction must lie in [0, 1], got {fraction}")
    betas = _linspace(beta_end, beta_end, T)
    rising = int(T * fraction)
    if rising:
        betas[:rising] = _linspace(beta_start, beta_end, rising)
    return _checked(betas, "warmup")


def jsd(T: int) -> Tensor:
    """beta_t = 1 / (T - t + 1) (Sohl-Dickstein et al. 2015; Ho et al. 2020, public code).

    The last beta is exactly 1: x_T holds no trace of x_0.
    """
    return _checked(1 / _linspace(T, 1, T), "jsd")


def sigmoid(T: int, beta_start: float = 1e-4, beta_end: float = 0.02, steepness: float = 6.0) -> Tensor:
    """Betas that follow a logistic curve from beta_start to beta_end (DDIM, Song et al. 2021, public code).

    beta = beta_start + (beta_end - beta_start) * sigmoid(u), u linear from -steepness to steepness.
    """
    curve = torch.sigmoid(_linspace(-steepness, steepness, T))
    return _checked(beta_start + (beta_end - beta_start) * curve, "sigmoid")


def explicit(betas: Sequence[float]) -> Tensor:
    """The betas themselves, beta_1 first: those of a model that was trained elsewhere."""
    return torch.tensor(list(betas), dtype=torch.float64)
