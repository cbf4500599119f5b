"""Timings that a busy machine cannot spoil: both sides take turns in one process, and each round gives one ratio."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Clock = Callable[[], float]
ROUNDS = 7
UNLIKE = ("lucidrains",)  # of another architecture: shown beside the others, and no measure


class Row(NamedTuple):
    """One line of the table.

    ours, theirs: medians in `unit`; theirs is None where nobody else does it. ratio: how many times better ours is, the median
    of the rounds' ratios and their quartiles (low, median, high); None without a peer. bar, aim: of the ratio, or of `ours`
    where there is none. least: whether less of `unit` is better.
    """

    part: str
    name: str
    peer: str
    unit: str
    ours: float
    theirs: float | None = None
    ratio: tuple[float, float, float] | None = None
    bar: float | None = None
    aim: float | None = None
    least: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached; None where there is none."""
        if self.bar is None:
            return None
        if self.ratio is not None:
            return self.ratio[1] >= self.bar
        return self.ours <= self.bar if self.least else self.ours >= self.bar


def take_turns(
    sides: dict[str, Callable[[], Any]], rounds: int = ROUNDS, clock: Clock = time.process_time, repeat: int = 1
) -> dict[str, list[float]]:
    """Seconds of each side in each round, per call of `repeat` calls; the order is reversed every other round.

    A round before them, which is not counted, warms every side up.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    gc.collect()
    gc.freeze()  # what has been imported so far is no garbage, and need not be looked through during any side's turn
    for number in range(-1, rounds):
        for name in list(sides) if number % 2 else reversed(list(sides)):
            gc.collect()
            start = clock()
            for _ in range(repeat):
                sides[name]()
            if number >= 0:
                found[name].append((clock() - start) / repeat)
    return found


def ratio(theirs: Iterable[float], ours: Iterable[float]) -> tuple[float, float, float]:
    """Quartiles of the rounds' theirs / ours: low, median, high."""
    low, median, high = statistics.quantiles([a / b for a, b in zip(theirs, ours, strict=True)], n=4)
    return low, median, high


def compared(
    seconds: dict[str, list[float]],
    ours: str,
    peers: Iterable[str],
    *,
    part: str,
    name: str,
    scale: float = 1e3,
    unit: str = "ms",
    bar: float | None = None,
    aim: float | None = None,
) -> list[Row]:
    """A row for each peer that was timed beside `ours`."""
    mine = seconds[ours]
    return [
        Row(
            part,
            name,
            peer,
            unit,
            scale * statistics.median(mine),
            scale * statistics.median(seconds[peer]),
            ratio(seconds[peer], mine),
            None if peer in UNLIKE else bar,
            None if peer in UNLIKE else aim,
        )
        for peer in peers
        if peer in seconds
    ]
