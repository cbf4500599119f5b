"""Whatever network can be built goes out to diffusers as it is, or is refused in a sentence."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers as hugging_face  # imports what is asked of it, and no more
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ddpm_lab.checkpoints import diffusers
from ddpm_lab.errors import UserError
from ddpm_lab.networks.adm_unet import ADMUNet
from ddpm_lab.networks.ho_unet import HoUNet
from tests.networks.randomise import randomised

SIZE = 8
CONF = Path(__file__).parents[2] / "conf" / "network"
PRESETS = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "pretrained")


def preset(name: str) -> DictConfig:
    options = OmegaConf.load(CONF / f"{name}.yaml")
    return OmegaConf.merge(*map(preset, options.pop("defaults", [])), options)


@torch.no_grad()
def written(network: Any, folder: Path) -> str:
    """Where the network can be written: that it is the same there, and when it is read again; else why not."""
    randomised(network).eval()
    try:
        diffusers.save_unet(folder, network, SIZE)
    except UserError as error:
        assert not folder.exists()
        return str(error)
    x = torch.randn(2, network.in_channels, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    t, y = torch.tensor([3, 700]), None if network.time.label is None else torch.tensor([0, 4])
    ours, theirs = network(x, t, y), hugging_face.UNet2DModel.from_pretrained(folder).eval()(x, t, y).sample
    assert (ours - theirs).abs().max() <= 1e-4 * ours.abs().max()
    assert torch.equal(diffusers.load(folder).network(x, t, y), ours)
    return "written"


def drawn(choose: random.Random) -> Callable[[], Any]:
    """A network of a random shape, which may not exist."""
    base, levels = choose.choice([16, 20, 32, 33, 64]), choose.choice([1, 2, 3])
    shape: dict[str, Any] = {
        "model_channels": base,
        "channel_mult": [choose.choice([32, 64, 96]) / base for _ in range(levels)],
        "num_res_blocks": choose.choice([1, 2]),
        "attention_resolutions": [size for size in (8, 4, 2) if choose.random() < 0.4],
        "dropout": choose.choice([0.0, 0.3]),
        "num_classes": choose.choice([None, 5]),
    }
    if choose.random() < 0.3:
        return lambda: HoUNet(SIZE, 1, 2, **shape)
    of_adm = {
        **choose.choice([{"num_heads": 1}, {"num_heads": 2}, {"head_channels": 16}, {"head_channels": 64}]),
        **{name: choose.random() < 0.5 for name in ("scale_shift_norm", "resblock_updown")},
        **{name: choose.random() < often for name, often in (("conv_resample", 0.9), ("rescale_residual", 0.1))},
    }
    return lambda: ADMUNet(SIZE, 3, 3, **shape, **of_adm)


def test_random_shapes_go_out_or_are_refused(tmp_path: Path) -> None:
    choose, found = random.Random(0), []
    while len(found) < 30:
        try:
            network = drawn(choose)()
        except UserError:  # heads that do not divide the channels
            continue
        found.append(written(network, tmp_path / str(len(found))))
    assert found.count("written") >= 10
    assert {sentence.split()[2] for sentence in found if sentence != "written"} >= {"tells"}, found


def test_time_embeddings_of_another_width_than_the_first_level_s(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"num_res_blocks": 1, "attention_resolutions": []}
    for k, network in enumerate((ADMUNet, HoUNet)):
        for base, mult in ((16, [2, 4]), (32, [3]), (20, [1.6])):
            made = network(SIZE, 3, 3, model_channels=base, channel_mult=mult, num_classes=5, **shape)
            assert written(made, tmp_path / f"{k}_{base}") == "written"
        narrow = network(SIZE, 3, 3, model_channels=64, channel_mult=[0.5, 1], **shape)
        assert "tells the time by 32 sinusoids" in written(narrow, tmp_path / f"{k}_narrow")
    other = hugging_face.UNet2DModel(
        SIZE, block_out_channels=(64,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        attention_head_dim=None, attn_norm_num_groups=32, time_embedding_dim=128, freq_shift=16,
    )  # fmt: skip
    other.save_pretrained(tmp_path / "theirs")
    with pytest.raises(UserError, match=r"time_embedding.linear_1.weight has numbers where the network has none"):
        diffusers.load(tmp_path / "theirs")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_goes_out_or_is_refused(name: str, tmp_path: Path) -> None:
    """The large ones by the shapes of their tensors alone."""
    options = preset(name)
    size = next((int(part) for part in name.split("_") if part.isdigit()), 64)
    outputs = {} if "classifier" in name else {"out_channels": 6}
    with torch.device("meta"):
        network = instantiate(options, image_size=size, in_channels=3, num_classes=5, _convert_="all", **outputs)
        try:
            config = diffusers.describe(network, size)
        except UserError as error:
            sentence = str(error)
        else:
            sentence = ""
        if sentence:
            assert re.search(r"is no UNet2DModel|has heads of one width|tells the time by 128 sinusoids", sentence)
            assert name not in ("tiny", "small", "ho_cifar10", "improved_lsun256", "adm_64", "adm_256")
            return
        theirs = {key: value.shape for key, value in hugging_face.UNet2DModel.from_config(config).state_dict().items()}
    assert {key: slot.shape for key, slot in diffusers.slots(network).items()} == theirs


def test_the_presets_of_small_images_go_out(tmp_path: Path) -> None:
    for name in ("tiny", "small"):
        network = instantiate(preset(name), image_size=SIZE, in_channels=1, out_channels=1, num_classes=None)
        assert written(network, tmp_path / name) == "written"
