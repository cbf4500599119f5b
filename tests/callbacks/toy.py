"""A model of two convolutions and a stream of noise: a real Trainer's smallest run."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ddpm_lab.data.datamodule import DataModule
from ddpm_lab.data.digits import digits
from ddpm_lab.diffusion import schedules, weightings
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.objectives import Simple
from ddpm_lab.diffusion.predictions import Epsilon
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.timesteps import Uniform
from ddpm_lab.diffusion.variances import FixedLarge
from ddpm_lab.training.diffusion import Diffusion

T = 10
known_false_alarms = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*in eval mode",
    "ignore:.*LeafSpec",
    "ignore:You defined a .validation_step. but have no",
)


class Network(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Dropout(dropout), nn.Conv2d(4, 1, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        return self.layers(x)


class Noise(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        while True:
            yield torch.randn(1, 8, 8, generator=generator), torch.tensor(0)


def module(dropout: float = 0.0, **options: Any) -> Diffusion:
    torch.manual_seed(0)
    denoiser = Denoiser(Network(dropout), Process(schedules.cosine(T)), Epsilon(), FixedLarge())
    optimizer = partial(torch.optim.SGD, lr=0.1)
    return Diffusion(denoiser, Simple(weightings.uniform), Uniform(T), optimizer, **{"ema_rates": [0.9], **options})


def stream(batch_size: int = 4) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(Noise(), batch_size=batch_size)


def data() -> DataModule:
    common = {"image_size": 8, "channels": 1, "num_classes": 10, "mirror": False, "seed": 0}
    return DataModule(name="digits", dataset=digits, batch_size=4, test_batch_size=64, **common)


def trainer(folder: Path, *callbacks: lightning.Callback, **options: Any) -> lightning.Trainer:
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }
    once = {"max_epochs": -1, "val_check_interval": 2, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
    where = {"accelerator": "cpu", "devices": 1, "default_root_dir": str(folder), "use_distributed_sampler": False}
    return lightning.Trainer(callbacks=list(callbacks), **{**quiet, **once, **where, "max_steps": 6, **options})
