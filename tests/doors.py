"""Run the doors (train.py, sample.py, evaluate.py) as a user does, in processes of their own; read what they wrote."""

import atexit
import csv
import functools
import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
QUICK = [
    "network.channel_mult=[1]",
    "trainer.max_steps=12",
    "trainer.log_every_n_steps=4",
    "trainer.val_check_interval=6",
    "checkpoint.every=6",
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


_asking = threading.Lock()


def _ask(**question: Any) -> Any:
    with _asking:
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        print(json.dumps(question), file=server.stdin, flush=True)
        return json.loads(server.stdout.readline())


class Process:
    """A process of a door, or of a function, file:name, which leads a group of its own.

    What it prints, on both streams, is in the file `printed`.
    """

    def __init__(
        self, entry: str, *arguments: Any, printed: Path, cwd: Path = ROOT, variables: dict[str, str] | None = None
    ) -> None:
        self.printed = printed
        printed.write_text("")
        request = {"entry": entry, "arguments": arguments, "cwd": str(cwd), "printed": str(printed.absolute())}
        self.pid = _ask(start={**request, "environment": environment() | (variables or {})})
        self.code: int | None = None

    def poll(self) -> int | None:
        """The exit code, that of a signal below 0; None while it runs."""
        if self.code is None:
            self.code = _ask(ended=self.pid)
        return self.code

    def wait(self, timeout: float = 300) -> int:
        """The exit code once it has ended; all of its group is killed where that takes longer."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(self.printed.read_text()[-6000:])
            time.sleep(0.005)
        return code

    def kill(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)


def in_two_processes(function: Callable[[int, str], None], folder: Path) -> None:
    """function(rank, folder) for ranks 0 and 1, each in a process of its own."""
    entry = f"{inspect.getfile(function)}:{function.__name__}"
    ranks = [Process(entry, rank, str(folder), printed=folder / f"printed{rank}") for rank in range(2)]
    for process in ranks:
        assert process.wait() == 0, process.printed.read_text()


def run(
    door: str,
    *arguments: str,
    cwd: Path = ROOT,
    expect: int = 0,
    timeout: float = 300,
) -> str:
    """What the door printed, on both streams, once it has ended with the exit code that is expected."""
    with tempfile.TemporaryDirectory() as folder:
        process = Process(door, *arguments, printed=Path(folder) / "printed", cwd=cwd)
        code = process.wait(timeout)
        printed = process.printed.read_text()
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
