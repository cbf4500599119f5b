"""Kills runs with SIGKILL at every kind of moment and resumes them: each must end bitwise as one never killed.

`make kills` runs the whole matrix, 100 kills in about half an hour; tests/test_kills.py a short one.
"""

import argparse
import itertools
import os
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from tests.doors import Process, checkpoint, scalars

STEPS = 24
OPTIONS = [
    "network.channel_mult=[1]",
    f"trainer.max_steps={STEPS}",
    "trainer.log_every_n_steps=1",
    "trainer.val_check_interval=7",
    "trainer.accelerator=cpu",
    "checkpoint.every=2",
    "data.batch_size=8",
    "schedule.T=40",
    "sampler.steps=10",
    "callbacks.sample_grid.n=40",
    "callbacks.sample_grid.every=6",
    "callbacks.bits_per_dim.bound.images=40",
    "callbacks.bits_per_dim.bound.draws=4",
    "threads=1",
    "logger=csv",
]
MOMENTS = ("step", "checkpoint", "samples", "end")


class Case(NamedTuple):
    """One kind of run."""

    objective: str = "simple"
    timestep_sampler: str = "uniform"
    processes: int = 1
    accumulate: int = 1
    workers: int = 0

    def options(self) -> list[str]:
        found = [f"objective={self.objective}", f"timestep_sampler={self.timestep_sampler}"]
        if self.timestep_sampler == "loss_second_moment":
            found.append("timestep_sampler.history=1")
        if self.processes > 1:
            found += ["trainer=ddp", f"trainer.devices={self.processes}"]
        if self.workers:
            found += [f"data.num_workers={self.workers}", "network.dropout=0.1"]
        return [*found, f"trainer.accumulate_grad_batches={self.accumulate}", f"checkpoint.every={2 + self.accumulate}"]


MATRIX = [
    *itertools.starmap(
        Case, itertools.product(("simple", "hybrid", "vlb"), ("uniform", "loss_second_moment"), (1, 2), (1, 4))
    ),
    Case(workers=2),
]


def start(case: Case, folder: Path) -> Process:
    options = [*OPTIONS, *case.options(), f"hydra.run.dir={folder}", "resume=auto"]
    return Process("train", *options, printed=folder.with_suffix(".txt"))


def is_here(moment: str, folder: Path, chance: random.Random) -> Callable[[], bool]:
    """Whether the run has come to the moment that it is to be killed at."""
    table, printed = folder / "scalars.csv", folder.with_suffix(".txt")
    rows = len(scalars(folder)) if table.exists() else 1
    logged = rows + chance.randrange(1, 80)
    grids = len(list(folder.glob("samples/*.png")))
    late = time.monotonic() + chance.uniform(0, 0.05)
    return {
        "step": lambda: table.exists() and len(scalars(folder)) >= logged,
        "checkpoint": lambda: time.monotonic() > late and any(folder.glob("checkpoints/*.partial")),
        "samples": lambda: len(list(folder.glob("samples/*.png"))) > grids,
        "end": lambda: "drawing" in printed.read_text(),
    }[moment]


def kill(case: Case, folder: Path, moment: str, chance: random.Random) -> bool:
    """Run until the moment and kill every process of the run; False if it ended before."""
    come = is_here(moment, folder, chance)
    process = start(case, folder)
    while process.poll() is None and not come():
        time.sleep(0.0005)
    if process.poll() is not None:
        return False
    process.kill()
    process.wait()
    return True


def finish(case: Case, folder: Path) -> None:
    code = start(case, folder).wait(timeout=300)
    assert code == 0, f"{case}: exit {code}\n{folder.with_suffix('.txt').read_text()[-3000:]}"


def differences(whole: Path, killed: Path) -> list[str]:
    """What is not bitwise the same in two finished runs."""
    a, b = checkpoint(whole), checkpoint(killed)
    found = [] if a["global_step"] == b["global_step"] == STEPS else ["step"]
    found += [name for name, x in a["state_dict"].items() if not torch.equal(x, b["state_dict"][name])]
    for one, two in zip(a["optimizer_states"], b["optimizer_states"], strict=True):
        same = all(torch.equal(x, two["state"][i][name]) for i in one["state"] for name, x in one["state"][i].items())
        found += [] if same and one["param_groups"] == two["param_groups"] else ["optimizer"]
    found += [] if a["lr_schedulers"] == b["lr_schedulers"] else ["lr_schedulers"]
    found += [] if scalars(whole) == scalars(killed) else ["scalars.csv"]
    samples = [np.load(folder / "samples.npz")["arr_0"] for folder in (whole, killed)]
    return found + ([] if np.array_equal(*samples) else ["samples.npz"])


def survive(case: Case, folder: Path, moments: tuple[str, ...], seed: int) -> tuple[int, list[str]]:
    """Kills that met the run, and what then differs from a run never killed."""
    chance = random.Random(seed)
    whole, killed = folder / "whole", folder / "killed"
    finish(case, whole)
    kills = sum(kill(case, killed, moment, chance) for moment in moments)
    finish(case, killed)
    return kills, differences(whole, killed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=len(MATRIX), help="the first so many of the matrix")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="cases at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as base, ThreadPoolExecutor(arguments.workers) as pool:

        def of_case(i: int) -> tuple[Case, int, list[str]]:
            (Path(base) / str(i)).mkdir()
            return MATRIX[i], *survive(MATRIX[i], Path(base) / str(i), MOMENTS, arguments.seed + i)

        kills = survived = 0
        for case, met, found in pool.map(of_case, range(arguments.cases)):
            kills += met
            survived += 0 if found else met
            print(f"{tuple(case)}: {met} kills, {found or 'bitwise equal'}", flush=True)
    print(f"{survived} of {kills} kills survived bitwise")
    raise SystemExit(survived != kills)


if __name__ == "__main__":
    main()
