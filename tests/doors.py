"""Run the doors (train.py, sample.py, evaluate.py) as a user does, in processes of their own; read what they wrote."""

import atexit
import csv
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
QUICK = [
    "trainer.max_steps=12",
    "trainer.log_every_n_steps=4",
    "trainer.val_check_interval=6",
    "checkpoint.every=3",
    "data.batch_size=16",
    "schedule.T=40",
    "sampler.steps=4",
    "callbacks.sample_grid.n=6",
    "callbacks.sample_grid.every=5",
    "callbacks.bits_per_dim.bound.images=20",
    "callbacks.bits_per_dim.bound.draws=2",
    "threads=1",
]


def command(door: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / f"{door}.py"), *arguments]


def environment() -> dict[str, str]:
    hidden = {"WANDB_API_KEY", "WANDB_MODE", "LOCAL_RANK", "MASTER_PORT"}
    return {k: v for k, v in os.environ.items() if k not in hidden} | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


@functools.cache
def _server() -> subprocess.Popen:
    server = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "tests" / "fork_doors.py")],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.kill)
    return server


def run(door: str, *arguments: str, cwd: Path = ROOT, expect: int = 0, timeout: float = 300) -> str:
    """What the door printed, on both streams, once it has ended with the exit code that is expected."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.NamedTemporaryFile("r") as output:
        request = {"door": door, "arguments": arguments, "cwd": str(cwd)}
        print(
            json.dumps({**request, "environment": environment(), "output": output.name}), file=server.stdin, flush=True
        )
        process = int(server.stdout.readline())
        if not select.select([server.stdout], [], [], timeout)[0]:
            os.kill(process, signal.SIGKILL)
        code = int(server.stdout.readline())
        printed = output.read()
    assert code == expect, f"{arguments}: exit {code}\n{printed[-6000:]}"
    return printed


def written(run: Path, name: str) -> Path:
    """The newest file of this name that sample.py or evaluate.py has written in a run's folder."""
    found = [path for kind in ("drawn", "evaluations") for path in run.glob(f"{kind}/*/{name}")]
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def scalars(folder: Path) -> list[list[str]]:
    with (folder / "scalars.csv").open() as file:
        return [row for row in csv.reader(file) if row[1] != "train/images_per_second"]


def width(path: Path) -> int:
    with Image.open(path) as picture:
        return picture.width
