"""What an evaluation needs of the other processes; one process is rank 0 of 1 and needs no process group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """The number of this process, 0 where there is but one."""
    return dist.get_rank() if dist.is_initialized() else 0


def first() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(x: Tensor) -> Tensor:
    """x of every rank, [W, *x.shape], on every rank. A collective: all shapes must be equal."""
    if world_size() == 1:
        return x[None]
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.stack(parts)


def agreed(value: Any) -> Any:
    """Rank zero's value, on every rank. A collective."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Be one of the processes that torchrun has started, if it has: python -m torch.distributed.run evaluate.py ….

    A process that fails leaves at once, and torchrun then stops the others.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield
    dist.destroy_process_group()
