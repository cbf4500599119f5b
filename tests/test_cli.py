"""The sentence behind an error that has none of its own."""

import pytest
import torch

from ddpm_lab.sentences import tell
from tests.doors import run


def sentence(error: Exception, capsys: pytest.CaptureFixture[str]) -> str:
    told = tell(error, "train")
    printed = capsys.readouterr().err
    assert printed == f"error: {told}\n"
    return told


def test_memory_names_what_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    on_gpu = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"
    )
    for error, begins in (
        (caught.value, "can't allocate memory"),
        (on_gpu, "CUDA out of memory. Tried to allocate 2.00 GiB: "),
    ):
        told = sentence(error, capsys)
        assert told.startswith(begins)
        for option in ("data.batch_size", "accumulate_grad_batches", "network.checkpointing", "precision=bf16-mixed"):
            assert option in told


def test_a_bug_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(KeyError("x"), "train") == "KeyError: 'x'"
    assert "KeyError" in capsys.readouterr().err


@pytest.mark.parametrize("door", ["train", "sample", "evaluate", "convert", "report", "stats"])
def test_help_names_every_choice_of_the_door_and_every_option(door: str) -> None:
    told = run("evaluate", "stats", "--help") if door == "stats" else run(door, "--help")
    groups, options = told.split("Options (")
    assert ("python evaluate.py stats [" if door == "stats" else f"python {door}.py [") in groups
    has = {line.split()[0] for line in groups.splitlines() if line.startswith("  ") and "-" not in line.split()[0]}
    assert ("schedule" in has) == (door == "train")
    assert ("guidance" in has) == (door in ("sample", "evaluate"))
    assert ("task" in has) == (door in ("train", "sample"))
    if door == "train":
        assert "  schedule          cosine constant" in groups  # what is taken stands first
        assert "nichol2021/cifar10_hybrid" in groups
        assert "  schedule          linear " in run(door, "--help", "schedule=linear")
    assert "\nhydra:" not in options
    assert {"convert": "\nfrom: ???", "report": "\nrun: "}.get(door, "\nseed: 0") in options
