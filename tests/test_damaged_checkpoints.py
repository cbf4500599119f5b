"""Fifty damaged and foreign checkpoints: refused in a sentence or read right, and none runs code; what a run does then."""

import io
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ddpm_lab.runs import load_checkpoint
from tests.doors import QUICK, checkpoint, run

EXECUTED = Path(__file__).with_name("executed")  # made by none of them


class Code:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {EXECUTED}",)


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, arr_0=np.zeros(3))
    return file.getvalue()


def foreign() -> list[bytes]:
    weights = {"weight": torch.zeros(2)}
    return [
        b"",
        b"PK\x03\x04",
        b"{}",
        archive(),
        saved(weights),
        saved([weights]),
        saved({"state_dict": weights}),
        pickle.dumps({"state_dict": weights, "global_step": 1}),
    ]


def with_code() -> list[bytes]:
    known = {"state_dict": {"weight": torch.zeros(2)}, "global_step": 1}
    return [
        pickle.dumps(Code()),
        saved(Code()),
        saved({**known, "loops": Code()}),
        saved({**known, "state_dict": Code()}),
    ]


def test_fifty_damaged_checkpoints(trained: Path, tmp_path: Path) -> None:
    whole = (trained / "checkpoints" / "last.ckpt").read_bytes()
    expected = checkpoint(trained)["state_dict"]
    chance = random.Random(0)
    files = [whole[: chance.randrange(len(whole))] for _ in range(15)]
    for _ in range(23):
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        files.append(bytes(flipped))
    files += foreign() + with_code()
    assert len(files) == 50
    path = tmp_path / "damaged.ckpt"
    refused = 0
    for content in files:
        path.write_bytes(content)
        try:
            state = load_checkpoint(path)["state_dict"]
        except ValueError:
            refused += 1
        else:  # a bit between two records, which nothing reads
            assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert refused >= 15 + 12 + 15
    assert not EXECUTED.exists()


def test_a_run_goes_on_from_the_checkpoint_before(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = [*QUICK, "logger=csv", f"hydra.run.dir={folder}"]
    shutil.copytree(trained, folder)
    steps = {path.name: torch.load(path)["global_step"] for path in (folder / "checkpoints").glob("last*.ckpt")}
    assert steps == {"last.ckpt": 12, "last-1.ckpt": 6}
    last = folder / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 16
    last.write_bytes(content)
    output = run("train", *options, "resume=last")
    assert "last.ckpt cannot be read as a checkpoint" in output
    assert "going on from the one before it" in output
    assert "resumed at step 6" in output
    assert last.with_name("last.ckpt.damaged").read_bytes() == content
    found, expected = checkpoint(folder)["state_dict"], checkpoint(trained)["state_dict"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for path in (folder / "checkpoints").glob("last*.ckpt"):
        path.write_bytes(b"")
    output = run("train", *options, "resume=auto", "trainer.max_steps=20", expect=1)
    assert "holds no other checkpoint to go on from" in output
    assert "Traceback" not in output


def test_weights_alone_cannot_be_resumed(trained: Path, tmp_path: Path) -> None:
    loaded = checkpoint(trained)
    torch.save({key: loaded[key] for key in ("state_dict", "global_step")}, tmp_path / "weights.ckpt")
    output = run("train", *QUICK, f"resume={tmp_path}/weights.ckpt", f"hydra.run.dir={tmp_path}/run", expect=1)
    assert "it has weights, but no run can go on from it" in output
