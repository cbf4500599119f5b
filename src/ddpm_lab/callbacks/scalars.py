"""A logger that appends scalars to a file: readable while the run goes on, whole after a crash, continued on resume."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only


class Scalars(Logger):
    """Writes <folder>/scalars.csv with the columns step, name, value.

    start: the step that a resumed run begins at; what a killed run wrote beyond it is dropped.
    """

    def __init__(self, folder: str, start: int = 0) -> None:
        super().__init__()
        self.path = Path(folder) / "scalars.csv"
        self.start = start
        self._opened = False

    @property
    def name(self) -> str:
        """The file's name."""
        return "scalars"

    @property
    def version(self) -> str:
        """None but the one."""
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> Path:
        """The file, ready to be appended to."""
        if not self._opened:
            kept = []
            if self.start and self.path.exists():
                with self.path.open(newline="") as file:
                    rows = [row for row in csv.reader(file) if len(row) == 3 and row[0].isdigit()]
                kept = [row for row in rows if int(row[0]) <= self.start]
            partial = self.path.with_name(self.path.name + ".partial")
            with partial.open("w", newline="") as file:
                csv.writer(file).writerows([("step", "name", "value"), *kept])
            partial.replace(self.path)
            self._opened = True
        return self.path

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one row for each metric."""
        with self.experiment.open("a", newline="") as file:
            csv.writer(file).writerows((step, name, repr(float(value))) for name, value in metrics.items())

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run folder's config.yaml has them."""
