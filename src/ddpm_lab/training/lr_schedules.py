"""Learning rate schedules, stepped once per optimizer step: optimizer -> LRScheduler."""

from __future__ import annotations

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup(optimizer: Optimizer, steps: int) -> LambdaLR:
    """Grow linearly over the first `steps` steps, then stay (Ho et al. 2020, appendix B)."""
    return LambdaLR(optimizer, partial(_rise, steps=steps))


def warmup_cosine(optimizer: Optimizer, steps: int, total: int) -> LambdaLR:
    """Grow linearly over the first `steps` steps, then fall to 0 at step `total` along half a cosine."""
    if total <= steps:
        raise ValueError(
            f"lr_scheduler warmup_cosine: its {steps} steps of warm-up leave nothing of {total}; set fewer"
        )
    return LambdaLR(optimizer, partial(_rise_and_fall, steps=steps, total=total))


def _rise(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / max(steps, 1))


def _rise_and_fall(step: int, steps: int, total: int) -> float:
    done = min(max((step - steps) / (total - steps), 0.0), 1.0)
    return _rise(step, steps) * 0.5 * (1 + math.cos(math.pi * done))
