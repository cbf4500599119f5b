"""One run's curves, from its scalars.csv."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm_lab.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4
LINES = 14  # of a panel of text
LOGARITHMIC = ("train/loss", "train/mse", "train/vlb", "train/grad_norm")

Curve = list[tuple[int, float]]


def run_curves(scalars: Path, folder: Path, names: Sequence[str] | None) -> Path:
    """Draw every scalar (or those named) against the step; return the picture's path.

    Raises ValueError where there is nothing to draw, or not what is named.
    """
    curves: dict[str, Curve] = {}
    if scalars.is_file():
        # A run that was killed may have written half a line.
        whole = scalars.read_text().rpartition("\n")[0]
        for step, name, value in list(csv.reader(whole.splitlines()))[1:]:
            curves.setdefault(name, []).append((int(step), float(value)))
    known = sorted(curves)
    for name in names or ():
        if name not in curves:
            raise UserError(f"{scalars} holds no {name}; it holds {', '.join(known) or 'nothing yet'}")
    shown = known if names is None else list(names)
    if not shown:
        raise UserError(f"{scalars} holds no scalar yet: the run logs its first after trainer.log_every_n_steps steps")
    path = folder / "curves.png"
    draw({name: curves[name] for name in shown}).savefig(path, dpi=110)
    return path


def draw(curves: Mapping[str, Curve]) -> Figure:
    """Quartiles of one loss in one panel, equal scalars in one curve, and in words what was logged once."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    panels = _panels({name: curve for name, curve in curves.items() if len(curve) > 1})
    once = [(name, *curve[0]) for name, curve in curves.items() if len(curve) == 1]
    lines = [f"{name} = {value:.4g}  (step {step})" for name, step, value in once]
    texts = [lines[first : first + LINES] for first in range(0, len(lines), LINES)]
    count = len(panels) + len(texts)
    rows, columns = -(-count // COLUMNS), min(COLUMNS, count)
    figure = Figure(figsize=(4 * columns, 2.7 * rows), layout="constrained")
    all_axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, (title, members) in zip(all_axes, panels.items(), strict=False):
        for name in members:
            steps, values = zip(*curves[name], strict=True)
            axes.plot(steps, values, lw=1, label=f"q{name[-1]}" if len(members) > 1 else None)
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
    for axes, text in zip(all_axes[len(panels) :], texts, strict=False):
        axes.set_axis_off()
        axes.set_title("logged once", fontsize=9, loc="left")
        axes.text(0, 1, "\n".join(text), va="top", fontsize=8, linespacing=1.4, transform=axes.transAxes)
    for axes in all_axes[count:]:
        axes.set_visible(False)
    if panels:
        figure.supxlabel("optimizer step", fontsize=9)
    return figure


def _panels(curves: Mapping[str, Curve]) -> dict[str, list[str]]:
    """Title -> the scalars drawn under it: the quartiles of a loss, or the first of those that are equal."""
    panels: dict[str, list[str]] = {}
    for name, curve in curves.items():
        head, _, tail = name.rpartition("_")
        if tail in ("q0", "q1", "q2", "q3"):
            panels.setdefault(f"{head} by quartile of t", []).append(name)
            continue
        same = next((title for title, members in panels.items() if [curves[m] for m in members] == [curve]), None)
        if same is None:
            panels[name] = [name]
        else:
            panels = {f"{title} = {name}" if title == same else title: members for title, members in panels.items()}
    return panels
