"""The bound as a routine metric of training: at whole steps, of both splits, with its protocol, and disturbing nothing."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from ddpm_lab.callbacks.bits_per_dim import BitsPerDimension
from ddpm_lab.data.datamodule import DataModule
from ddpm_lab.data.digits import digits
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.objectives import Simple
from ddpm_lab.diffusion.predictions import Epsilon
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import cosine
from ddpm_lab.diffusion.timesteps import Uniform
from ddpm_lab.diffusion.variances import FixedLarge
from ddpm_lab.diffusion.weightings import uniform
from ddpm_lab.evaluation.likelihood import Fast
from ddpm_lab.training.diffusion import Diffusion


class Small(nn.Module):
    """Two convolutions with dropout between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.SiLU(), nn.Dropout(0.3), nn.Conv2d(8, 1, 3, padding=1)
        )

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        return self.layers(x)


def train(
    folder: Path, *callbacks: lightning.Callback, ema_rates: tuple[float, ...] = (0.9,), **options: Any
) -> Diffusion:
    torch.manual_seed(0)
    process = Process(cosine(20))
    module = Diffusion(
        Denoiser(Small(), process, Epsilon(), FixedLarge()),
        Simple(partial(uniform)),
        Uniform(process.T),
        partial(torch.optim.Adam, lr=1e-3),
        ema_rates=ema_rates,
    )
    data = DataModule(
        name="digits",
        dataset=digits,
        image_size=8,
        channels=1,
        num_classes=10,
        batch_size=8,
        test_batch_size=64,
        mirror=False,
        seed=0,
    )
    trainer = lightning.Trainer(
        **{"max_steps": 4, **options},
        accelerator="cpu",
        devices=1,
        callbacks=list(callbacks),
        logger=CSVLogger(folder),
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=data)
    return module


def callback(folder: Path, every: int = 0, splits: tuple[str, ...] = ("test",)) -> BitsPerDimension:
    return BitsPerDimension(str(folder), Fast(12, 2, True, 8), every, splits)


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


# Lightning's own, that the doors hush too.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        ".*LeafSpec.* is deprecated",
        "Found .* module.* in eval mode",
        "The '.*_dataloader' does not have many workers",
    )
]


def test_the_end_writes_number_errors_and_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, callback(tmp_path, splits=("test", "train")))
    found, out = written(tmp_path), capsys.readouterr().out
    for split, total in (("test", 299), ("train", 1498)):
        key = f"{split}/bits_per_dim"
        protocol = found[f"{key}_protocol"]
        assert (protocol["step"], protocol["weights"], protocol["n"]) == (4, "ema", 12)
        assert protocol["images"] == f"12 of {total}, seed 0, {split} images of digits"
        assert protocol["bound"] == "fast, 2 network calls per image"
        assert isinstance(protocol["commit"], str)
        value, error, of_it = (found[f"{key}{end}"] for end in ("", "_standard_error", "_estimator_error"))
        said = f"{value:.3f} ± {error:.3f} (of it ± {of_it:.3f} the estimator)"
        assert f"bits/dim ({protocol['images']}, averaged weights): {said}" in out
    assert found["test/bits_per_dim"] != found["train/bits_per_dim"]


def steps_logged(folder: Path) -> list[int]:
    header, *rows = [line.split(",") for line in next(folder.rglob("metrics.csv")).read_text().splitlines()]
    step, value = header.index("step"), header.index("test/bits_per_dim")
    return [int(row[step]) for row in rows if row[value]]


@pytest.mark.parametrize(
    ("every", "options", "steps"),
    [
        (0, {}, [4]),
        (2, {}, [2, 4]),
        (3, {}, [3, 4]),
        (1, {"accumulate_grad_batches": 3, "max_steps": 2}, [1, 2]),
        (2, {"max_steps": 5}, [2, 4, 5]),
    ],
)
def test_it_is_logged_every_so_many_whole_steps_and_once_at_the_end(
    every: int, options: dict[str, Any], steps: list[int], tmp_path: Path
) -> None:
    train(tmp_path, callback(tmp_path, every), **options)
    assert steps_logged(tmp_path) == steps


def test_training_is_the_same_with_and_without_it(tmp_path: Path) -> None:
    alone = train(tmp_path / "alone").state_dict()
    watched = train(tmp_path / "watched", callback(tmp_path, every=1, splits=("test", "train"))).state_dict()
    assert all(torch.equal(alone[name], value) for name, value in watched.items())


def test_without_an_average_it_is_the_raw_weights_without_dropout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Modes(lightning.Callback):
        modes: list[bool] = []

        def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
            self.modes.append(module.denoiser.network.training)

    seen = Modes()
    module = train(tmp_path, callback(tmp_path, every=1), seen, ema_rates=())
    assert seen.modes == [True] * 4
    assert "averaged" not in capsys.readouterr().out
    found = written(tmp_path)
    assert found["test/bits_per_dim_protocol"]["weights"] == "raw"
    again = Fast(12, 2, True, 8)(
        module.denoiser.eval(),
        digits("test"),
        split="test",
        name="digits",
        conditional=False,
        seed=0,
        device=torch.device("cpu"),
    )
    assert found["test/bits_per_dim"] == pytest.approx(again.value, rel=1e-6)


def test_a_wrong_split_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="val"):
        train(tmp_path, callback(tmp_path, splits=("val",)))
    with pytest.raises(ValueError, match="every=-1"):
        callback(tmp_path, every=-1)
