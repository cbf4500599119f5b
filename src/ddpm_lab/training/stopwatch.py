"""A stopwatch for work that a device does on its own, after it was launched."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Seconds that it has run since the last lap. device: whose work it waits for when it starts and stops, and only then."""

    def __init__(self, device: Callable[[], torch.device]) -> None:
        self.device = device
        self.since: float | None = None
        self.seconds = 0.0
        self.laps = 0.0  # seconds of all laps before

    def start(self) -> None:
        """Run."""
        self._wait()
        self.since = time.perf_counter()

    def stop(self) -> bool:
        """Stand still; return whether it ran."""
        if self.since is None:
            return False
        self._wait()
        self.seconds += time.perf_counter() - self.since
        self.since = None
        return True

    def lap(self) -> float:
        """The seconds since the last lap, and begin the next. Call when the device has just been waited for."""
        seconds, self.seconds = self.seconds, 0.0
        if self.since is not None:
            now = time.perf_counter()
            seconds += now - self.since
            self.since = now
        self.laps += seconds
        return seconds

    def total(self) -> float:
        """The seconds that it has run in all."""
        return self.laps + self.seconds + (0.0 if self.since is None else time.perf_counter() - self.since)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what happens inside."""
        ran = self.stop()
        try:
            yield
        finally:
            if ran:
                self.start()

    def _wait(self) -> None:
        if self.device().type != "cpu":
            torch.accelerator.synchronize()
