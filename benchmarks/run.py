"""Everything that is claimed of speed, in one go: `make bench`, or `python -m benchmarks.run rounds=7 parts=sampling,data`.

Ours and the peers from the registry take turns on one thread; what is printed are medians of the rounds' ratios. Writes
benchmarks/results/<machine>.json, .md and .png. improved-diffusion takes part where PYTHONPATH names a checkout of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from benchmarks import pipeline, sampling, training
from benchmarks.paired import ROUNDS, Row

from ddpm_lab.runs import commit

RESULTS = Path(__file__).parent / "results"
PARTS: dict[str, Callable[[int], Iterator[Row]]] = {
    "lightning": pipeline.lightning_rows,
    "loop": sampling.loop_rows,
    "sampling": sampling.rows,
    "data": pipeline.data_rows,
    "bound": lambda rounds: pipeline.bound_rows(),
    "fid": pipeline.fid_rows,
    "start": pipeline.start_rows,
    "memory": lambda rounds: pipeline.memory_rows(),
    "update": training.update_rows,
    # Last: once torch.compile has run, every call of a Python function in the process is slower.
    "training": lambda rounds: training.rows(rounds, compile=True),
    "compiled": sampling.compiled_rows,
}
PEERS = ("torch", "diffusers", "denoising-diffusion-pytorch", "torch-fidelity", "torchvision", "lightning")


def machine() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        flags = Path("/proc/cpuinfo").read_text()
        if found:
            return found[1] + (" with AMX" if "amx_bf16" in flags else "")
    return platform.processor() or platform.machine()


def cell(value: float | None, unit: str) -> str:
    """A number with as many digits as say something."""
    if value is None:
        return ""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = ["| part | what | peer | ours | theirs | times better (quartiles) | goal | aim | met |", "|" + "---|" * 9]
    for row in rows:
        times = f"**{row.ratio[1]:.2f}** ({row.ratio[0]:.2f} to {row.ratio[2]:.2f})" if row.ratio else ""
        unit = "" if row.ratio else row.unit
        sign = "" if row.bar is None else "≥ " if row.ratio or not row.least else "≤ "
        goal = sign + cell(row.bar, unit) if row.bar is not None else ""
        met = {True: "yes", False: "**no**", None: ""}[row.met]
        cells = (
            row.part, row.name, row.peer, cell(row.ours, row.unit), cell(row.theirs, row.unit), times, goal,
            cell(row.aim, unit), met,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


COLOURS = {
    "improved-diffusion": "tab:green",
    "diffusers": "tab:blue",
    "diffusers in bf16": "lightskyblue",
    "torch-fidelity": "tab:purple",
    "torchvision": "tab:grey",
}


def chart(rows: list[Row], path: Path, title: str) -> None:
    """A bar for each ratio, its quartiles as a line, and a red mark where its goal stands; peers of one thing side by side."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    names: dict[str, list[Row]] = {}
    for row in rows:
        if row.ratio is not None and row.peer in COLOURS:
            names.setdefault(f"{row.part}: {row.name}", []).append(row)
    figure = Figure(figsize=(8.4, 0.34 * len(names) + 1.3), layout="constrained")
    axes = figure.subplots()
    for y, group in enumerate(reversed(names.values())):
        height = 0.8 / len(group)
        for k, row in enumerate(group):
            low, median, high = row.ratio  # type: ignore[misc]
            place = y + 0.4 - height * (k + 0.5)
            axes.barh(place, median, height, color=COLOURS[row.peer])
            axes.plot([low, high], [place, place], color="black", linewidth=1.2)
            if row.bar is not None:
                axes.plot([row.bar] * 2, [place - height / 2, place + height / 2], color="tab:red", linewidth=2)
    axes.set_yticks(range(len(names)), list(reversed(names)), fontsize=7)
    axes.set_xscale("log", base=2)
    ticks = [0.5, 1, 2, 4, 8, 16]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_ylim(-0.6, len(names) - 0.4)
    figure.suptitle(title, fontsize=7)
    handles = [Patch(color=colour, label=peer) for peer, colour in COLOURS.items()]
    axes.legend(handles=handles, fontsize=7, title="how many times better than", title_fontsize=7, loc="lower right")
    figure.savefig(path, dpi=110)


def save(rows: list[Row], out: Path, title: str, text: str) -> None:
    """Write the table, its numbers and the chart, under the machine's name."""
    out.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9]+", "_", machine()).strip("_").lower()
    (out / f"{name}.md").write_text(text)
    (out / f"{name}.json").write_text(
        json.dumps({"about": title, "rows": [row._asdict() for row in rows]}, indent=1) + "\n"
    )
    chart(rows, out / f"{name}.png", title)


def main() -> None:
    """Run the parts that were asked for, all if none were; only all of them, or out=…, leave files."""
    options = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    parts = options.get("parts", ",".join(PARTS)).split(",")
    rounds = options.get("rounds", str(ROUNDS))
    if (
        options.keys() - {"rounds", "parts", "out"}
        or not set(parts) <= PARTS.keys()
        or not rounds.isdigit()
        or int(rounds) < 2
    ):
        sys.exit(f"error: options are rounds= (at least 2), out= and parts= of {', '.join(PARTS)}")
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("error: the peers must have one thread too: OMP_NUM_THREADS=1 python -m benchmarks.run, or make bench")
    out = options.get("out", str(RESULTS) if set(parts) == PARTS.keys() else None)
    torch.set_num_threads(1)
    start, rows, measured = time.perf_counter(), [], commit()
    for part in parts:
        print(f"{part} …", file=sys.stderr, flush=True)
        with contextlib.redirect_stderr(io.StringIO()):  # the peers' progress bars
            rows += list(PARTS[part](int(rounds)))
    minutes = (time.perf_counter() - start) / 60
    versions = ", ".join(f"{name} {version(name)}" for name in PEERS)
    title = f"{machine()}, one thread, CPU seconds, {rounds} rounds, {minutes:.0f} min, commit {measured}"
    text = f"{title}\n\n{versions}\n\n{table(rows)}\n"
    print(text)
    if out is not None:
        save(rows, Path(out), title, text)


if __name__ == "__main__":
    main()
