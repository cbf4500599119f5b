"""diffusers' DDPMScheduler and DDIMScheduler: what their configs say of the process, and the config that says ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm_lab.diffusion import schedules
from ddpm_lab.diffusion.predictions import Epsilon, Prediction, Start, Velocity
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.variances import FixedLarge, FixedSmall, LearnedRange, Variance
from ddpm_lab.errors import UserError

PREDICTIONS: dict[str, type] = {"epsilon": Epsilon, "sample": Start, "v_prediction": Velocity}
VARIANCES: dict[str, type] = {"fixed_small": FixedSmall, "fixed_large": FixedLarge, "learned_range": LearnedRange}

KINDS = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler")  # of the same process; how they walk is ours to choose


class Scheduled(NamedTuple):
    """What a scheduler's config says. betas: [T] float64. clip: whether x_0 is clamped to [-1, 1]."""

    betas: Tensor
    prediction: Prediction
    variance: Variance
    clip: bool


def describe(process: Process, prediction: Prediction, variance: Variance, clip: bool) -> dict[str, Any]:
    """The config of a DDPMScheduler that walks as our ancestral sampler does.

    Raises ValueError for a prediction or a variance that it does not have. Its "learned" variance is none of ours: it takes the
    network's second head for the variance itself, not its logarithm.
    """
    t = torch.arange(1, process.T + 1)
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": process.T,
        "trained_betas": process.transition(t, t - 1).beta.tolist(),
        "prediction_type": _name(prediction, PREDICTIONS, "prediction"),
        "variance_type": _name(variance, VARIANCES, "variance"),
        "clip_sample": clip,
        "clip_sample_range": 1.0,
        "thresholding": False,
        "timestep_spacing": "leading",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
    }


def read(config: Mapping[str, Any]) -> Scheduled:
    """What a DDPMScheduler's or a DDIMScheduler's config says; where it is silent, what diffusers takes.

    Raises ValueError for options that are not here.
    """
    kind = config.get("_class_name", "DDPMScheduler")
    if kind not in KINDS:
        raise UserError(f"The scheduler is a {kind}: only {', '.join(KINDS)} can be read.")
    for option in ("thresholding", "rescale_betas_zero_snr"):
        if config.get(option, False):
            raise UserError(f"The scheduler has {option}=true, which is not here.")
    if config.get("clip_sample_range", 1.0) != 1.0:
        raise UserError(f"The scheduler clips x_0 to ±{config['clip_sample_range']}: only ±1 is here.")
    prediction = config.get("prediction_type", "epsilon")
    variance = config.get("variance_type", "fixed_small")
    variance = "fixed_small" if variance == "fixed_small_log" else variance  # the same
    for name, known, what in ((prediction, PREDICTIONS, "prediction_type"), (variance, VARIANCES, "variance_type")):
        if name not in known:
            raise UserError(f"The scheduler has {what}={name!r}: only {', '.join(known)} can be read.")
    return Scheduled(_betas(config), PREDICTIONS[prediction](), VARIANCES[variance](), config.get("clip_sample", True))


def _betas(config: Mapping[str, Any]) -> Tensor:
    if config.get("trained_betas") is not None:
        try:
            return torch.tensor(config["trained_betas"], dtype=torch.float64)
        except (TypeError, ValueError):
            raise UserError(
                f"The scheduler has trained_betas={config['trained_betas']!r}, which are no numbers."
            ) from None
    T = config.get("num_train_timesteps", 1000)
    start, end = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    kind = config.get("beta_schedule", "linear")
    if kind == "linear":
        return schedules.linear(T, start, end, rescale=False)
    if kind == "scaled_linear":
        return schedules.quadratic(T, start, end)
    if kind == "squaredcos_cap_v2":
        return schedules.cosine(T)
    if kind == "sigmoid":
        return schedules.sigmoid(T, start, end, steepness=6.0)
    raise UserError(
        f"The scheduler has beta_schedule={kind!r}: only linear, scaled_linear, squaredcos_cap_v2, sigmoid and trained_betas "
        "can be read."
    )


def _name(part: object, names: Mapping[str, type], what: str) -> str:
    for name, kind in names.items():
        if type(part) is kind:
            return name
    raise UserError(
        f"diffusers has no {what} {type(part).__name__}: only {', '.join(kind.__name__ for kind in names.values())} can be "
        "written."
    )
