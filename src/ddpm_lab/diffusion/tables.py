"""Tables of double-precision numbers that follow a module to its device and never change their dtype.

Timesteps are tensors [B] in training, where each image has its own, and single integers in sampling, where a whole batch
moves from one timestep to the next: `Times` is either. What is looked up or computed from them is float64, [B] or a number.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, Self

import torch
from torch import Tensor, nn

from ddpm_lab.errors import UserError

Times = Tensor | int
Numbers = Any  # a float64 tensor [B], or a float: what formulas compute with is the same


class Tables(nn.Module):
    """A module whose own buffers stay float64 under `.half()`, `.bfloat16()` and mixed-precision wrappers.

    In single precision 1 - alpha_bar_t / alpha_bar_s errs by up to 5e-4 of beta, so schedules are indexed in double
    precision and cast last. Devices without float64 (MPS) leave the tables on the CPU, where they are gathered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[tuple[Any, ...], Any] = {}  # see by_number

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for name, buffer in self._buffers.items():
            if buffer is None:
                continue
            device = fn(torch.empty(0, device=buffer.device)).device
            self._buffers[name] = buffer if device.type == "mps" else buffer.to(device)
        return self


def by_number(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method (tables, *times [B]) -> numbers [B] take integers too, and return floats: computed once, and kept.

    So a walk has its coefficients in double precision, and those after the first one need no tensors for them. Raises
    ValueError for integers beside tensors.
    """

    @wraps(function)
    def answer(tables: Tables, *times: Times | None, **named: Times | None) -> Any:
        if named:
            times = signature(function).bind(tables, *times, **named).args[1:]
        if isinstance(times[0], Tensor):
            return function(tables, *times)
        if any(isinstance(time, Tensor) for time in times):
            raise UserError("timesteps are integers, or tensors [B]: all of them the one or the other")
        key = (function.__qualname__, *times)
        if key not in tables.numbers:
            found = function(tables, *(None if time is None else torch.tensor([time]) for time in times))
            tables.numbers[key] = tuple(map(float, found)) if isinstance(found, tuple) else float(found)
        return tables.numbers[key]

    return answer


def expand(values: Numbers, like: Tensor) -> Numbers:
    """Shape values [B] as [B, 1, 1, ...] on the device and in the dtype of `like` [B, ...]; a number stays one."""
    if not isinstance(values, Tensor):
        return values
    return values.to(like.device, like.dtype).reshape(-1, *[1] * (like.dim() - 1))


def combine(a: Numbers, x: Tensor, b: Numbers, y: Tensor) -> Tensor:
    """a x + b y; a and b are of each image, [B], or numbers."""
    if isinstance(a, Tensor):
        return expand(a, x) * x + expand(b, y) * y
    return torch.add(a * x, y, alpha=b)


def of_batch(t: Times, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The timesteps [B] of x [B, ...], in the dtype; as they are if None, so that no fraction of one is lost."""
    return t.to(dtype) if isinstance(t, Tensor) else torch.full((len(x),), t, dtype=dtype, device=x.device)


def choose(condition: Any, a: Numbers, b: Numbers) -> Numbers:
    """a where the condition holds and b elsewhere."""
    if not isinstance(condition, Tensor):
        return a if condition else b
    return torch.where(condition, a, b)


def reciprocal(values: Numbers) -> Numbers:
    """1 / values, and 0 where they are 0."""
    return choose(values != 0, 1 / choose(values != 0, values, 1.0), 0.0)


def lookup(table: Tensor, index: Times) -> Tensor:
    """Gather table[index] where the table lives. index: whole numbers [B] on any device, or one, for a result [1].

    Raises ValueError for others.
    """
    at = index.to(table.device) if isinstance(index, Tensor) else torch.tensor([index], device=table.device)
    if at.is_floating_point():
        between = at[at != at.round()]
        if len(between):
            raise UserError(
                f"t={between[0]:g} lies between two timesteps, and a table of {len(table) - 1} has nothing to say there: take "
                "whole ones, or ask Denoiser.outputs alone, which tells the network any t"
            )
        at = at.long()
    return table[at]
