"""Tables of double-precision numbers that follow a module to its device and never change their dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn


class Tables(nn.Module):
    """A module whose own buffers stay float64 under `.half()`, `.bfloat16()` and mixed-precision wrappers.

    In single precision 1 - alpha_bar_t / alpha_bar_s errs by up to 5e-4 of beta, so schedules are indexed in double
    precision and cast last. Devices without float64 (MPS) leave the tables on the CPU, where they are gathered.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for name, buffer in self._buffers.items():
            if buffer is None:
                continue
            device = fn(torch.empty(0, device=buffer.device)).device
            self._buffers[name] = buffer if device.type == "mps" else buffer.to(device)
        return self


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Shape values [B] as [B, 1, 1, ...] on the device and in the dtype of `like` [B, ...]."""
    return values.to(like.device, like.dtype).reshape(-1, *[1] * (like.dim() - 1))


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """Gather table[index] where the table lives. index: integers [B] on any device."""
    return table[index.to(table.device)]
