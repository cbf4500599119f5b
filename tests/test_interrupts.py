"""What stops a run, in real processes: signals to one process and to two, kill -9 at the end; what refuses to start."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_lab.networks.precision import has_bf16
from ddpm_lab.runs import latest_checkpoint
from tests.doors import QUICK, ROOT, Process, checkpoint, command, environment, run, written

LONG = [*QUICK, "logger=csv", "trainer.max_steps=100000", "checkpoint.every=5"]
DDP = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]


class Run:
    """train.py in a process group of its own."""

    def __init__(self, folder: Path, *options: str, **variables: str) -> None:
        self.folder = folder
        self.printed = folder.with_suffix(".txt")
        self.process = Process("train", *options, f"hydra.run.dir={folder}", printed=self.printed, variables=variables)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert self.process.poll() is None, self.printed.read_text()[-2000:]
            assert time.monotonic() < deadline, self.printed.read_text()[-2000:]
            time.sleep(0.02)

    def until_saved(self) -> None:
        self.until((self.folder / "checkpoints" / "last.ckpt").exists)

    def until_it_says(self, words: str) -> None:
        self.until(lambda: words in self.printed.read_text())

    def until_all_left(self) -> None:
        deadline = time.monotonic() + 30
        try:
            while time.monotonic() < deadline:
                os.killpg(self.process.pid, 0)
                time.sleep(0.1)
        except ProcessLookupError:
            return
        os.killpg(self.process.pid, signal.SIGKILL)
        pytest.fail("a process was left behind")

    def kill(self, number: int, group: bool = False) -> None:
        (os.killpg if group else os.kill)(self.process.pid, number)

    def output(self, *, fails: bool = True) -> str:
        code = self.process.wait(timeout=100)
        printed = self.printed.read_text()
        assert (code != 0) == fails, printed[-2000:]
        return printed


def on_two_nodes(folder: Path, *options: str) -> list[Run]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    nodes = ["trainer.devices=1", "trainer.num_nodes=2"]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [Run(folder / f"node{i}", *options, *DDP, *nodes, NODE_RANK=str(i), **shared) for i in range(2)]


def batches(folder: Path) -> int:
    return checkpoint(folder)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"]


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize(("number", "accumulate"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_signal_saves_and_the_run_goes_on(tmp_path: Path, number: signal.Signals, accumulate: int) -> None:
    options = [*LONG, f"trainer.accumulate_grad_batches={accumulate}"]
    process = Run(tmp_path / "run", *options)
    process.until_saved()
    process.kill(number)
    output = process.output()
    assert "nothing is lost" in output
    step = checkpoint(process.folder)["global_step"]
    assert f"stopped by {number.name} after step {step}" in output
    assert batches(process.folder) == step * accumulate
    before = metrics(process.folder)["train/seconds"]
    output = run("train", *options, "resume=auto", f"trainer.max_steps={step + 2}", f"hydra.run.dir={process.folder}")
    assert f"resumed at step {step}" in output
    assert checkpoint(process.folder)["global_step"] == step + 2
    assert batches(process.folder) == (step + 2) * accumulate
    assert metrics(process.folder)["train/seconds"] > before > 0


def test_two_ranks_leave_together(tmp_path: Path) -> None:
    """Of one launcher, all of them told to go."""
    options = [*LONG, *DDP, "trainer.accumulate_grad_batches=2"]
    process = Run(tmp_path / "run", *options)
    process.until_saved()
    process.kill(signal.SIGTERM, group=True)
    output = process.output()
    step = checkpoint(process.folder)["global_step"]
    assert f"stopped by SIGTERM after step {step}; nothing is lost" in output
    assert batches(process.folder) == step * 2
    process.until_all_left()
    # Into another folder, so that the first save comes before any rank has a loss to sum.
    other = tmp_path / "other"
    resume = [f"resume={process.folder}/checkpoints/last.ckpt", "checkpoint.every=1", f"trainer.max_steps={step + 2}"]
    run("train", *options, *resume, f"hydra.run.dir={other}")
    assert checkpoint(other)["global_step"] == step + 2
    assert batches(other) == (step + 2) * 2


def test_two_nodes_leave_together_and_one_writes(tmp_path: Path) -> None:
    """Of two launchers, the first alone told to go."""
    nodes = on_two_nodes(tmp_path, *LONG)
    nodes[0].until_saved()
    nodes[0].kill(signal.SIGINT)
    output = nodes[0].output()
    step = checkpoint(nodes[0].folder)["global_step"]
    assert f"stopped by SIGINT after step {step}; nothing is lost" in output
    nodes[1].output(fails=False)  # the first speaks for all, by its exit code too
    assert batches(nodes[0].folder) == step
    written = [{path.name for path in node.folder.iterdir()} for node in nodes]
    assert {"config.yaml", "provenance.json", "metrics.json", "checkpoints", "scalars.csv"} <= written[0]
    assert written[1] <= {".hydra"}


def test_a_rank_that_fails_ends_the_job_with_its_message(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for k in range(40):
        Image.fromarray(np.full((8, 8), 6 * k, np.uint8)).save(images / f"{k:02}.png")
    (images / "07.png").write_bytes((images / "07.png").read_bytes()[:40])
    data = ["data=image_folder", f"data.dataset.root={images}", "data.image_size=8", "data.channels=1"]
    start = time.monotonic()
    process = Run(tmp_path / "run", *LONG, *data, *DDP)
    output = process.output()
    assert time.monotonic() - start < 60
    assert "error: Cannot read the image" in output
    assert "07.png" in output
    assert "Traceback" not in output
    process.until_all_left()


def test_a_run_is_not_overwritten(trained: Path) -> None:
    files = [trained / "checkpoints" / "last.ckpt", trained / "config.yaml", trained / "scalars.csv"]
    before = [file.read_bytes() for file in files]
    output = run("train", *QUICK, "logger=csv", f"hydra.run.dir={trained}", expect=1)
    assert f"{trained} holds a run already; add resume=auto to continue it, or give another hydra.run.dir" in output
    assert [file.read_bytes() for file in files] == before


def test_the_end_phase_is_made_up_for(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = [*QUICK, "logger=csv", "trainer.max_steps=2"]
    slow = [*options, "callbacks.sample_grid.n=20000"]
    for number, attempt in ((signal.SIGTERM, []), (signal.SIGINT, ["resume=auto"]), (signal.SIGKILL, ["resume=auto"])):
        process = Run(folder, *slow, *attempt)
        process.until_it_says("drawing")
        assert checkpoint(folder)["global_step"] == 2
        process.kill(number)
        output = process.output()
        assert ("make up for what is missing" in output) == (number != signal.SIGKILL)
        assert not (folder / "samples.npz").exists()
    run("train", *options, "resume=auto", f"hydra.run.dir={folder}")
    assert np.load(folder / "samples.npz")["arr_0"].shape == (6, 8, 8, 1)
    assert metrics(folder)["test/bits_per_dim"] > 0
    assert metrics(folder)["step"] == 2
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if ".hydra" not in path.parts}
    assert "is complete, with 2 steps" in run("train", *options, "resume=auto", f"hydra.run.dir={folder}")
    assert {path: path.stat().st_mtime_ns for path in written} == written


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
def test_a_precision_of_the_weights_is_refused(tmp_path: Path, precision: str) -> None:
    output = run("train", *QUICK, f"trainer.precision={precision}", f"hydra.run.dir={tmp_path}/run", expect=1)
    assert output.strip().splitlines()[-1].startswith(f"error: trainer.precision={precision}")


def test_half_precision_is_clipped_by_value(tmp_path: Path) -> None:
    clip = ["trainer.gradient_clip_algorithm=value", "trainer.gradient_clip_val=0.5", "trainer.max_steps=2"]
    said = run("train", *QUICK, *clip, "trainer.precision=16", "logger=csv", f"hydra.run.dir={tmp_path}/run")
    assert "trainer.precision=16 is bf16-mixed on a CPU" in said
    assert "\n  precision: bf16-mixed\n" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_checkpoint_names_its_run(trained: Path) -> None:
    said = run("sample", f"run={trained}/checkpoints/best.ckpt", "n=3", "sampler.steps=4", "precision=auto")
    protocol = json.loads(written(trained, "samples.json").read_text())["protocol"]
    assert protocol["precision"] == ("bf16" if has_bf16("cpu") else "fp32")
    assert f"precision=auto: {protocol['precision']}, for " in said
    assert np.load(written(trained, "samples.npz"))["arr_0"].shape == (3, 8, 8, 1)


def test_a_half_written_checkpoint_is_never_taken(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt.partial").touch()
    assert latest_checkpoint(tmp_path) is None
    for i, name in enumerate(("last-v1.ckpt", "last.ckpt", "best.ckpt", "last.ckpt.partial")):
        (tmp_path / "checkpoints" / name).touch()
        os.utime(tmp_path / "checkpoints" / name, (i, i))
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "last.ckpt"


def test_slurm_warns_of_the_end_and_the_job_is_queued_again(tmp_path: Path) -> None:
    """SLURM's own part is a program on the path that notes what it was told; all else is real."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n')
    scontrol.chmod(0o755)
    path = f"{scontrol.parent}:{os.environ['PATH']}"
    folder = tmp_path / "run"
    one = Run(folder, *LONG, PATH=path, SLURM_JOB_ID="17", SLURM_ARRAY_JOB_ID="15", SLURM_ARRAY_TASK_ID="2")
    one.until_saved()
    one.kill(signal.SIGUSR1)
    printed = one.output()
    assert "job 15_2 is in SLURM's queue again" in printed
    assert "stopped by SIGUSR1" in printed
    assert (tmp_path / "told").read_text() == "requeue 15_2\n"
    step = checkpoint(folder)["global_step"]
    assert f"resumed at step {step}" in run(
        "train", *LONG, "resume=auto", f"trainer.max_steps={step + 2}", f"hydra.run.dir={folder}"
    )


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    """A limit on a file's size stands for the disk's: a checkpoint stops at it in its middle."""
    options = [*QUICK, "logger=csv", f"hydra.run.dir={tmp_path / 'run'}"]
    run("train", *options, "trainer.max_steps=3")
    before = (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes()
    process = subprocess.run(
        ["prlimit", f"--fsize={len(before) // 2}", *command("train", *options, "resume=auto")],
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert process.returncode == 1
    assert "error: the disk is full (File too large)" in process.stderr
    assert "Traceback" not in process.stderr
    assert not list(tmp_path.glob("run/checkpoints/*.partial"))
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes() == before
    assert "resumed at step 3" in run("train", *options, "resume=auto")


def test_another_batch_on_resume_says_what_is_no_longer_exact(tmp_path: Path) -> None:
    options = ["logger=csv", f"hydra.run.dir={tmp_path}"]
    run("train", *QUICK, *options, "trainer.max_steps=3")
    printed = run("train", *QUICK, *options, "resume=auto", "data.batch_size=8")
    assert "data.batch_size 16 -> 8 since the checkpoint" in printed
    assert checkpoint(tmp_path)["DataModule"]["samples"] == 3 * 16 + 9 * 8


def test_torchrun(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", str(ROOT / "train.py")]
    options = [*QUICK, *DDP, "logger=csv", "trainer.max_steps=2"]
    subprocess.run([*torchrun, *options], env=environment(), cwd=tmp_path, timeout=100, check=True)
    (folder,) = (tmp_path / "outputs" / "digits").iterdir()
    assert checkpoint(folder)["layout"]["processes"] == 2
