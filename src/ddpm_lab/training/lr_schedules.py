"""Learning rate schedules, stepped once per optimizer step: optimizer -> LRScheduler."""

from __future__ import annotations

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ddpm_lab.errors import UserError


def warmup(optimizer: Optimizer, steps: int) -> LambdaLR:
    """Grow linearly over the first `steps` steps, then stay (Ho et al. 2020, appendix B)."""
    return LambdaLR(optimizer, partial(_rise, steps=steps))


def warmup_cosine(optimizer: Optimizer, steps: int, total: int) -> LambdaLR:
    """Grow linearly over the first `steps` steps, at most a tenth of all, then fall to 0 at step `total` along half a cosine.

    Raises ValueError where there is no total.
    """
    if total < 1:
        raise UserError(
            f"lr_scheduler=warmup_cosine ends at the last step, but trainer.max_steps={total}; set it, or lr_scheduler=warmup"
        )
    return LambdaLR(optimizer, partial(_rise_and_fall, steps=min(steps, total // 10), total=total))


def _rise(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / max(steps, 1))


def _rise_and_fall(step: int, steps: int, total: int) -> float:
    done = min(max((step - steps) / (total - steps), 0.0), 1.0)
    return _rise(step, steps) * 0.5 * (1 + math.cos(math.pi * done))
