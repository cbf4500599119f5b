"""What WANDB_MODE decides."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WRITES = """
import sys
from ddpm_lab.callbacks.loggers import wandb
logger = wandb(sys.argv[1], "project", None, None, "abcd1234")
logger.log_hyperparams({"a": 1})
logger.log_metrics({"loss": 1.0}, step=1)
logger.finalize("success")
import wandb
wandb.finish()
"""


@pytest.mark.parametrize(
    ("mode", "written"), [({"WANDB_MODE": "disabled"}, 0), ({"WANDB_MODE": "offline"}, 1), ({}, 1)]
)
def test_disabled_writes_nothing(tmp_path: Path, mode: dict[str, str], written: int) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    hidden = {"WANDB_API_KEY", "WANDB_MODE"}
    variables = {k: v for k, v in os.environ.items() if k not in hidden} | {"HOME": str(tmp_path)} | mode
    subprocess.run([sys.executable, "-c", WRITES, str(folder)], env=variables, cwd=tmp_path, check=True, timeout=100)
    assert len(list(folder.glob("wandb/offline-run-*/run-abcd1234.wandb"))) == written
    assert any(folder.iterdir()) == bool(written)
