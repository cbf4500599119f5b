"""Means of losses over many steps, kept on the device until they are asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def widest(device: torch.device) -> torch.dtype:
    """The type that sums are kept in: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


BY_QUARTILE = ("loss", "accuracy")


class Means:
    """Adds up per-sample losses, some by quartile of t as well; waits for the device only in `flush`."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums: Tensor | None = None  # one row per name; columns: sum, count

    @torch.no_grad()
    def add(self, losses: dict[str, Tensor], quartile: Tensor) -> None:
        """losses: name -> [B], "loss" among them; quartile: [B] integers 0..3."""
        split = [name for name in BY_QUARTILE if name in losses]
        self.names = [*losses, *(f"{name}_q{i}" for name in split for i in range(4))]
        dtype = widest(losses["loss"].device)
        sums = torch.stack([value.sum(dtype=dtype) for value in losses.values()])
        rows = [torch.stack([sums, sums.new_full((len(losses),), len(quartile))], 1)]
        for name in split:
            both = torch.stack([losses[name].to(dtype), sums.new_ones(len(quartile))], 1)
            rows.append(sums.new_zeros(4, 2).index_add_(0, quartile, both))
        sums = torch.cat(rows)
        self.sums = sums if self.sums is None else self.sums + sums

    def restore(self, sums: Tensor, device: torch.device) -> None:
        """Go on from `sums` of an earlier session, on the device where the losses will be."""
        self.sums = sums.to(device, widest(device))

    def flush(self, over_ranks: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means since the last flush, over all ranks; names that saw no sample are left out. A collective."""
        if self.sums is None or not self.names:
            return {}
        rows = over_ranks(self.sums).tolist()
        self.sums = None
        return {name: total / count for name, (total, count) in zip(self.names, rows, strict=True) if count}
