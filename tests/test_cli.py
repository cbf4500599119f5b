"""The sentence behind an error that has none of its own."""

import pytest
import torch

from ddpm_lab.cli import _tell


def sentence(error: Exception, capsys: pytest.CaptureFixture[str]) -> str:
    told = _tell(error, "train")
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
    assert _tell(KeyError("x"), "train") == "KeyError: 'x'"
    assert "KeyError" in capsys.readouterr().err
