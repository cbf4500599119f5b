"""What every test may ask for, and the order of all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from tests.doors import QUICK, run

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those of the command line first: files of minutes, that no worker should be left with at the end."""
    items.sort(key=lambda item: item.path.parent != HERE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps of the defaults, in a folder that is this module's alone; it is trained once for all of them."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    once = base / "trained_once"
    with FileLock(f"{once}.lock"):
        if not (once / "DONE").exists():
            run("train", *QUICK, "logger=csv", f"hydra.run.dir={once}")
    folder = tmp_path_factory.mktemp("trained") / "run"
    shutil.copytree(once, folder)
    return folder
