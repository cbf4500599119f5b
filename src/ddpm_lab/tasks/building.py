"""From a configuration to the objects that it names, and from a run folder back to its model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, open_dict

from ddpm_lab import runs
from ddpm_lab.diffusion.classifier import Classifier
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.process import Process
from ddpm_lab.errors import NoSuchFileError, UserError
from ddpm_lab.networks.compiling import compile_network
from ddpm_lab.networks.precision import InBfloat16


def build_denoiser(config: DictConfig) -> Denoiser:
    """The network with as many outputs as the variance needs, and what its output means."""
    variance = instantiate(config.variance)
    data = config.data
    network = instantiate(
        config.network,
        image_size=data.image_size,
        in_channels=data.channels,
        out_channels=data.channels * variance.heads,
        num_classes=data.num_classes + (config.label_dropout > 0) if config.class_conditional else None,
    )
    process = Process(instantiate(config.schedule))
    return Denoiser(network, process, instantiate(config.prediction), variance, config.time_scale)


def build_classifier(config: DictConfig) -> Classifier:
    """The network with as many outputs as there are classes, and the process that makes its images noisy."""
    data = config.data
    network = instantiate(
        config.network, image_size=data.image_size, in_channels=data.channels, num_classes=data.num_classes
    )
    return Classifier(network, Process(instantiate(config.schedule)), config.time_scale)


def build_module(config: DictConfig) -> Any:
    """The LightningModule that config.task trains, freshly initialised from config.seed."""
    from ddpm_lab.seeds import mix

    task = instantiate(config.task)
    task.check(config)
    torch.manual_seed(mix(config.seed))
    return task.build(config)


def count_classes(data: DictConfig, module: Any = None) -> None:
    """Fill in what a data set itself tells: data.num_classes where they are to be counted, and data.class_names.

    module: the set's DataModule, if there is one; else the set is read only where its classes are to be counted.
    """
    if module is None:
        if data.num_classes is not None or data.get("classes") is None:
            return
        module = instantiate(data)
    module.images("train")
    with open_dict(data):
        data.num_classes = module.num_classes
        data.class_names = None if module.class_names is None else list(module.class_names)


def dataset_of(run: DictConfig) -> Callable[..., Any]:
    """The data set of a run. Of one with labels, raises ValueError for a split whose classes are others than in training."""
    dataset, then = instantiate(run.data.dataset), list(run.data.get("class_names") or ())

    def of_split(split: str) -> Any:
        images = dataset(split=split)
        now = list(getattr(images, "classes", None) or ())
        if run.class_conditional and then and now and then != now:
            raise UserError(
                f"data={run.data.name} had the classes {', '.join(then)} in training and has {', '.join(now)} now, by which "
                "its labels would mean others: put its files back as they were"
            )
        return images

    return of_split


def background_of(config: DictConfig, data: DictConfig | None) -> Any:
    """What transparent pixels of images in files lie over: config.background, or what those of the data do."""
    of_data = None if data is None else data.get("background")
    found = next((given for given in (config.background, of_data) if given is not None), "white")
    return list(found) if isinstance(found, ListConfig) else found


def load_run(run: str, weights: str | int) -> tuple[DictConfig, Denoiser, int]:
    """A run's configuration, its denoiser with the weights asked for, and the step they were saved at.

    weights: "ema" (the first average), "raw", or an average's number. Raises ValueError for a run of task=classifier.
    """
    return _load(run, weights, build_denoiser, "diffusion")


def load_classifier(run: str, weights: str | int) -> tuple[DictConfig, Classifier, int]:
    """The same for a run of task=classifier. Raises ValueError for any other."""
    return _load(run, weights, build_classifier, "classifier")


def load_any(run: str, weights: str | int) -> tuple[DictConfig, Any, int]:
    """The same for a run of either task."""
    path = Path(run)
    task = runs.load_config(runs.checked_run(path.parent.parent if path.suffix == ".ckpt" else path)).task.name
    return load_classifier(run, weights) if task == "classifier" else load_run(run, weights)


Built = TypeVar("Built", Denoiser, Classifier)


def _load(
    run: str, weights: str | int, build: Callable[[DictConfig], Built], task: str
) -> tuple[DictConfig, Built, int]:
    path = Path(run)
    folder = runs.checked_run(path.parent.parent if path.suffix == ".ckpt" else path)
    config = runs.load_config(folder)
    if config.task.name != task:
        raise UserError(f"{run} is a run of task={config.task.name} and one of task={task} is needed here")
    checkpoint = path if path.suffix == ".ckpt" else runs.latest_checkpoint(folder)
    if checkpoint is None:
        raise NoSuchFileError(f"run={run} has no checkpoint yet: {folder}/checkpoints holds no last*.ckpt")
    loaded = runs.load_checkpoint(checkpoint)
    model = build(config)
    prefix = runs.weights_prefix(str(weights), list(config.ema_rates))
    state = {k.removeprefix(prefix): v for k, v in loaded["state_dict"].items() if k.startswith(prefix)}
    runs.check_same(checkpoint, state, model.network.state_dict())
    model.network.load_state_dict(state)
    return config, model.eval(), loaded["global_step"]


def to_draw(denoiser: Denoiser, precision: str, compile: bool | str) -> Denoiser:
    """The denoiser with its network in fp32, as it is trained, or in bf16; both compiled, if that is asked for.

    Networks of guidance stay as they are.

    Raises ValueError for any other precision, and as `compile_network`.
    """
    if precision not in ("fp32", "bf16"):
        raise UserError(f"precision={precision} is neither fp32 nor bf16, nor auto, which chooses one of them")
    drawing = denoiser if precision == "fp32" else denoiser.with_network(InBfloat16(denoiser.network)).eval()
    for network in {denoiser.network, drawing.network}:
        compile_network(network, compile)
    return drawing


def channels_last(config: DictConfig) -> bool:
    """Whether a training run's images and weights have their channels last. Raises ValueError for none of the choices.

    auto: on a GPU in 16 bits, whose convolutions run in that format and convert to it from any other. On a CPU group norms
    in it cost more than convolutions gain, and torch.compile takes it by itself.
    """
    choice = config.channels_last
    if choice != "auto":
        if not isinstance(choice, bool):
            raise UserError(f"channels_last={choice} is none of auto, true, false")
        return choice
    on_gpu = config.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return on_gpu and str(config.trainer.precision) in ("16-mixed", "16", "bf16-mixed", "bf16")


def build_extractor(config: DictConfig, data: DictConfig | None, device: torch.device) -> Any:
    """The extractor that config.features names, for a data set or, where there is none, for any images."""
    source = instantiate(config.features)
    if data is not None:
        count_classes(data)
    train = None if data is None else instantiate(data.dataset)(split="train")
    name, num_classes = ("images", None) if data is None else (data.name, data.num_classes)
    return source(train, name=name, num_classes=num_classes, cache=Path(config.cache), device=device)


def set_threads(threads: int | None) -> None:
    """CPU threads of torch; None leaves its choice."""
    if threads is not None:
        torch.set_num_threads(threads)


def device_type(accelerator: str) -> str:
    """The kind of device, "cpu", "cuda" or "mps", that an accelerator's name means on this machine. Raises ValueError."""
    choices = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if accelerator == "auto":
        accelerator = next(name for name in ("cuda", "mps", "cpu") if choices[name])
    if not choices.get(accelerator, False):
        there = ", ".join(name for name, present in choices.items() if present)
        raise UserError(f"accelerator={accelerator} is not on this machine; take auto or one of: {there}")
    return accelerator


def find_device(accelerator: str) -> torch.device:
    """The device that "auto", "cpu", "cuda" or "mps" names; of several GPUs this process's own. Raises ValueError."""
    kind = device_type(accelerator)
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(kind)
