"""Every argument of the Trainer: it works, or it is refused in a sentence before anything is trained."""

import csv
import inspect
from pathlib import Path
from typing import Any

import lightning
import pytest
from omegaconf import OmegaConf

from ddpm_lab.errors import UserError
from ddpm_lab.tasks.arguments import FIXED, check_trainer
from tests.doors import QUICK, ROOT, checkpoint, run

DEFAULT = OmegaConf.load(ROOT / "conf" / "trainer" / "default.yaml")
OTHER: dict[str, Any] = {bool: True, int: 2, float: 2, str: "other", type(None): 2}

WORKING = {  # beside those that the other tests change: max_steps, precision, devices, …
    "max_time": "00:01:00:00",
    "num_sanity_val_steps": 1,
    "limit_val_batches": 1,
    "val_check_interval": 2,
    "deterministic": "warn",
    "benchmark": False,
    "inference_mode": False,
    "detect_anomaly": True,
    "profiler": "simple",
    "enable_model_summary": True,
    "enable_progress_bar": False,
    "gradient_clip_algorithm": "value",
    "log_every_n_steps": 1,
    "accumulate_grad_batches": 2,
    "accelerator": "cpu",
    "strategy": "single_device",
}
ELSEWHERE = {
    *("_target_", "max_steps", "max_epochs", "devices", "num_nodes", "precision", "gradient_clip_val", "plugins"),
    "default_root_dir",  # nothing is written there
}


def test_there_is_no_other() -> None:
    arguments = set(inspect.signature(lightning.Trainer.__init__).parameters) - {"self", "callbacks", "logger"}
    assert arguments | {"_target_"} == set(DEFAULT) == set(FIXED) | set(WORKING) | ELSEWHERE
    check_trainer(DEFAULT)


@pytest.mark.parametrize("name", FIXED)
def test_it_is_refused(name: str) -> None:
    value = "maybe" if name == "enable_progress_bar" else OTHER[type(DEFAULT[name])]
    with pytest.raises(UserError, match=f"trainer.{name}=(true|2|other|maybe) has no place in a run here: "):
        check_trainer(OmegaConf.merge(DEFAULT, {name: value}))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"max_steps": 0}, "trains nothing"),
        ({"max_epochs": 0, "max_steps": None}, "trains nothing"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches=0 must be at least 1"),
        ({"val_check_interval": 0}, "val_check_interval=0 must be at least 1"),
        ({"log_every_n_steps": -1}, "must be at least 0"),
        ({"strategy": "fsdp"}, "optimizer=adam_sharded"),
        ({"strategy": "ddp_spawn"}, "is none of auto, single_device, ddp"),
        ({"precision": "transformer-engine"}, "take 32-true"),
    ],
)
def test_a_value_is_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_trainer(OmegaConf.merge(DEFAULT, changed))


def test_the_others_work_together(tmp_path: Path) -> None:
    given = [f"trainer.{name}={value}" for name, value in WORKING.items()]
    printed = run("train", *QUICK, *given, "logger=csv", "trainer.max_steps=3", f"hydra.run.dir={tmp_path}/run")
    assert "global batch 32, 3 steps" in printed
    assert checkpoint(tmp_path / "run")["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"] == 6
    with (tmp_path / "run" / "scalars.csv").open() as file:
        steps = [row["step"] for row in csv.DictReader(file) if row["name"] == "val/loss"]
    assert steps == ["1", "2", "3"]  # and none of the sanity check
    printed = run("train", *QUICK, "trainer.overfit_batches=2", f"hydra.run.dir={tmp_path}/refused", expect=1)
    assert "debug=overfit" in printed
    assert not (tmp_path / "refused").exists()
