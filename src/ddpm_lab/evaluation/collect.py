"""One pass over images, whatever they come from: features once, statistics of exactly n, the same on any number of ranks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ddpm_lab import ranks
from ddpm_lab.metrics.features import Extractor, Features
from ddpm_lab.metrics.statistics import Accumulator
from ddpm_lab.parts import part

ImagesAt = Callable[[list[int]], Tensor]
"""The images of these indices, uint8 [len(indices), C, H, W]."""
SHOWN = 64  # of the images, for pictures and nearest neighbours


class Collected(NamedTuple):
    """accumulator: of all n images. shown: those of part(n, SHOWN, seed=0), uint8. seconds: of each part, on this rank."""

    accumulator: Accumulator
    shown: Tensor
    seconds: dict[str, float]


def collect(
    images_at: ImagesAt, n: int, batch_size: int, extractor: Extractor, device: torch.device, title: str
) -> Collected:
    """Images 0..n-1 through the extractor, all ranks sharing the work. A collective.

    The images are cut into batches that do not depend on the number of ranks W, and every round deals one to each rank. All
    ranks then add the features of the round in the order of the images, so that every rank ends with the same statistics,
    to the last bit those of one process.
    """
    rank, world = ranks.rank(), ranks.world_size()
    batches = [list(range(start, min(start + batch_size, n))) for start in range(0, n, batch_size)]
    accumulator = Accumulator(n, device)
    seconds = {"images": 0.0, "features": 0.0, "statistics": 0.0}
    shown = {k: place for place, k in enumerate(part(n, SHOWN, seed=0))}
    pictures: Tensor | None = None  # [len(shown), C, H, W], those of other ranks black
    with tqdm(total=n, desc=title, unit="image", disable=None if rank == 0 else True, leave=False) as bar:
        for start in range(0, len(batches), world):
            clock = Clock(device)
            # In the last round a rank without a batch repeats another's: all take equally long and have equal shapes.
            mine = batches[min(start + rank, len(batches) - 1)]
            images = images_at(mine).to(device)
            if pictures is None:
                pictures = images.new_zeros(len(shown), *images.shape[1:])
            for k, image in zip(mine, images, strict=True):
                if k in shown:
                    pictures[shown[k]] = image
            seconds["images"] += clock.lap()
            features = extractor(images)
            seconds["features"] += clock.lap()
            for rows, indices in zip(_gathered(features, batch_size), batches[start : start + world], strict=False):
                accumulator.add(Features(*(None if x is None else x[: len(indices)] for x in rows)))  # type: ignore[arg-type]
                bar.update(len(indices))
            seconds["statistics"] += clock.lap()
    assert pictures is not None
    return Collected(accumulator, ranks.gather(pictures).amax(0).cpu(), seconds)


def _gathered(features: Features, rows: int) -> list[Features]:
    """The features of every rank, in their order, each padded to `rows` rows. One collective."""
    present = [x for x in features if x is not None]
    if ranks.world_size() == 1:
        return [features]
    joined = torch.cat(present, 1)
    padded = torch.cat([joined, joined.new_zeros(rows - len(joined), joined.shape[1])])
    found = []
    for of_rank in ranks.gather(padded):
        parts = iter(of_rank.split([x.shape[1] for x in present], 1))
        found.append(Features(*(None if x is None else next(parts) for x in features)))  # type: ignore[arg-type]
    return found


class Clock:
    """Seconds from lap to lap, the device's work included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Since the last call."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        before, self.last = self.last, time.perf_counter()
        return self.last - before
