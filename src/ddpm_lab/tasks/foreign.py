"""Models from elsewhere: OpenAI's files and diffusers' folders as what train.py and convert.py work with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from ddpm_lab import runs
from ddpm_lab.checkpoints import diffusers, openai, schedulers
from ddpm_lab.checkpoints.published import PUBLISHED, Published
from ddpm_lab.checkpoints.schedulers import Scheduled
from ddpm_lab.checkpoints.tensors import read_tensors
from ddpm_lab.diffusion import schedules
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.predictions import Epsilon
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.variances import LearnedRange
from ddpm_lab.errors import NoSuchFileError, UserError
from ddpm_lab.networks.adm_unet import ADMUNet
from ddpm_lab.networks.ho_unet import HoUNet
from ddpm_lab.networks.noisy_classifier import NoisyClassifier
from ddpm_lab.networks.super_resolution import SuperResolutionUNet
from ddpm_lab.tasks.building import count_classes, load_any, load_run
from ddpm_lab.wording import counted

PRESETS = Path(__file__).parents[3] / "conf" / "network"


class Foreign(NamedTuple):
    """A model from a file.

    network: with its weights. node: what config.network must say to build it. image_size, channels, num_classes: of the images
    and labels it was trained on. scheduled: its process and what its output means; None where the file does not say, or for a
    classifier. betas: of its process; None where the file does not say. time_scale: of its time. about: for people. step: how
    long it was trained, 0 if not known. folder: of the run that it is. null_label: the label that stands for none, class_names:
    those of the others, in turn; None where there are none or the file does not say.
    """

    network: nn.Module
    node: dict[str, Any]
    image_size: int
    channels: int
    num_classes: int | None
    scheduled: Scheduled | None
    time_scale: float
    about: str
    betas: Tensor | None = None
    step: int = 0
    folder: Path | None = None
    null_label: int | None = None
    class_names: Sequence[str] | None = None

    @property
    def is_classifier(self) -> bool:
        """Whether it gives log-probabilities of classes, and no images."""
        return isinstance(self.network, NoisyClassifier)


def read(path: str, format: str = "auto", published: str | None = None, weights: str | int = "ema") -> Foreign:
    """The model at a path. Raises FileNotFoundError, or ValueError in a sentence for what is none."""
    readers = {"openai": _openai, "diffusers": _diffusers, "run": _run}
    if format == "auto":
        format = _looks_like(Path(path))
    if format not in readers:
        raise UserError(f"format={format} is none of auto, {', '.join(readers)}")
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
            raise UserError(f"network.path={path}: {what} is {of_file} there and {wanted} here; set what fits")
    return network.train()


def load_model(config: DictConfig) -> tuple[DictConfig, Denoiser, int]:
    """The model that run=… or network=pretrained names, as `load_run` returns it.

    Of a pretrained one the configuration holds what is known: data (config.data, or the shape of the images alone), labels,
    schedule. Raises ValueError for a file that does not say its schedule, or for data of another shape.
    """
    check_source(config)
    if config.run is not None:
        return load_run(config.run, config.weights)
    path = config.network.path
    source = read(path, config.network.format, config.network.published, config.weights)
    betas, prediction, variance, clip = check_walk(source, f"network.path={path}")
    if clip != config.sampler.clip:
        print(f"note: its scheduler says sampler.clip={str(clip).lower()} (x_0 clamped to [-1, 1])", flush=True)
    if config.data is None and source.num_classes is not None:
        print("note: its labels all count as classes; data=… says which of them stands for none", flush=True)
    if config.data is not None:
        data = OmegaConf.create(OmegaConf.to_container(config.data, resolve=True))
        assert isinstance(data, DictConfig)
        count_classes(data)
    else:
        shape = {"image_size": source.image_size, "channels": source.channels}
        data = OmegaConf.create({"name": Path(path).stem, "num_classes": source.num_classes, **shape})
    assert isinstance(data, DictConfig)
    run = OmegaConf.create(
        {
            "data": data,
            **labels_of(source, data),
            "schedule": {"_target_": "ddpm_lab.diffusion.schedules.explicit", "T": len(betas)},
        }
    )
    denoiser = Denoiser(source.network, Process(betas), prediction, variance, source.time_scale)
    return run, denoiser.eval(), source.step


def check_source(config: DictConfig) -> None:
    """Raise ValueError unless one of run=…, network.path=… and samples=… says what the images are of.

    And for data=… beside a run, which has its own.
    """
    runs.output_folder("", config.run, OmegaConf.select(config, "network.path"), config.get("samples"))
    if config.run is not None and config.data is not None:
        raise UserError(
            f"run={config.run} brings its own data set, so that data={config.data.name} has no part: leave it out, or give "
            "images of another set as images=… (sample.py) or reference=… (evaluate.py)"
        )


def check_walk(source: Foreign, name: str) -> Scheduled:
    """What sampling needs to know of a model. Raises ValueError where its files do not say it."""
    if is_upsampler(source.network):
        raise UserError(f"{name} needs a small image beside the noisy one, which no sampler here gives it")
    if source.is_classifier:
        raise UserError(
            f"{name} is a classifier, which guides and draws nothing: convert.py brings it into to=run or openai"
        )
    if source.scheduled is None:
        raise UserError(
            f"{name} does not say its schedule and what it predicts: take a folder with a scheduler beside the network (a "
            "DDPMPipeline's), a published .pt of a diffusion model, or a run"
        )
    return source.scheduled


def labels_of(source: Foreign, data: DictConfig) -> dict[str, Any]:
    """class_conditional and label_dropout of a model of this data; one label more than the data has stands for none.

    Raises ValueError for a data set of other images or labels than the model's.
    """
    if (data.image_size, data.channels) != (source.image_size, source.channels):
        raise UserError(
            f"the model is of images of {source.channels}x{source.image_size}x{source.image_size} and data={data.name} has "
            f"{data.channels}x{data.image_size}x{data.image_size}: name its data with data=…"
        )
    K = source.num_classes
    with_none = K is not None and data.num_classes is not None and data.num_classes + 1 == K
    if K not in (None, data.num_classes) and not with_none:
        raise UserError(f"the model has {K} classes and data={data.name} {data.num_classes}: name its data with data=…")
    if source.is_classifier:
        return {}
    return {"class_conditional": K is not None, "label_dropout": 0.1 if with_none else 0.0}


def settle(config: DictConfig) -> None:
    """Put the shape of a pretrained network in the place of its path, so that what the run leaves needs that file no more.

    Says where its weights were trained to be asked in another way than they will be.
    """
    if config.network._target_ != f"{__name__}.pretrained":
        return
    source = read(config.network.path, config.network.format, config.network.published)
    with open_dict(config):
        config.network = source.node
    if source.scheduled is None:
        return
    betas = instantiate(config.schedule)
    same = len(betas) == len(source.scheduled.betas) and torch.allclose(betas, source.scheduled.betas, rtol=1e-3)
    _, prediction, variance, _ = source.scheduled
    differs = {
        f"prediction={type(prediction).__name__}": config.prediction._target_.endswith(f".{type(prediction).__name__}"),
        f"variance={type(variance).__name__}": config.variance._target_.endswith(f".{type(variance).__name__}"),
        f"another schedule (T = {len(source.scheduled.betas)})": same,
        f"time_scale={source.time_scale:g}": config.time_scale == source.time_scale,
    }
    others = [what for what, equal in differs.items() if not equal]
    if others:
        print(
            f"note: {source.about} was trained with {', '.join(others)}, and will be asked otherwise here", flush=True
        )


def weights_of(config: DictConfig) -> str:
    """Which weights are meant, for protocols: of a run those of weights=…, else those of the file."""
    return f"network.path={config.network.path}" if config.run is None else str(config.weights)


def _outputs(network: nn.Module) -> int | None:
    unet = network.unet if isinstance(network, SuperResolutionUNet) else network
    return unet.conv_out.out_channels if isinstance(unet, ADMUNet | HoUNet) else None


def _looks_like(path: Path) -> str:
    if path.is_dir() and not (path / "config.json").is_file() and not (path / "model_index.json").is_file():
        return "run" if (path / "config.yaml").is_file() else "diffusers"
    if path.suffix == ".ckpt":
        return "run"
    if path.is_dir():
        return "diffusers"
    if path.is_file():
        return "openai"
    raise NoSuchFileError(f"there is nothing at {path}: give a .pt of OpenAI's, a folder of diffusers', or a run")


def _run(path: Path, published: str | None, weights: str | int) -> Foreign:
    config, model, step = load_any(str(path), weights)
    data = config.data
    betas = model.process.transition(torch.arange(1, model.process.T + 1), torch.arange(model.process.T)).beta
    scheduled = null_label = None
    classes = data.num_classes
    if config.task.name == "diffusion":
        clip = config.sampler.clip if "sampler" in config else True
        scheduled = Scheduled(betas, model.prediction, model.variance, clip)
        if config.class_conditional and config.label_dropout > 0:
            null_label = data.num_classes
        classes = data.num_classes + (null_label is not None) if config.class_conditional else None
    node: Any = OmegaConf.to_container(config.network, resolve=True)
    shape = data.image_size, data.channels, classes
    about = f"{config.task.name} model of {data.name}, {counted(step, 'step')}"
    folder = runs.checked_run(path)
    return Foreign(
        model.network,
        node,
        *shape,
        scheduled,
        config.time_scale,
        about,
        betas,
        step,
        folder,
        null_label,
        data.get("class_names"),
    )


def _diffusers(path: Path, published: str | None, weights: str | int) -> Foreign:
    _check_one_set(path, weights)
    loaded = diffusers.load(path)
    if loaded.image_size is None:
        raise UserError(
            f"{path} does not say how large its images are: write sample_size into the config.json of its network"
        )
    plan = loaded.plan
    node = {"_target_": f"{plan.network_class.__module__}.{plan.network_class.__name__}", **plan.options}
    scheduled = None if loaded.scheduler is None else schedulers.read(loaded.scheduler)
    shape = loaded.image_size, plan.in_channels, plan.num_classes
    betas = None if scheduled is None else scheduled.betas
    return Foreign(loaded.network, node, *shape, scheduled, 1.0, f"diffusers' {path.name}", betas)


def _openai(path: Path, published: str | None, weights: str | int) -> Foreign:
    _check_one_set(path, weights)
    state = read_tensors(path)
    name = path.stem if published is None else published
    if name not in PUBLISHED:
        fitting = _fitting(state)
        raise UserError(
            f"{path} has no name of a published checkpoint, so its flags are not known: "
            + (
                f"its tensors fit {', '.join(fitting)}; add published=… (network.published=… elsewhere)"
                if fitting
                else "its tensors fit none of them; in Python ddpm_lab.checkpoints.openai.load(path, **flags) reads any"
            )
        )
    known = PUBLISHED[name]
    network = _built(known).to_empty(device="cpu")
    advice = f"{path} was read by the flags of {name}"
    if not openai.fits(network, state):
        advice += f", and its tensors fit {', '.join(_fitting(state)) or 'no published checkpoint'}."
    openai.fill(network, state, use_new_attention_order=known.new_attention_order, advice=advice)
    node: Any = OmegaConf.to_container(_preset(known))
    betas = (schedules.linear if known.schedule == "linear" else schedules.cosine)(known.T)
    scheduled = None if known.kind == "classifier" else Scheduled(betas, Epsilon(), LearnedRange(), clip=True)
    shape = known.image_size, 3, known.classes
    return Foreign(network, node, *shape, scheduled, known.time_scale, f"OpenAI's {name}", betas)


def _check_one_set(path: Path, weights: str | int) -> None:
    if weights != "ema":
        raise UserError(f"weights={weights} chooses among a run's, and {path} holds one set: leave weights out")


def _fitting(state: Mapping[str, Tensor]) -> list[str]:
    """The published checkpoints whose keys and shapes these are."""
    return [name for name, known in PUBLISHED.items() if openai.fits(_built(known), state)]


def _built(known: Published) -> Any:
    """The network of a published checkpoint, without storage."""
    outputs = {} if known.kind == "classifier" else {"out_channels": 6}
    with torch.device("meta"):
        return instantiate(
            _preset(known),
            image_size=known.image_size,
            in_channels=3,
            num_classes=known.classes,
            **outputs,
            _convert_="all",
        )


def _preset(known: Published) -> DictConfig:
    """Its options in conf/network."""
    config = OmegaConf.load(PRESETS / f"{known.preset}.yaml")
    assert isinstance(config, DictConfig)
    if known.dropout is not None:
        config.dropout = known.dropout
    return config


def is_upsampler(network: nn.Module) -> bool:
    """Whether the network needs a small image beside the noisy one, which no sampler here gives it."""
    return isinstance(network, SuperResolutionUNet)
