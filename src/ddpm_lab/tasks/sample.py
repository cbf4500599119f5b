"""Draw images of a run."""

from __future__ import annotations

from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from ddpm_lab.tasks.building import find_device, load_run, set_threads


def sample(config: DictConfig) -> None:
    """Draw n images of a run: samples.png and samples.npz (arr_0: uint8 [n, H, W, C])."""
    from tqdm import tqdm

    from ddpm_lab.pictures import panels, save_npz
    from ddpm_lab.samplers.generate import generate

    if config.n < 1 or config.batch_size < 1:
        raise ValueError(f"n and batch_size must be positive, got n={config.n} and batch_size={config.batch_size}")
    set_threads(config.threads)
    folder = Path(HydraConfig.get().runtime.output_dir)
    run, denoiser, step = load_run(config.run, config.weights)
    device = find_device(config.accelerator)
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
