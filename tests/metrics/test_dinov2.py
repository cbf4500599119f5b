"""DINOv2 comes from torch.hub's folder and never from the network; a small network stands in for it there."""

import hashlib
import os
from pathlib import Path

import pytest
import torch

from ddpm_lab.data.memory import MemorySet
from ddpm_lab.metrics.dinov2 import dinov2
from ddpm_lab.metrics.features import Extractor, WeightsNotFoundError

SET = MemorySet(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
HUBCONF = """
import torch

class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.rand(3))

    def forward(self, x):
        assert x.shape[2:] == (224, 224)
        return x.mean((2, 3)) * self.scale

def dinov2_vits14(pretrained=True):
    assert not pretrained, "this would ask the network"
    return Mean()
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("XFORMERS_DISABLED", "0")
    (tmp_path / "hub" / "facebookresearch_dinov2_main").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints").mkdir()
    (tmp_path / "hub" / "facebookresearch_dinov2_main" / "hubconf.py").write_text(HUBCONF)
    torch.save(
        {"scale": torch.tensor([1.0, 2.0, 3.0])}, tmp_path / "hub" / "checkpoints" / "dinov2_vits14_pretrain.pth"
    )
    return tmp_path / "hub"


def source(model: str = "dinov2-vit-s-14") -> Extractor:
    device = torch.device("cpu")
    return dinov2(SET, name="x", num_classes=None, cache=Path("unused"), device=device, model=model)


def test_bytes_are_normalised_as_imagenet_is(hub: Path) -> None:
    before = torch.get_rng_state()
    extractor = source()
    assert torch.equal(torch.get_rng_state(), before)
    checkpoint = hub / "checkpoints" / "dinov2_vits14_pretrain.pth"
    assert extractor.sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert extractor.name == "dinov2-vit-s-14"
    assert not extractor.training
    colour = torch.tensor([255, 0, 100], dtype=torch.uint8)
    pool, logits, spatial = extractor(colour[None, :, None, None].repeat(2, 1, 16, 16))
    assert logits is None
    assert spatial is None
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (colour / 255 - mean) / std * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(pool, expected.expand(2, 3), rtol=1e-4, atol=1e-4)
    assert not pool.requires_grad


def test_grey_is_rgb_of_equal_channels(hub: Path) -> None:
    grey = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    extractor = source()
    assert torch.equal(extractor(grey).pool, extractor(grey.repeat(1, 3, 1, 1)).pool)


@pytest.mark.parametrize("gone", ["facebookresearch_dinov2_main/hubconf.py", "checkpoints/dinov2_vits14_pretrain.pth"])
def test_what_is_missing_is_named_and_not_fetched(hub: Path, gone: str) -> None:
    (hub / gone).unlink()
    with pytest.raises(WeightsNotFoundError) as error:
        source()
    message = str(error.value)
    assert f"no file {hub / gone}:" in message
    assert "features=classifier" in message
    assert "\n" not in message


def test_another_model_is_refused_with_the_list(hub: Path) -> None:
    with pytest.raises(ValueError, match=r"dinov2-vit-s-14, .*dinov2-vit-g-14"):
        source("dinov3")


class Command:
    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.made),)


def test_bad_checkpoints(hub: Path, tmp_path: Path) -> None:
    checkpoint = hub / "checkpoints" / "dinov2_vits14_pretrain.pth"
    torch.save({"scale": Command(tmp_path / "made")}, checkpoint)
    with pytest.raises(ValueError, match="nothing else is unpickled"):
        source()
    assert not (tmp_path / "made").exists()
    torch.save({"scale": torch.zeros(4)}, checkpoint)
    with pytest.raises(ValueError, match="another network"):
        source()
