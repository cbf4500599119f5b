import json
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ddpm_lab.networks.blocks import Attention
from tests.golden import folder

CONF = Path(__file__).parents[2] / "conf" / "network"
PUBLISHED = {entry["name"]: entry for entry in json.loads((folder() / "paramcount.json").read_text())["entries"]}

# name in paramcount.json: preset, image size, what is changed in it
UNETS = {
    "iddpm_imagenet64_uncond_hybrid": ("improved_imagenet64", 64, {}),
    "iddpm_cifar10_uncond_hybrid": ("improved_cifar10", 32, {}),
    "iddpm_cifar10_uncond_fixed_sigma": ("improved_cifar10", 32, {}),
    "iddpm_imagenet64_cond_270M": ("improved_imagenet64_270m", 64, {}),
    "iddpm_imagenet64_scaling_ch64": ("improved_imagenet64", 64, {"model_channels": 64}),
    "iddpm_imagenet64_scaling_ch96": ("improved_imagenet64", 64, {"model_channels": 96}),
    "iddpm_imagenet64_scaling_ch128": ("improved_imagenet64", 64, {}),
    "iddpm_imagenet64_scaling_ch192": ("improved_imagenet64", 64, {"model_channels": 192}),
    "iddpm_lsun256_uncond": ("improved_lsun256", 256, {}),
    "iddpm_upsample_64_256_cond": ("improved_upsampler_256", 256, {}),
    "adm_imagenet64_cond": ("adm_64", 64, {}),
    "adm_imagenet128_cond": ("adm_128", 128, {}),
    "adm_imagenet256_cond": ("adm_256", 256, {}),
    "adm_imagenet256_uncond": ("adm_256", 256, {}),
    "adm_imagenet512_cond": ("adm_512", 512, {}),
    "adm_upsample_64_256": ("adm_upsampler_256", 256, {}),
    "adm_upsample_128_512": ("adm_upsampler_512", 512, {}),
    "ddpm_cifar10": ("ho_cifar10", 32, {}),
    "ddpm_lsun_celebahq256": ("ho_256", 256, {}),
    "ddpm_lsun_bedroom256_large": ("ho_256_large", 256, {}),
}
CLASSIFIERS = {f"adm_classifier{size}": (f"adm_classifier_{size}", size) for size in (64, 128, 256, 512)}


def preset(name, **changes):
    config = OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), changes)
    return partial(instantiate, config, _convert_="all")


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_every_published_network_and_every_preset_is_counted():
    assert UNETS.keys() | CLASSIFIERS.keys() == PUBLISHED.keys()
    used = {name for name, *_ in [*UNETS.values(), *CLASSIFIERS.values()]}
    assert used | {"tiny", "small", "classifier_tiny", "classifier_small", "pretrained"} == {
        path.stem for path in CONF.glob("*.yaml")
    }


@pytest.mark.parametrize("name", UNETS)
def test_presets_have_the_published_number_of_parameters(name):
    entry, (preset_name, size, changes) = PUBLISHED[name], UNETS[name]
    resolved = entry.get("resolved", {"out_channels": 3, "num_classes": None})
    with torch.device("meta"):
        network = preset(preset_name, **changes)(
            image_size=size, in_channels=3, out_channels=resolved["out_channels"], num_classes=resolved["num_classes"]
        )
    assert count(network) == entry["parameters"]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_have_the_published_number_of_parameters(name):
    preset_name, size = CLASSIFIERS[name]
    with torch.device("meta"):
        network = preset(preset_name)(image_size=size, in_channels=3, num_classes=1000)
    assert count(network) == PUBLISHED[name]["parameters"]


@pytest.mark.parametrize(
    ("name", "size", "channels", "millions"), [("tiny", 8, 1, 0.70), ("small", 28, 1, 3.7), ("small", 32, 3, 3.7)]
)
def test_small_presets_run_and_have_the_size_they_say(name, size, channels, millions):
    network = preset(name)(image_size=size, in_channels=channels, out_channels=2 * channels, num_classes=10)
    x, t, y = torch.randn(2, channels, size, size), torch.tensor([0, 999]), torch.tensor([0, 9])
    assert network(x, t, y).shape == (2, 2 * channels, size, size)
    assert count(network) == pytest.approx(millions * 1e6, rel=0.02)
    attends = [name for name, module in network.named_modules() if isinstance(module, Attention)]
    assert len(attends) == (1 if name == "tiny" else 4)  # `small` at 28 // 4 and at 32 // 4 alike


@pytest.mark.parametrize(("name", "size", "channels", "millions"), [("tiny", 8, 1, 0.38), ("small", 28, 1, 0.56)])
def test_small_classifiers_run_and_have_the_size_they_say(name, size, channels, millions):
    chosen = OmegaConf.load(CONF / "classifier_tiny.yaml")
    if name == "small":
        chosen = OmegaConf.merge(
            chosen, {k: v for k, v in OmegaConf.load(CONF / "classifier_small.yaml").items() if k != "defaults"}
        )
    network = instantiate(chosen, _convert_="all", image_size=size, in_channels=channels, num_classes=10)
    assert network(torch.randn(2, channels, size, size), torch.tensor([0, 999])).shape == (2, 10)
    assert count(network) == pytest.approx(millions * 1e6, rel=0.05)
