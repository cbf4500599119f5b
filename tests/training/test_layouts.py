"""One process, two, and two parts of a batch: the same training, for the same t and noise."""

from pathlib import Path

import pytest

from tests.doors import QUICK, run, scalars

LAYOUTS = {
    "one": ["data.batch_size=8"],
    "two_processes": ["data.batch_size=8", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"],
    "two_parts": ["data.batch_size=4", "trainer.accumulate_grad_batches=2"],
}


def test_the_curve_does_not_depend_on_the_layout(tmp_path: Path) -> None:
    curves = []
    quick = [option for option in QUICK if "data.batch_size" not in option and "val_check" not in option]
    for name, layout in LAYOUTS.items():
        options = [*quick, "trainer.log_every_n_steps=1", "objective._target_=tests.training.by_content.Simple"]
        run("train", *options, *layout, "callbacks.bits_per_dim=null", "logger=csv", f"hydra.run.dir={tmp_path}/{name}")
        curves.append({tuple(row[:2]): float(row[2]) for row in scalars(tmp_path / name)[1:]})
    for key in [(str(step), f"train/{name}") for step in range(1, 13) for name in ("loss", "mse", "grad_norm", "lr")]:
        for curve in curves[1:]:
            assert curve[key] == pytest.approx(curves[0][key], rel=1e-4), key
