"""What is asked of a user's own parts, seen to before anything is trained: each contract is at the head of its part's file."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from ddpm_lab.diffusion.classifier import Classifier
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.errors import UserError, form

METHODS = {
    "prediction": ("diffusion/predictions.py", ["target", "x_0", "scale"]),
    "variance": ("diffusion/variances.py", ["heads", "log_variance", "variance"]),
    "timestep_sampler": ("diffusion/timesteps.py", ["draw", "update", "probabilities"]),
    "sampler": ("samplers/sampler.py", ["times", "calls", "deterministic", "walk"]),
}


def check_parts(config: DictConfig) -> None:
    """Raise ValueError for a prediction, a variance or a sampler that lacks a method, and an objective that does not fit."""
    for option in ("prediction", "variance", "sampler"):
        check_methods(option, instantiate(config[option], _convert_="all"))
    objective = instantiate(config.objective)
    _check_call("objective", objective, objective, "denoiser, x_0 [B, C, H, W], t [B], y [B] or None", 4)
    if hasattr(objective, "check"):
        objective.check(instantiate(config.variance))


def check_methods(option: str, part: object) -> None:
    """Raise ValueError where `part`, which the option has named, lacks something of its contract."""
    file, methods = METHODS[option]
    lacking = [name for name in methods if not hasattr(part, name)]
    if lacking:
        raise UserError(
            f"{option}: {type(part).__name__} has no {', '.join(lacking)}; what is asked of it is at the head of "
            f"src/ddpm_lab/{file}, whose classes it can derive from"
        )


def check_network(model: Denoiser | Classifier) -> None:
    """Raise ValueError for a network that cannot be called as this model calls it."""
    labels = ", y [B] or None" if isinstance(model, Denoiser) else ""
    network = model.network
    if not isinstance(network, nn.Module):
        raise UserError(f"network: {type(network).__name__} is no torch.nn.Module, and has no weights to train")
    _check_call("network", network, network.forward, f"x [B, C, H, W], time [B]{labels}", 3 if labels else 2)


def check_timesteps(sampler: object, T: int) -> None:
    """Raise ValueError for a timestep sampler that lacks a method, or draws other than timesteps of 1..T, one an image."""
    check_methods("timestep_sampler", sampler)
    n = 4096
    with torch.random.fork_rng(devices=[]):
        drawn = sampler.draw(n)  # type: ignore[attr-defined]
    name = f"timestep_sampler: {type(sampler).__name__}.draw"
    if not (isinstance(drawn, tuple) and len(drawn) == 2 and all(isinstance(part, Tensor) for part in drawn)):
        raise UserError(f"{name} must return (t, weight), two tensors [B], and returned {form(drawn)}")
    t, weight = drawn
    if t.shape != (n,) or weight.shape != (n,) or t.dtype != torch.int64:
        raise UserError(
            f"{name}({n}) must return t and weight [{n}], t of int64, and returned {form(t)} of {t.dtype} and {form(weight)}"
        )
    if not 1 <= int(t.min()) <= int(t.max()) <= T:
        raise UserError(f"{name} must draw t of 1..T = 1..{T}, and drew {int(t.min())}..{int(t.max())}")


def takes(config: DictConfig) -> set[str]:
    """The arguments of the network's constructor; "**" among them where it takes any."""
    parameters = inspect.signature(get_object(config.network._target_)).parameters.values()
    return {"**" if parameter.kind is parameter.VAR_KEYWORD else parameter.name for parameter in parameters}


def _check_call(option: str, part: object, call: Callable[..., object], arguments: str, count: int) -> None:
    """Raise ValueError where it cannot be called with so many positional arguments."""
    if not callable(call):
        raise UserError(f"{option}: {type(part).__name__} cannot be called, as it is to be with ({arguments})")
    try:
        signature = inspect.signature(call)
        signature.bind(*[None] * count)
    except ValueError:  # of something that does not say what it takes
        return
    except TypeError:
        raise UserError(
            f"{option}: {getattr(part, '__name__', type(part).__name__)} takes {signature} and is called with ({arguments})"
        ) from None
