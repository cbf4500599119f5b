"""What is made of a configuration's choices of speed."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.predictions import Epsilon
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import linear
from ddpm_lab.diffusion.variances import FixedSmall
from ddpm_lab.tasks import precisions
from ddpm_lab.tasks.building import channels_last, to_draw


def test_both_networks_are_compiled_and_only_if_asked() -> None:
    def compiled(precision: str, compile: bool) -> list[bool]:
        denoiser = Denoiser(nn.Conv2d(1, 1, 1), Process(linear(100)), Epsilon(), FixedSmall())
        drawing = to_draw(denoiser, precision, compile)
        assert (drawing is denoiser) == (precision == "fp32")
        return [each.network._compiled_call_impl is not None for each in (denoiser, drawing)]

    for precision in ("fp32", "bf16"):
        assert compiled(precision, True) == [True, True]
        assert compiled(precision, False) == [False, False]


@pytest.mark.parametrize("gpu", [False, True])
def test_channels_come_last_on_a_gpu_in_16_bits(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)  # the one thing that no machine has both ways

    def chosen(choice: bool | str, accelerator: str, precision: str) -> bool:
        trainer = {"accelerator": accelerator, "precision": precision}
        return channels_last(OmegaConf.create({"channels_last": choice, "trainer": trainer}))

    assert chosen("auto", "auto", "bf16-mixed") == gpu
    assert chosen("auto", "gpu", "16-mixed") == gpu
    assert not chosen("auto", "auto", "32-true")
    assert not chosen("auto", "cpu", "bf16-mixed")
    assert chosen(True, "cpu", "32-true")
    assert not chosen(False, "gpu", "bf16-mixed")


@pytest.mark.parametrize("known", [True, False, None])
def test_auto_takes_bf16_where_it_is_fast_and_16_bits_elsewhere_are_warned_of(
    known: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precisions, "has_bf16", lambda device: known)  # no machine has it both ways

    def trained(asked: str | int) -> tuple[str, str]:
        trainer = OmegaConf.create({"precision": asked, "accelerator": "cpu"})
        note = precisions.settle_training(trainer) or ""
        return trainer.precision, note

    def drawn(asked: str) -> tuple[str, str]:
        config = OmegaConf.create({"precision": asked, "accelerator": "cpu"})
        note = precisions.settle_drawing(config) or ""
        return config.precision, note

    taken, note = trained("auto")
    assert taken == ("bf16-mixed" if known else "32-true")
    assert note.startswith(f"trainer.precision=auto: {taken}, for ")
    assert ("no instructions" in note) == (known is False)
    assert drawn("auto")[0] == ("bf16" if known else "fp32")
    for asked in ("bf16-mixed", "bf16"):
        taken, note = trained(asked)
        assert taken == asked
        assert ("two to three times slower than fp32; take trainer.precision=32-true" in note) == (known is False)
    assert trained(16)[0] == trained("16-mixed")[0] == "bf16-mixed"  # what Lightning makes of it on a CPU
    assert trained("16-mixed")[1].startswith("trainer.precision=16-mixed is bf16-mixed on a CPU")
    assert ("take precision=fp32" in drawn("bf16")[1]) == (known is False)
    assert trained("32-true") == ("32-true", "")
    assert drawn("fp32") == ("fp32", "")
