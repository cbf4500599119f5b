"""A sweep's job in a process of its own, where the job itself has several: they know of one job, and end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import DictConfig

from ddpm_lab.errors import UserError
from ddpm_lab.folders import command_line

SWEEP = "DDPM_LAB_SWEEP"  # holds the sweep's name in a job's processes


class JobFailedError(Exception):
    """A job's process has ended with a failure, of which it has told."""


def needs_processes(config: DictConfig) -> bool:
    """Whether this job of a sweep is to start processes. Not where submitit has started them, all for this one job.

    Raises ValueError where torchrun or srun has started several: each would run the whole sweep.
    """
    for name, launcher in (("WORLD_SIZE", "torchrun"), ("SLURM_STEP_NUM_TASKS", "srun")):
        if int(os.environ.get(name, "1")) > 1:
            if "SUBMITIT_EXECUTOR" in os.environ:
                return False
            raise UserError(
                f"{launcher} has started {os.environ[name]} processes and each would run the whole sweep: start -m with "
                "python, which starts every job's processes, or give the sweep a launcher (hydra/launcher=…)"
            )
    trainer = config.get("trainer")
    return trainer is not None and (trainer.devices not in (1, "1") or trainer.num_nodes != 1)


def run_job(arguments: list[str], folder: Path, sweep: str) -> None:
    """Run this door again with these arguments for one job, and wait for it; signals are passed on.

    Raises JobFailedError if it fails, SystemExit if it was asked to stop, as the sweep then is.
    """
    asked: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if number == signal.SIGTERM or not sys.stdin.isatty():  # a terminal's Ctrl-C has reached the job already
            process.send_signal(number)

    handlers: dict[signal.Signals, Any] = {}
    command = [sys.executable, command_line()[0], *arguments, f'hydra.run.dir="{folder}"']
    process = subprocess.Popen(command, env={**os.environ, SWEEP: sweep})
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.signal(number, pass_on)
        code = process.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if asked:
        raise SystemExit(1)
    if code:
        raise JobFailedError(f"its process ended with exit code {code}")
