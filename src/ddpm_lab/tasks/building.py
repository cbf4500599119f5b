"""From a configuration to the objects that it names, and from a run folder back to its model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ddpm_lab import runs
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.process import Process


def build_denoiser(config: DictConfig) -> Denoiser:
    """The network with as many outputs as the variance needs, and what its output means."""
    variance = instantiate(config.variance)
    data = config.data
    if config.class_conditional and data.num_classes is None:
        raise ValueError(f"class_conditional=true needs labels, and data={data.name} has none")
    network = instantiate(
        config.network,
        image_size=data.image_size,
        in_channels=data.channels,
        out_channels=data.channels * variance.heads,
        num_classes=data.num_classes if config.class_conditional else None,
    )
    process = Process(instantiate(config.schedule))
    return Denoiser(network, process, instantiate(config.prediction), variance, config.time_scale)


def build_module(config: DictConfig) -> Any:
    """The LightningModule of a run, freshly initialised from config.seed."""
    from ddpm_lab.seeds import mix
    from ddpm_lab.training.diffusion import Diffusion

    check_combination(config)
    torch.manual_seed(mix(config.seed))
    denoiser = build_denoiser(config)
    return Diffusion(
        denoiser,
        instantiate(config.objective),
        instantiate(config.timestep_sampler, T=denoiser.process.T),
        instantiate(config.optimizer),
        instantiate(config.lr_scheduler),
        ema_rates=config.ema_rates,
        conditional=config.class_conditional,
        seed=config.seed,
        compile=config.compile,
        channels_last=config.channels_last,
    )


def check_combination(config: DictConfig) -> None:
    """Refuse, before anything large is built or read, what cannot be trained together: ValueError says what to set."""
    if "weighting" not in config.objective and not config.weighting._target_.endswith(".uniform"):
        raise ValueError(
            f"weighting={config.weighting._target_.rsplit('.', 1)[-1]} has no part in this objective: the bound's weights "
            "are what they are; leave weighting=uniform, or set objective=simple or hybrid"
        )
    instantiate(config.objective).check(instantiate(config.variance))


def load_run(run: str, weights: str | int) -> tuple[DictConfig, Denoiser, int]:
    """A run's configuration, its denoiser with the weights asked for, and the step they were saved at.

    weights: "ema" (the first average), "raw", or an average's number.
    """
    path = Path(run)
    folder = runs.checked_run(path.parent.parent if path.suffix == ".ckpt" else path)
    config = OmegaConf.load(folder / "config.yaml")
    assert isinstance(config, DictConfig)
    checkpoint = path if path.suffix == ".ckpt" else runs.latest_checkpoint(folder)
    if checkpoint is None:
        raise FileNotFoundError(f"run={run} has no checkpoint yet: {folder}/checkpoints holds no last*.ckpt")
    loaded = runs.load_checkpoint(checkpoint)
    denoiser = build_denoiser(config)
    prefix = runs.weights_prefix(str(weights), list(config.ema_rates))
    state = {k.removeprefix(prefix): v for k, v in loaded["state_dict"].items() if k.startswith(prefix)}
    runs.check_same(checkpoint, state, denoiser.network.state_dict())
    denoiser.network.load_state_dict(state)
    return config, denoiser.eval(), loaded["global_step"]


def build_extractor(config: DictConfig, data: DictConfig | None, device: torch.device) -> Any:
    """The extractor that config.features names, for a data set or, where there is none, for any images."""
    source = instantiate(config.features)
    train = None if data is None else instantiate(data.dataset)(split="train")
    name, num_classes = ("images", None) if data is None else (data.name, data.num_classes)
    return source(train, name=name, num_classes=num_classes, cache=Path(config.cache), device=device)


def set_threads(threads: int | None) -> None:
    """CPU threads of torch; None leaves its choice."""
    if threads is not None:
        torch.set_num_threads(threads)


def find_device(accelerator: str) -> torch.device:
    """The device that "auto", "cpu", "cuda" or "mps" names; of several GPUs this process's own. Raises ValueError."""
    choices = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if accelerator == "auto":
        accelerator = next(name for name in ("cuda", "mps", "cpu") if choices[name])
    if not choices.get(accelerator, False):
        there = ", ".join(name for name, present in choices.items() if present)
        raise ValueError(f"accelerator={accelerator} is not on this machine; take auto or one of: {there}")
    if accelerator == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(accelerator)
