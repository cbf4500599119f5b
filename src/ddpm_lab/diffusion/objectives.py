"""Training objectives: (denoiser, x_0, t, y, noise) -> {"loss", "mse", …}, each [B]. "loss" is what is minimised.

An objective never reduces over the batch; the caller weights. "mse" is the plain error of the network's output, "vlb" the
term of the bound at t in bits per dimension, of those that compute it; what is not minimised carries no gradient.
A plain function is an objective too. `check(variance)`, where there is one, refuses a variance that cannot be trained, and is
asked on every call too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ddpm_lab.diffusion.coefficients import Level
from ddpm_lab.diffusion.denoiser import Denoiser, Estimate
from ddpm_lab.diffusion.likelihood import mse, vlb_term
from ddpm_lab.diffusion.variances import Variance
from ddpm_lab.diffusion.weightings import uniform
from ddpm_lab.errors import UserError, form

Weighting = Callable[[Tensor, Tensor], Tensor]


class Objective(Protocol):
    """See the head of this file."""

    def check(self, variance: Variance) -> None: ...  # noqa: D102

    def __call__(  # noqa: D102
        self, denoiser: Denoiser, x_0: Tensor, t: Tensor, y: Tensor | None = None, noise: Tensor | None = None
    ) -> dict[str, Tensor]: ...


def per_image(losses: object, images: int) -> dict[str, Tensor]:
    """What an objective has returned for so many images. Raises ValueError unless it is a dict of tensors [B] with "loss"."""
    if not isinstance(losses, dict) or "loss" not in losses:
        came = f"a dict of {list(losses)}" if isinstance(losses, dict) else form(losses)
        raise UserError(
            f'an objective must return a dict that has "loss", one number for each image, and returned {came}'
        )
    for name, loss in losses.items():
        if not isinstance(loss, Tensor) or loss.shape != (images,):
            raise UserError(
                f'an objective must return one number for each image, [{images}], and its "{name}" came as {form(loss)}: leave '
                "the mean over the batch to the caller, and take that over an image's elements by .flatten(1).mean(1)"
            )
    return losses


class Simple:
    """L_simple = E || target - output ||^2, weighted over t (Ho et al. 2020, equation 14). It cannot learn variances."""

    def __init__(self, weighting: Weighting = uniform) -> None:
        self.weighting = weighting

    def check(self, variance: Variance) -> None:
        """Raise ValueError for a learned variance: nothing in this loss would train it."""
        if variance.heads != 1:
            raise UserError(
                f"objective=simple has no term that trains {type(variance).__name__} variances; set variance=fixed_large "
                "or fixed_small, or objective=hybrid"
            )

    def __call__(
        self, denoiser: Denoiser, x_0: Tensor, t: Tensor, y: Tensor | None = None, noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """x_0: [B, C, H, W]; t: [B]; noise: of x_0's shape, drawn if not given."""
        self.check(denoiser.variance)
        level = denoiser.process.at(t)
        noise = torch.randn_like(x_0) if noise is None else noise
        output, _ = denoiser.outputs(denoiser.process.diffuse(x_0, level, noise), level, y)
        error = mse(output, denoiser.prediction.target(denoiser.process, x_0, noise, level))
        return {"loss": _weigh(self.weighting, denoiser, level, error), "mse": error.detach()}


class Vlb:
    """T * L_{t-1}: an unbiased estimate of the whole bound less its prior, in bits per dimension (Ho et al., equation 5)."""

    def check(self, variance: Variance) -> None:
        """Every variance can be trained, or held fixed, under the bound."""

    def __call__(
        self, denoiser: Denoiser, x_0: Tensor, t: Tensor, y: Tensor | None = None, noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """x_0: [B, C, H, W]; t: [B]; noise: of x_0's shape, drawn if not given."""
        x_t, noise, estimate, level = _estimate(denoiser, x_0, t, y, noise)
        vlb = vlb_term(denoiser, estimate, x_0, x_t, level)
        with torch.no_grad():
            error = mse(estimate.output, denoiser.prediction.target(denoiser.process, x_0, noise, level))
        return {"loss": denoiser.process.T * vlb, "mse": error, "vlb": vlb.detach()}


class Hybrid:
    """L_hybrid = L_simple + vlb_weight * L_vlb (Nichol & Dhariwal 2021, equation 16).

    L_vlb is the sum of T terms, hence vlb_weight * T * vlb here, in bits per dimension. Its gradient is stopped at the mean,
    so that it moves only the variance.
    """

    def __init__(self, vlb_weight: float = 0.001, weighting: Weighting = uniform) -> None:
        self.vlb_weight = vlb_weight
        self.weighting = weighting

    def check(self, variance: Variance) -> None:
        """Raise ValueError for a fixed variance: the bound's part would move nothing."""
        if variance.heads != 2:
            raise UserError(
                f"objective=hybrid trains the variance through the bound, and {type(variance).__name__} has none to train; "
                "set variance=learned_range or learned, or objective=simple"
            )

    def __call__(
        self, denoiser: Denoiser, x_0: Tensor, t: Tensor, y: Tensor | None = None, noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """x_0: [B, C, H, W]; t: [B]; noise: of x_0's shape, drawn if not given."""
        self.check(denoiser.variance)
        x_t, noise, estimate, level = _estimate(denoiser, x_0, t, y, noise)
        error = mse(estimate.output, denoiser.prediction.target(denoiser.process, x_0, noise, level))
        frozen_mean = estimate._replace(x_0=estimate.x_0.detach())
        vlb = vlb_term(denoiser, frozen_mean, x_0, x_t, level)
        loss = _weigh(self.weighting, denoiser, level, error) + self.vlb_weight * denoiser.process.T * vlb
        return {"loss": loss, "mse": error.detach(), "vlb": vlb.detach()}


def _estimate(
    denoiser: Denoiser, x_0: Tensor, t: Tensor, y: Tensor | None, noise: Tensor | None
) -> tuple[Tensor, Tensor, Estimate, Level]:
    """x_t, its noise, what the denoiser makes of it, and how noisy it is."""
    level = denoiser.process.at(t)
    noise = torch.randn_like(x_0) if noise is None else noise
    x_t = denoiser.process.diffuse(x_0, level, noise)
    return x_t, noise, denoiser.estimate(x_t, level, y, clip=False), level


def _weigh(weighting: Weighting, denoiser: Denoiser, level: Level, error: Tensor) -> Tensor:
    weights = weighting(level.snr, denoiser.prediction.scale(denoiser.process, level))
    if not isinstance(weights, Tensor) or weights.shape != error.shape:
        raise UserError(f"a weighting must return a tensor [B] = {list(error.shape)}, and returned {form(weights)}")
    return weights.to(error.device, error.dtype) * error
