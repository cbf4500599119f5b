"""One run's curves, from its scalars.csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from ddpm_lab.errors import UserError

COLUMNS = 4
LOGARITHMIC = ("train/loss", "train/mse", "train/vlb", "train/grad_norm")


def run_curves(scalars: Path, folder: Path, names: Sequence[str] | None) -> Path:
    """Draw every scalar (or those named) against the step, quartiles of one loss in one panel; return the picture's path.

    Raises ValueError where there is nothing to draw, or not what is named.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    curves: dict[str, list[tuple[int, float]]] = {}
    if scalars.is_file():
        with scalars.open(newline="") as file:
            for row in list(csv.reader(file))[1:]:
                if len(row) == 3:  # a run that was killed may have written half a line
                    curves.setdefault(row[1], []).append((int(row[0]), float(row[2])))
    known = sorted(curves)
    for name in names or ():
        if name not in curves:
            raise UserError(f"{scalars} holds no {name}; it holds {', '.join(known) or 'nothing yet'}")
    shown = known if names is None else list(names)
    if not shown:
        raise UserError(f"{scalars} holds no scalar yet: the run logs its first after trainer.log_every_n_steps steps")
    panels: dict[str, list[str]] = {}
    for name in shown:
        head, _, tail = name.rpartition("_")
        panels.setdefault(f"{head} by quartile of t" if tail in ("q0", "q1", "q2", "q3") else name, []).append(name)
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4 * min(COLUMNS, len(panels)), 2.7 * rows), layout="constrained")
    all_axes = figure.subplots(rows, min(COLUMNS, len(panels)), squeeze=False).flatten()
    for axes, (title, members) in zip(all_axes, panels.items(), strict=False):
        for name in members:
            steps, values = zip(*curves[name], strict=True)
            label = f"q{name[-1]}" if len(members) > 1 else None
            axes.plot(steps, values, marker="o" if len(steps) == 1 else None, lw=1, label=label)
        if len(members) > 1:
            axes.legend(fontsize=7, ncols=2)
        if title.startswith(LOGARITHMIC) and all(value > 0 for name in members for _, value in curves[name]):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("optimizer step", fontsize=9)
    path = folder / "curves.png"
    figure.savefig(path, dpi=110)
    return path
