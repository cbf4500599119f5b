"""Metrics against the number of steps, one line for each sampler (Song et al. 2021, table 1), or against the guidance."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_lab.evaluation.protocols import Protocol, differences, refusal

# What metrics are drawn against, the first that varies: key of the protocol -> name of the axis.
AXES = {"steps": "sampling steps", "guidance.scale": "guidance scale"}
# What may differ beside it between two points of one line.
ALONG = {"seed", "commit", "packages", "calls", "start_signal"}
# In what the points of one metric may not differ; any other difference of their protocols makes another line.
FIXED = {
    *("n", "samples", "features", "reference_features", "of", "subsets", "subset_size", "splits", "neighbours"),
    *("reference", "reference_n", "reference_images", "reference_sha256"),
    *("extractor", "extractor_sha256", "resize", "transparent"),
}


class Point(NamedTuple):
    """One metric of one line at x, mean and spread over the jobs that differ in their seed."""

    metric: str
    line: str
    x: float
    value: float
    spread: float | None


def points(jobs: Sequence[Mapping[str, Any]], axis: str) -> list[Point]:
    """The points that the metrics.json of jobs hold: every number with a protocol that tells sampler and `axis`.

    A metric that `left_out` names has none.
    """
    refused = left_out(jobs, axis)
    found = [entry for name, entries in _found(jobs, axis).items() if name not in refused for entry in entries]
    protocols = [protocol for _, _, protocol in found]
    apart = sorted(
        {
            key
            for a in protocols
            for key in a
            if key not in {axis, *ALONG, *FIXED} and any(b.get(key) != a[key] for b in protocols)
        }
    )
    groups: dict[tuple[str, str, float], list[float]] = {}
    for name, value, protocol in found:
        groups.setdefault((name, _line(protocol, apart), protocol[axis]), []).append(value)
    return [
        Point(*key, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)
        for key, values in sorted(groups.items())
    ]


def left_out(jobs: Sequence[Mapping[str, Any]], axis: str) -> dict[str, str]:
    """Metric -> why it is not drawn: its jobs' protocols differ in what makes numbers comparable."""
    refused = {}
    for name, entries in _found(jobs, axis).items():
        protocols = [protocol for _, _, protocol in entries]
        keys = [key for key in differences(protocols, ()) if key in FIXED]
        if keys:
            named = [(f"{axis}={protocol[axis]}", protocol) for protocol in protocols]
            refused[name] = refusal(name, named, keys)
    return refused


def _found(jobs: Sequence[Mapping[str, Any]], axis: str) -> dict[str, list[tuple[str, float, Protocol]]]:
    """Metric -> its (name, value, protocol) in every job that tells sampler and `axis`."""
    found: dict[str, list[tuple[str, float, Protocol]]] = {}
    for job in jobs:
        for name in job:
            if {"sampler", axis} <= job.get(f"{name}_protocol", {}).keys():
                found.setdefault(name, []).append((name, job[name], job[f"{name}_protocol"]))
    return found


def metric_curves(jobs: Sequence[Mapping[str, Any]], folder: Path) -> Path | None:
    """Write metrics_vs_steps.png (or _scale) and its .csv to the folder; None, and nothing, where nothing can be compared."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    axis = next((axis for axis in AXES if len({point.x for point in points(jobs, axis)}) > 1), None)
    for sentence in {name: why for each in AXES for name, why in left_out(jobs, each).items()}.values():
        print(sentence)
    if axis is None:
        return None
    found = points(jobs, axis)
    places = sorted({point.x for point in found})
    path = folder / f"metrics_vs_{axis.rsplit('.', 1)[-1]}.png"
    with path.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([("metric", "line", axis, "value", "spread"), *found])
    metrics = sorted({point.metric for point in found}, key=lambda name: (not name.startswith("fid"), name))
    lines = list(dict.fromkeys(point.line for point in found))
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.3 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, metric in zip(panels, metrics, strict=False):
        for k, line in enumerate(lines):
            chosen = [point for point in found if (point.metric, point.line) == (metric, line)]
            x, y = [point.x for point in chosen], [point.value for point in chosen]
            axes.errorbar(
                x, y, [point.spread or 0 for point in chosen], marker="o", capsize=3, label=line, color=f"C{k}"
            )
        if axis == "steps":
            axes.set_xscale("log")
            axes.set_xticks(places, [str(place) for place in places])
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set(title=metric, xlabel=AXES[axis])
        axes.grid(alpha=0.3)
        if metric.startswith(("fid", "sfid")) and all(point.value > 0 for point in found if point.metric == metric):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(lines))
    figure.savefig(path, dpi=110)
    return path


def _line(protocol: Mapping[str, Any], apart: Sequence[str]) -> str:
    """The sampler, and what else sets this job apart from others."""
    others = [f"{key} = {protocol[key]}" for key in apart if key != "sampler" and protocol.get(key) is not None]
    return ", ".join([protocol["sampler"], *others])
