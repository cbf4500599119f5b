"""Optimizers that torch does not have ready: parameters -> Optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import Optimizer


def sharded(parameters: Iterable[nn.Parameter], optimizer: type[Optimizer], **options: Any) -> Optimizer:
    """An optimizer whose state is dealt out over the ranks (ZeRO stage 1, Rajbhandari et al. 2020); alone, itself.

    Every rank steps its share of the parameters and sends them to the others. optimizer: a class of torch.optim; options: its
    arguments. Checkpoints hold the whole state, so the number of ranks may change on resume.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return optimizer(parameters, **options)
    return ZeroRedundancyOptimizer(parameters, optimizer_class=optimizer, **options)
