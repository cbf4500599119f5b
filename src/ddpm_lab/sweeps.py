"""The table that a sweep ends with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class ResultTable(Callback):
    """Prints each job's overrides and results, and writes them to results.csv in the sweep's folder."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read every job's metrics.json."""
        folder = Path(config.hydra.sweep.dir)
        rows = read_results(folder)
        if not rows:
            print(f"no job of the sweep left results in {folder}")
            return
        names = sorted({name for _, metrics in rows for name in metrics if isinstance(metrics[name], (int, float))})
        table = [["job", *names], *([job, *(_number(metrics.get(name)) for name in names)] for job, metrics in rows)]
        (folder / "results.csv").write_text("".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in table))
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        print(f"\nresults of the sweep ({folder}/results.csv):")
        for row in table:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def read_results(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """(job's folder below `folder`, its metrics.json) of every job that has one, in the order of the names."""
    found = sorted(folder.glob("**/metrics.json"))
    return [(str(path.parent.relative_to(folder)), json.loads(path.read_text())) for path in found]


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
