"""What a sweep's jobs tell its sweeper, and the table and the curves that it ends with."""

from __future__ import annotations

import csv
import difflib
import json
import logging
import math
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.sweep_report import Job
from ddpm_lab.folders import done, overrides_of

FAILED: list[str] = []  # the jobs of this process's sweep that failed
_open: list[DictConfig] = []  # the sweep of this process whose table is still to come
_lacking: dict[tuple[str, str], str] = {}  # (optimized_metric, callbacks) that have left no such number -> what is said


class ResultTable(Callback):
    """Prints each job's overrides and results, then the jobs that failed; writes both to results.csv in the sweep's folder."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """A table is to come, however the sweep ends; what a job that failed has said is not said in other words."""
        optuna = logging.getLogger("hydra_plugins.hydra_optuna_sweeper._impl")
        optuna.addFilter(lambda record: "Got 'None'" not in record.getMessage())
        _open.append(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read every job's metrics.json, or the error.txt that the door wrote."""
        _open.clear()
        folder = Path(config.hydra.sweep.dir)
        errors = read_errors(folder)
        FAILED.extend(errors)
        rows = [(job, metrics) for job, metrics in read_results(folder) if job not in errors]
        names = sorted({name for _, metrics in rows for name in metrics if isinstance(metrics[name], (int, float))})
        table = [["job", *names], *([job, *(_number(metrics.get(name)) for name in names)] for job, metrics in rows)]
        failed = [{"job": job, "error": error} for job, error in errors.items()]
        if rows or failed:
            with (folder / "results.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, [*table[0], *(["error"] if failed else [])])
                writer.writeheader()
                writer.writerows([dict(zip(table[0], row, strict=True)) for row in table[1:]] + failed)
        if rows:
            widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
            print(f"\nresults of the sweep ({folder}/results.csv):")
            for row in table:
                print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        else:
            print(f"no job of the sweep left results in {folder}")
        for job, error in errors.items():
            print(f"failed: {job}: {error}")


class MetricCurves(Callback):
    """Draws every metric against the number of steps or the scale of guidance, where the jobs of a sweep differ in it."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read every job's metrics.json."""
        from ddpm_lab.evaluation.metric_curves import metric_curves

        folder = Path(config.hydra.sweep.dir)
        drawn = metric_curves([metrics for _, metrics in read_results(folder)], folder)
        if drawn is not None:
            print(f"metrics of all jobs: {drawn}")


def end() -> None:
    """Print the table of a sweep that its sweeper has not brought to its end."""
    for config in list(_open):
        ResultTable().on_multirun_end(config)


def check_metric(config: DictConfig) -> None:
    """Raise ValueError, before a job is trained, where an earlier one of this process has left no optimized_metric."""
    if _minimises(config) and _key(config) in _lacking:
        raise UserError(_lacking[_key(config)])


def result(config: DictConfig, job: Path) -> float | None:
    """The optimized_metric in a finished job's metrics.json, for a sweeper that minimises it; None where none does.

    Raises ValueError where there is none of that name, or it is not a number.
    """
    if not _minimises(config):
        return None
    path, name = job / "metrics.json", config.optimized_metric
    metrics = json.loads(path.read_text()) if path.is_file() else {}
    known = [key for key, value in metrics.items() if isinstance(value, (int, float))]
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        meant = f" did you mean {near[0]}?" if near else ""
        message = (
            f"optimized_metric={name} is not in the metrics.json of a finished job;{meant} it has {', '.join(known)}"
        )
        _lacking[_key(config)] = message
        raise UserError(message)
    if math.isnan(metrics[name]):
        raise UserError(f"optimized_metric={name} came out as nan")
    return float(metrics[name])


def _minimises(config: DictConfig) -> bool:
    """Whether the sweeper asks for a number: Hydra's own, which runs what it is given, does not."""
    return "optimized_metric" in config and not HydraConfig.get().sweeper._target_.endswith(".BasicSweeper")


def _key(config: DictConfig) -> tuple[str, str]:
    return config.optimized_metric, OmegaConf.to_yaml(config.callbacks)


def read_results(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """(job's folder below `folder`, its metrics.json) of every job that has one, in the order of the names.

    Those of a run's evaluations, which lie in its folder, are none of the sweep.
    """
    found = [
        path
        for path in sorted(folder.glob("**/metrics.json"))
        if not any((run / "config.yaml").is_file() for run in path.parent.parents if folder in run.parents)
    ]
    return [(str(path.parent.relative_to(folder)), json.loads(path.read_text())) for path in found]


def read_errors(folder: Path) -> dict[str, str]:
    """Job's folder below `folder` -> why it failed, in the order of the names."""
    return {str(p.parent.relative_to(folder)): p.read_text().strip() for p in sorted(folder.glob("**/error.txt"))}


def read_jobs(folder: Path) -> tuple[list[Job], dict[str, str]]:
    """The finished runs below `folder`, and of every other one its folder -> why it is left out."""
    jobs, unfinished = [], {}
    for record in sorted(folder.glob("**/.hydra/overrides.yaml")):
        job = record.parents[1]
        error = job / "error.txt"
        if error.is_file():
            unfinished[str(job.relative_to(folder))] = error.read_text().strip()
        elif done(job) is None:
            unfinished[str(job.relative_to(folder))] = "it is not finished; resume=auto goes on with it"
        else:
            pairs = (override.lstrip("+~").partition("=") for override in overrides_of(record))
            overrides = {key: value for key, _, value in pairs if not key.startswith(("hydra.", "hydra/"))}
            metrics = job / "metrics.json"
            jobs.append(Job(overrides, json.loads(metrics.read_text()) if metrics.is_file() else {}))
    return jobs, unfinished


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
