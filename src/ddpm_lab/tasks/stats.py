"""Reference statistics of a data set: `python evaluate.py stats data=…`."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from ddpm_lab import ranks
from ddpm_lab.evaluation.reference import reference_statistics
from ddpm_lab.metrics.statistics import save_statistics
from ddpm_lab.parts import named, part
from ddpm_lab.tasks.building import build_extractor, find_device, set_threads


def stats(config: DictConfig) -> None:
    """Compute the statistics of a split into the cache and, if asked for, write them to a file for other evaluators."""
    set_threads(config.threads)
    device = find_device(config.accelerator)
    with ranks.joined(device):
        images = instantiate(config.data.dataset)(split=config.split)
        extractor = build_extractor(config, config.data, device)
        statistics, path = reference_statistics(
            images,
            extractor,
            data=config.data.name,
            split=config.split,
            n=config.n,
            batch_size=config.batch_size,
            cache=Path(config.cache),
            device=device,
            seed=config.seed,
        )
        if not ranks.first():
            return
        if config.out is not None:
            path = Path(config.out)
            pixels = None
            if config.images:
                pixels = images.__getitems__(part(len(images), config.n, config.seed))[0].permute(0, 2, 3, 1).numpy()
            save_statistics(path, statistics, pixels)
        chosen = named(len(images), config.n, config.seed, f"{config.split} images of {config.data.name}")
        print(f"statistics of {chosen} by {extractor.name} -> {path}")
