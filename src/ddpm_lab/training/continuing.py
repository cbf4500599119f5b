"""A checkpoint of a run that goes on otherwise: its optimizer, schedule and averages as they are asked for now."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeSchedule = Callable[[Optimizer], LRScheduler]

FASTER = ("fused", "foreach", "capturable", "differentiable")  # the same numbers by other means
# lr is moved by a schedule, which keeps what it was under initial_lr; the last is what tells Adam from AdamW.
OWN = ("params", "initial_lr", "decoupled_weight_decay", *FASTER)


def hyperparameters(group: dict[str, Any]) -> dict[str, Any]:
    """The numbers that a group of an optimizer's parameters was given, before any schedule moved them."""
    numbers = {**group, "lr": group.get("initial_lr", group["lr"])}
    return {name: list(n) if isinstance(n, tuple) else n for name, n in numbers.items() if name not in OWN}


def settings_at(
    step: int, make_optimizer: MakeOptimizer, make_schedule: MakeSchedule | None, parameters: Iterable[nn.Parameter]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """An optimizer's groups and its schedules' states, as a run that had these from its start has them after `step` steps."""
    optimizer = make_optimizer(parameters)
    schedules = [] if make_schedule is None else [make_schedule(optimizer)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch misses the optimizer's own steps
        for schedule in schedules:
            for _ in range(step):
                schedule.step()
    return optimizer.state_dict()["param_groups"], [schedule.state_dict() for schedule in schedules]


def can_go_on(make_optimizer: MakeOptimizer, checkpoint: dict[str, Any]) -> bool:
    """Whether the optimizer keeps for each parameter what the checkpoint's did (AdamW what Adam did, SGD something else)."""
    state = checkpoint["optimizer_states"][0]["state"]
    if not state:
        return True
    parameter = nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.zeros(2, 2)
    optimizer = make_optimizer([parameter])
    try:
        optimizer.step()
    except Exception:  # one that cannot step such a parameter is not known
        return False
    return set(optimizer.state[parameter]) == set(next(iter(state.values())))


def averages(
    state: dict[str, Tensor], before: Sequence[float], now: Sequence[float], live: str = "denoiser.network."
) -> dict[str, Tensor]:
    """A state_dict with an average for each rate of now: the one that it has, or one that begins at the live weights."""
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("emas.")}
    for i, rate in enumerate(now):
        if rate in before:
            old = f"emas.{list(before).index(rate)}."
            kept |= {f"emas.{i}.{k.removeprefix(old)}": v for k, v in state.items() if k.startswith(old)}
        else:
            kept |= {f"emas.{i}.network.{k.removeprefix(live)}": v for k, v in state.items() if k.startswith(live)}
            kept[f"emas.{i}._extra_state"] = torch.tensor(0)
    return kept
