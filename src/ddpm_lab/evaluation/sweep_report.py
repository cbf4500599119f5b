"""A sweep's table and picture: for every choice the mean over its seeds, and how far the seeds lie apart."""

from __future__ import annotations

import csv
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.protocols import OF_THE_MODEL, differences, protocol_of, refusal

OF_THE_PLACE = ("resume", "skip_finished", "data_root", "cache", "threads", "logger")  # they change no number
# How images are drawn may differ, too, where the sweep varies an option with such a word in it.
DRAWN = {"sampler", "eta", "spacing", "given_times", "clip", "steps", "calls", "start_signal"}
VARIES_IT = {"sampler", "final_sampler", "schedule"}


class Job(NamedTuple):
    """A finished run: its overrides key -> value, and its metrics.json."""

    overrides: Mapping[str, str]
    metrics: Mapping[str, Any]


class Row(NamedTuple):
    """One metric of the jobs that differ in nothing but their seed."""

    choice: str
    metric: str
    mean: float
    sd: float | None  # over seeds, of one run; None for one seed
    seeds: int
    values: list[float]


def rows(jobs: Sequence[Job], metrics: Sequence[str] | None) -> list[Row]:
    """The rows of the table. metrics: None takes all numbers that have a protocol beside them, but for those of `left_out`.

    Raises ValueError where there is no job, or none has a metric that is named.
    """
    varied, refused = _varied(jobs), left_out(jobs, metrics)
    found: dict[tuple[str, str], list[float]] = {}
    for name in _shown(jobs, metrics):
        for job in () if name in refused else _having(jobs, name):
            found.setdefault((_choice(job, varied), name), []).append(float(job.metrics[name]))
    return [
        Row(choice, name, statistics.fmean(v), statistics.stdev(v) if len(v) > 1 else None, len(v), v)
        for (choice, name), v in sorted(found.items(), key=lambda item: (item[0][1], item[0][0]))
    ]


def left_out(jobs: Sequence[Job], metrics: Sequence[str] | None) -> dict[str, str]:
    """Metric -> why it is not in the table: its protocols differ in more than the model and the sampling that is swept."""
    varied, refused = _varied(jobs), {}
    samples_otherwise = VARIES_IT & {part for key in varied for part in key.split(".")}
    may_differ = OF_THE_MODEL | (DRAWN if samples_otherwise else set())
    for name in _shown(jobs, metrics):
        protocols = [(job, protocol_of(job.metrics, name)) for job in _having(jobs, name)]
        keys = differences([protocol for _, protocol in protocols], may_differ)
        if keys:
            named = [(_choice(job, [*varied, "seed"]), protocol) for job, protocol in protocols]
            refused[name] = refusal(name, named, keys)
    return refused


def _shown(jobs: Sequence[Job], metrics: Sequence[str] | None) -> Sequence[str]:
    if not jobs:
        raise UserError("no run in this folder is finished (has a file DONE)")
    known = sorted({name for job in jobs for name in job.metrics if _having([job], name)})
    for name in metrics or ():
        if name not in known:
            raise UserError(f"no run has a metric {name}; they have {', '.join(known)}")
    return metrics or [name for name in known if any(f"{name}_protocol" in job.metrics for job in jobs)]


def _having(jobs: Sequence[Job], name: str) -> list[Job]:
    return [job for job in jobs if isinstance(job.metrics.get(name), (int, float))]


def _varied(jobs: Sequence[Job]) -> list[str]:
    """The overrides in which jobs differ, but for their seed and what changes no number."""
    return [
        key
        for key in dict.fromkeys(key for job in jobs for key in job.overrides)
        if key != "seed" and key.split(".")[0] not in OF_THE_PLACE and len({job.overrides.get(key) for job in jobs}) > 1
    ]


def _choice(job: Job, varied: Sequence[str]) -> str:
    return ", ".join(f"{key}={job.overrides[key]}" for key in varied if key in job.overrides) or "default"


def sweep_report(jobs: Sequence[Job], folder: Path, metrics: Sequence[str] | None) -> str:
    """Write report.csv and report.png; return the table as text. Raises ValueError where a metric that is named is left out."""
    table, refused = rows(jobs, metrics), list(left_out(jobs, metrics).values())
    if not table or (metrics and refused):
        nothing = "the finished runs have no number with a protocol to report; name others with only=[…]"
        raise UserError("; ".join(refused) or nothing)
    with (folder / "report.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("choice", "metric", "mean", "sd", "seeds"), *((r.choice, r.metric, r.mean, r.sd, r.seeds) for r in table)]
        )
    _draw(table, folder / "report.png")
    lines = []
    for metric in dict.fromkeys(row.metric for row in table):
        lines.append(metric)
        of_it = sorted((row for row in table if row.metric == metric), key=lambda row: row.mean)
        width = max(len(_short(row.choice)) for row in of_it)
        for row in of_it:
            spread = "one seed" if row.sd is None else f"± {row.sd:.2g} over {row.seeds} seeds"
            lines.append(f"  {_short(row.choice).ljust(width)}  {row.mean:.5g}  {spread}")
    return "\n".join([*lines, *refused, f"-> {folder}/report.png, report.csv"])


def _draw(table: Sequence[Row], path: Path) -> None:
    """A panel for each metric: every seed a dot, their mean a bar with the standard deviation over seeds."""
    from matplotlib.figure import Figure

    choices = list(dict.fromkeys(row.choice for row in table))[::-1]
    metrics = list(dict.fromkeys(row.metric for row in table))
    columns = min(3, len(metrics))
    lines = math.ceil(len(metrics) / columns)
    labels = [_short(choice) for choice in choices]
    longest = max(map(len, labels)) * 0.085
    figure = Figure(figsize=(longest + 3.6 * columns, lines * (1.1 + 0.32 * len(choices)) + 0.4), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
    for axes, metric in zip(panels, metrics, strict=False):
        for row in (row for row in table if row.metric == metric):
            y = choices.index(row.choice)
            axes.scatter(row.values, [y] * row.seeds, s=22, color="C0", alpha=0.6, linewidths=0, zorder=3)
            axes.errorbar(
                row.mean, y, xerr=row.sd, fmt="|", color="black", markersize=14, capsize=4, elinewidth=1, zorder=2
            )
        axes.set_yticks(range(len(choices)), labels, fontsize=8)
        axes.set_ylim(-0.6, len(choices) - 0.4)
        axes.set_title(metric, fontsize=10)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(alpha=0.3)
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    figure.suptitle("one dot a seed; the bar is their mean, with the standard deviation over seeds", fontsize=9)
    figure.savefig(path, dpi=110)


def _short(choice: str) -> str:
    """Without the digits of a number that nobody gave: optimizer.lr=0.007093813024 as optimizer.lr=0.00709381."""
    return re.sub(r"\d+\.\d{9,}", lambda number: f"{float(number[0]):.6g}", choice)
