"""Models from elsewhere: OpenAI's files and diffusers' folders as what train.py and convert.py work with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from ddpm_lab.checkpoints import diffusers, openai, schedulers
from ddpm_lab.checkpoints.published import PUBLISHED, Published
from ddpm_lab.checkpoints.schedulers import Scheduled
from ddpm_lab.diffusion import schedules
from ddpm_lab.diffusion.predictions import Epsilon
from ddpm_lab.diffusion.variances import LearnedRange
from ddpm_lab.networks.adm_unet import ADMUNet
from ddpm_lab.networks.ho_unet import HoUNet
from ddpm_lab.networks.super_resolution import SuperResolutionUNet
from ddpm_lab.tasks.building import load_any

PRESETS = Path(__file__).parents[3] / "conf" / "network"


class Foreign(NamedTuple):
    """A model from a file.

    network: with its weights. node: what config.network must say to build it. image_size, channels, num_classes: of the images
    and labels it was trained on. scheduled: its process and what its output means; None where the file does not say, or for a
    classifier. time_scale: of its time. about: for people. step: how long it was trained, 0 if not known.
    """

    network: nn.Module
    node: dict[str, Any]
    image_size: int
    channels: int
    num_classes: int | None
    scheduled: Scheduled | None
    time_scale: float
    about: str
    step: int = 0


def read(path: str, format: str = "auto", published: str | None = None, weights: str | int = "ema") -> Foreign:
    """The model at a path. Raises FileNotFoundError, or ValueError in a sentence for what is none."""
    readers = {"openai": _openai, "diffusers": _diffusers, "run": _run}
    if format == "auto":
        format = _looks_like(Path(path))
    if format not in readers:
        raise ValueError(f"format={format} is none of auto, {', '.join(readers)}")
    return readers[format](Path(path), published, weights)


def pretrained(
    image_size: int,
    in_channels: int,
    num_classes: int | None,
    out_channels: int | None = None,
    *,
    path: str,
    format: str,
    published: str | None,
) -> nn.Module:
    """network=pretrained: the network of a file, for data that it fits. out_channels: None for task=classifier.

    Raises ValueError for images, outputs or labels of another shape, or a network for another task.
    """
    foreign = read(path, format, published)
    network = foreign.network
    found = {
        "data.image_size": (foreign.image_size, image_size),
        "data.channels": (foreign.channels, in_channels),
        "the number of output channels (twice as many for objective=hybrid)": (_outputs(network), out_channels),
        "the number of labels (class_conditional, label_dropout, data.num_classes)": (foreign.num_classes, num_classes),
    }
    for what, (of_file, wanted) in found.items():
        if of_file != wanted:
            raise ValueError(f"network.path={path}: {what} is {of_file} there and {wanted} here; set what fits")
    return network.train()


def settle(config: DictConfig) -> None:
    """Put the shape of a pretrained network in the place of the path it came from: a run does not need that file again."""
    if config.network._target_ == f"{__name__}.pretrained":
        node = read(config.network.path, config.network.format, config.network.published).node
        with open_dict(config):
            config.network = node


def _outputs(network: nn.Module) -> int | None:
    unet = network.unet if isinstance(network, SuperResolutionUNet) else network
    return unet.conv_out.out_channels if isinstance(unet, ADMUNet | HoUNet) else None


def _looks_like(path: Path) -> str:
    if path.suffix == ".ckpt" or (path / "config.yaml").is_file():
        return "run"
    if path.is_dir():
        return "diffusers"
    if path.is_file():
        return "openai"
    raise FileNotFoundError(f"there is nothing at {path}: give a .pt of OpenAI's, a folder of diffusers', or a run")


def _run(path: Path, published: str | None, weights: str | int) -> Foreign:
    config, model, step = load_any(str(path), weights)
    data = config.data
    scheduled = None
    if config.task.name == "diffusion":
        betas = model.process.beta(torch.arange(1, model.process.T + 1), torch.arange(model.process.T))
        scheduled = Scheduled(betas, model.prediction, model.variance, clip=True)
    labels = data.num_classes + (config.label_dropout > 0) if config.class_conditional else None
    classes = data.num_classes if config.task.name == "classifier" else labels
    node: Any = OmegaConf.to_container(config.network, resolve=True)
    about = f"{config.task.name} model of {data.name}, {step} steps"
    return Foreign(
        model.network,
        node,
        data.image_size,
        data.channels,
        classes,
        scheduled,
        config.time_scale,
        about,
        step,
    )


def _diffusers(path: Path, published: str | None, weights: str | int) -> Foreign:
    loaded = diffusers.load(path)
    plan = loaded.plan
    node = {"_target_": f"{plan.network_class.__module__}.{plan.network_class.__name__}", **plan.options}
    scheduled = None if loaded.scheduler is None else schedulers.read(loaded.scheduler)
    return Foreign(
        loaded.network,
        node,
        loaded.image_size,
        plan.in_channels,
        plan.num_classes,
        scheduled,
        1.0,
        f"diffusers' {path.name}",
    )


def _openai(path: Path, published: str | None, weights: str | int) -> Foreign:
    state = openai.read(path)
    name = path.stem if published is None else published
    if name not in PUBLISHED:
        fitting = [name for name, known in PUBLISHED.items() if openai.fits(_built(known), state)]
        raise ValueError(
            f"{path} has no name of a published checkpoint, so its flags are not known: "
            + (f"its tensors fit {', '.join(fitting)}; add " if fitting else "its tensors fit none of them; else add ")
            + "published=… (network.published=… in train.py)"
        )
    known = PUBLISHED[name]
    network = _built(known).to_empty(device="cpu")
    fitting_advice = f"It was read by the flags of {name}."
    try:
        openai.fill(network, state, use_new_attention_order=known.new_attention_order, advice=fitting_advice)
    except ValueError as error:
        fitting = [other for other, flags in PUBLISHED.items() if openai.fits(_built(flags), state)]
        raise ValueError(
            f"{path}: {error} Its tensors fit {', '.join(fitting) or 'no published checkpoint'}."
        ) from None
    node: Any = OmegaConf.to_container(OmegaConf.load(PRESETS / f"{known.preset}.yaml"))
    betas = (schedules.linear if known.schedule == "linear" else schedules.cosine)(known.T)
    scheduled = None if known.kind == "classifier" else Scheduled(betas, Epsilon(), LearnedRange(), clip=True)
    return Foreign(
        network,
        node,
        known.image_size,
        3,
        known.classes,
        scheduled,
        known.time_scale,
        f"OpenAI's {name}",
    )


def _built(known: Published) -> Any:
    """The network of a published checkpoint, without storage."""
    config = OmegaConf.load(PRESETS / f"{known.preset}.yaml")
    assert isinstance(config, DictConfig)
    outputs = {} if known.kind == "classifier" else {"out_channels": 6}
    with torch.device("meta"):
        return instantiate(
            config, image_size=known.image_size, in_channels=3, num_classes=known.classes, **outputs, _convert_="all"
        )


def is_upsampler(network: nn.Module) -> bool:
    """Whether the network needs a small image beside the noisy one, which no sampler here gives it."""
    return isinstance(network, SuperResolutionUNet)
