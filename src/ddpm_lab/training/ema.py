"""An exponential moving average of a network's weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from ddpm_lab.errors import UserError


class EMA(nn.Module):
    """weights <- weights + (1 - decay) (live - weights), decay = rate, or min(rate, (1 + n) / (10 + n)) after n updates.

    That is the warm-up, which keeps an average with rate 0.9999 from showing the random initial weights for its first
    10,000 steps, as in LDM and score_sde. Ho et al. 2020, Nichol & Dhariwal 2021 and Song et al. 2021 (DDIM) keep the rate
    constant. The live weights are only read; the average is a module of its own, saved beside them.
    """

    def __init__(self, network: nn.Module, rate: float, warmup: bool = True) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise UserError(f"an EMA rate lies in [0, 1), got {rate}; set for example ema_rates=[0.9999]")
        self.rate = rate
        self.warmup = warmup
        self.updates = 0
        self._found: tuple[nn.Module, list[Tensor], list[Tensor]] | None = None
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: no dropout in an average."""
        return self

    @torch.no_grad()
    def update(self, live: nn.Module) -> None:
        """Move towards the live weights."""
        decay = min(self.rate, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.rate
        averages, weights = self._parameters_of_both(live)
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in zip(self.network.buffers(), live.buffers(), strict=True):
            average.copy_(buffer)
        self.updates += 1

    def _parameters_of_both(self, live: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """Sought once, since they stay the same objects on any device; buffers do not."""
        if self._found is None or self._found[0] is not live:
            self._found = live, list(self.network.parameters()), list(live.parameters())
        return self._found[1:]

    def get_extra_state(self) -> Tensor:
        """The number of updates, a plain tensor in the checkpoint."""
        return torch.tensor(self.updates)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the number of updates."""
        self.updates = int(state)


def binds_from(rate: float) -> int:
    """The first n with (1 + n) / (10 + n) >= rate: until then the warm-up decides, whatever the rate."""
    return max(0, math.ceil(round((10 * rate - 1) / (1 - rate), 6)))


def never_bind(rates: Sequence[float], steps: int) -> str | None:
    """What to tell of the rates that the warm-up keeps from their effect in a run of so many steps; None if all have it."""
    idle = [rate for rate in rates if binds_from(rate) >= steps]
    if not idle:
        return None
    same = ", and their averages are the same" if len(idle) > 1 else ""
    return (
        f"note: ema_rates {', '.join(map(str, idle))} have no effect in {steps:,} steps{same}: the warm-up (1 + n)/(10 + n) is "
        f"below until step {', '.join(f'{binds_from(rate):,}' for rate in idle)}; ema_warmup=false holds a rate from the first"
    )
