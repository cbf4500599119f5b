"""fit, sample, evaluate: from a configuration to the objects it names, and from them to files in a run folder."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

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


def fit(config: DictConfig) -> float:
    """Train; leave a run folder; return the test split's bits per dimension (or nan if not evaluated)."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    _set_threads(config.threads)
    from ddpm_lab.training.say import say

    _hush()
    if config.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(f"trainer.accelerator={config.trainer.accelerator}: this machine has no GPU; take auto or cpu")
    check_combination(config)
    data = instantiate(config.data)
    _count_epochs(config, len(data.images("train")))
    if config.trainer.precision in ("16-mixed", "16") and "fused" in config.optimizer:
        # torch's fused optimizers unscale gradients themselves, after the clipping that needs them unscaled.
        config.optimizer.fused = False
    module = build_module(config)
    checkpoint = _checkpoint_to_resume(config.resume, folder)
    step = _check_checkpoint(checkpoint, module) if checkpoint else 0
    provenance = {"id": None}
    if os.environ.get("LOCAL_RANK", "0") == "0":
        OmegaConf.save(config, folder / "config.yaml", resolve=True)
        provenance = runs.record_provenance(folder, list(hydra_config.overrides.task))
    sweep = Path(hydra_config.sweep.dir).name if hydra_config.mode == RunMode.MULTIRUN else None
    loggers = _loggers(config, folder, step, provenance["id"], sweep)
    trainer = instantiate(
        config.trainer,
        callbacks=_callbacks(config),
        logger=loggers,
    )
    plain = OmegaConf.to_container(config, resolve=True)
    for logger in loggers:
        logger.log_hyperparams({**plain, "provenance": provenance})  # type: ignore[dict-item]
    parameters = sum(p.numel() for p in module.denoiser.network.parameters())
    say(
        f"{parameters / 1e6:.2f}M parameters, {len(data.images('train'))} images of {data.name}, global batch "
        f"{data.batch_size * config.trainer.accumulate_grad_batches}, {config.trainer.max_steps} steps"
        + (f", resumed at step {step}" if checkpoint else "")
        + f" -> {folder}"
    )
    start = time.perf_counter()
    status = "failed"
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)
        _finish_wandb(status)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        runs.add_metrics(folder, {"step": trainer.global_step, "train/seconds": round(time.perf_counter() - start, 1)})
    say(f"done in {time.perf_counter() - start:.0f} s: {folder}/samples.png")
    return runs.read_metrics(folder).get("test/bits_per_dim", math.nan)


def sample(config: DictConfig) -> None:
    """Draw n images of a run: samples.png and samples.npz (arr_0: uint8 [n, H, W, C])."""
    from tqdm import tqdm

    from ddpm_lab.pictures import panels, save_npz
    from ddpm_lab.samplers.generate import generate

    if config.n < 1 or config.batch_size < 1:
        raise ValueError(f"n and batch_size must be positive, got n={config.n} and batch_size={config.batch_size}")
    _set_threads(config.threads)
    folder = Path(HydraConfig.get().runtime.output_dir)
    run, denoiser, step = load_run(config.run, config.weights)
    device = _device(config.accelerator)
    denoiser.to(device)
    sampler = instantiate(config.sampler)
    steps = sampler.timesteps(denoiser.process.T)
    labels = torch.arange(config.n) % run.data.num_classes if run.class_conditional else None
    shape = (run.data.channels, run.data.image_size, run.data.image_size)
    drawn = []
    with tqdm(total=config.n, desc=f"sampling, {len(steps)} steps", unit="image", disable=None) as bar:
        for images in generate(
            denoiser,
            sampler,
            shape,
            range(config.n),
            seed=config.seed,
            batch_size=config.batch_size,
            labels=labels,
            device=device,
        ):
            drawn.append(images.cpu())
            bar.update(len(images))
    images = torch.cat(drawn)
    save_npz(folder / "samples.npz", images, labels)
    name = type(sampler).__name__
    panels([(f"{name}, {len(steps)} steps, seed {config.seed}, step {step}", images[:256])], folder / "samples.png", 16)
    print(f"{config.n} images by {name} in {len(steps)} steps -> {folder}/samples.png, samples.npz")


def evaluate(config: DictConfig) -> float:
    """Evaluate a run's bound on test images, term by term: metrics.json and bits_per_dim.png; return bits per dimension."""
    from tqdm import tqdm

    from ddpm_lab.diffusion.likelihood import BitsPerDim, bits_per_dim
    from ddpm_lab.pictures import bound_terms
    from ddpm_lab.pixels import to_float
    from ddpm_lab.samplers.spacings import timesteps
    from ddpm_lab.seeds import ImageNoise

    if config.batch_size < 1 or (config.images is not None and config.images < 1):
        raise ValueError(f"images and batch_size must be positive, got {config.images} and {config.batch_size}")
    _set_threads(config.threads)
    folder = Path(HydraConfig.get().runtime.output_dir)
    run, denoiser, step = load_run(config.run, config.weights)
    device = _device(config.accelerator)
    denoiser.to(device)
    T = denoiser.process.T
    chain = timesteps(T, config.timesteps, "uniform")
    test = instantiate(run.data.dataset)(split="test")
    n = min(config.images or len(test), len(test))
    # Enough images at once to fill a batch, yet few enough for the bar to move.
    width = max(1, min(n, config.batch_size, 16))
    parts: list[BitsPerDim] = []
    with tqdm(total=n, desc=f"bits/dim, {len(chain)} terms", unit="image", disable=None) as bar:
        for start in range(0, n, width):
            indices = list(range(start, min(start + width, n)))
            images, labels = test.__getitems__(indices)
            parts.append(
                bits_per_dim(
                    denoiser,
                    to_float(images.to(device)),
                    labels.to(device) if run.class_conditional else None,
                    clip=config.clip,
                    timesteps=chain,
                    randn_like=ImageNoise(config.seed, indices, device),
                    pairs=config.batch_size,
                )
            )
            bar.update(len(indices))
    total, prior, vlb, x_0_mse, noise_mse = (
        torch.cat(list(p)).double().cpu() for p in list(zip(*parts, strict=True))[:5]
    )
    mean, error = total.mean().item(), (total.std() / len(total) ** 0.5).item() if n > 1 else math.nan
    key = "test/bits_per_dim" if len(chain) == T else f"test/bits_per_dim_{len(chain)}_steps"
    runs.add_metrics(
        folder,
        {
            key: mean,
            f"{key}_standard_error": error,
            f"{key}_prior": prior.mean().item(),
            f"{key}_decoder": vlb[:, 0].mean().item(),
            f"{key}_images": n,
            f"{key}_terms": {
                "t": chain,
                "vlb": vlb.mean(0).tolist(),
                "x_0_mse": x_0_mse.mean(0).tolist(),
                "noise_mse": noise_mse.mean(0).tolist(),
            },
            f"{key}_protocol": {
                "images": f"the first {n} of {len(test)} test images of {run.data.name}",
                "bound": "exact, every term" if len(chain) == T else f"of the strided chain of {len(chain)} steps",
                "clip": config.clip,
                "seed": config.seed,
                "weights": str(config.weights),
                "step": step,
                "commit": runs.commit(),
            },
        },
    )
    caption = f"{run.data.name}, {n} test images, step {step}: {mean:.3f} ± {error:.3f} bits/dim"
    bound_terms(chain, vlb, x_0_mse, noise_mse, caption, folder / "bits_per_dim.png")
    print(f"{caption} (prior {prior.mean():.2g}, decoder {vlb[:, 0].mean():.3f}) -> {folder}/metrics.json")
    return mean


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


def _hush() -> None:
    """Keep Lightning's advertisements and known false alarms from the screen; warnings that matter still show."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "Found .* module.* in eval mode", module="lightning")  # the averages are
    warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", module="lightning")
    warnings.filterwarnings("ignore", "torch.distributed.nn.functional.all_gather is deprecated", module="lightning")
    warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many workers", module="lightning")


def _callbacks(config: DictConfig) -> list[Any]:
    """One by one: instantiating a dict of them would turn what they hold into config nodes."""
    from lightning.pytorch.callbacks import ProgressBar

    built = [instantiate(callback) for callback in config.callbacks.values() if callback is not None]
    wanted = config.trainer.enable_progress_bar
    return [callback for callback in built if wanted or not isinstance(callback, ProgressBar)]


def _loggers(config: DictConfig, folder: Path, step: int, run_id: str | None, sweep: str | None) -> list[Any]:
    from ddpm_lab.callbacks.scalars import Scalars

    loggers: list[Any] = [Scalars(str(folder), step)]
    for name, node in config.logger.items():
        extra = {"id": run_id, "group": node.group or sweep} if name == "wandb" else {}
        loggers.append(instantiate(node, **extra))
    return loggers


def _finish_wandb(status: str) -> None:
    if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
        sys.modules["wandb"].finish(exit_code=0 if status == "success" else 1)


def _checkpoint_to_resume(resume: str | None, folder: Path) -> Path | None:
    if resume is None:
        return None
    if resume == "auto":
        return runs.latest_checkpoint(folder)
    path = Path(resume)
    if not path.is_file():
        raise FileNotFoundError(f"resume={resume} is neither auto nor a checkpoint file; omit it to start anew")
    return path


def _check_checkpoint(path: Path, module: nn.Module) -> int:
    """The checkpoint's step. Raises ValueError if it is of another model, in one sentence."""
    loaded = runs.load_checkpoint(path)
    runs.check_same(path, loaded["state_dict"], module.state_dict())
    return loaded["global_step"]


def _count_epochs(config: DictConfig, images: int) -> None:
    """The stream has no end, so max_epochs=E is told to the Trainer as the steps of E passes over the data."""
    epochs = config.trainer.max_epochs
    with open_dict(config):
        steps = config.trainer.max_steps
        config.trainer.max_steps = -1 if steps is None else steps
        if epochs is not None and epochs >= 0:
            batch = config.data.batch_size * config.trainer.accumulate_grad_batches
            passes = math.ceil(epochs * images / batch)
            config.trainer.max_steps = passes if steps in (None, -1) else min(passes, steps)
        config.trainer.max_epochs = -1


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def _device(accelerator: str) -> torch.device:
    choices = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if accelerator == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if choices[name]))
    if not choices.get(accelerator, False):
        there = ", ".join(name for name, present in choices.items() if present)
        raise ValueError(f"accelerator={accelerator} is not on this machine; take auto or one of: {there}")
    return torch.device(accelerator)
