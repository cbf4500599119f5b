"""What every test may ask for, and the order of all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests import golden
from tests.doors import QUICK, run

HERE = Path(__file__).parent
REFERENCES = pytest.StashKey[set[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those of the command line first: files of minutes, that no worker should be left with at the end."""
    items.sort(key=lambda item: item.path.parent != HERE)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REFERENCES] = set()


@pytest.hookimpl(optionalhook=True)  # of xdist
def pytest_testnodedown(node: Any, error: object) -> None:
    """What a worker has read, where there are several."""
    node.config.stash[REFERENCES] |= set(getattr(node, "workeroutput", {}).get("golden", ()))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Count the reference numbers that were read; of a run of all golden tests none may be left that no test knows."""
    config = session.config
    config.stash[REFERENCES] |= golden.read
    if hasattr(config, "workeroutput"):
        config.workeroutput["golden"] = sorted(golden.read)
    elif config.stash[REFERENCES] and _whole(config) and _unknown(config) and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _whole(config: pytest.Config) -> bool:
    """Whether every golden test was asked for."""
    chosen = config.getoption("keyword") or config.getoption("markexpr") or config.getoption("deselect")
    wanted = [Path(argument.split("::")[0]).absolute() for argument in config.args if "::" not in argument]
    users = {path for path in HERE.rglob("test_*.py") if "import Golden" in path.read_text()}
    return not chosen and all(any(path.is_relative_to(root) for root in wanted) for path in users)


def _unknown(config: pytest.Config) -> list[str]:
    found = golden.all_arrays() - config.stash[REFERENCES]
    return sorted(array for array in found if not golden.left_out(array))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Both counts, and what is unknown."""
    if not config.stash[REFERENCES]:
        return
    arrays = golden.all_arrays()
    compared = arrays & config.stash[REFERENCES]
    named = {array for array in arrays - compared if golden.left_out(array)}
    told = f"golden numbers: {len(compared)} arrays read by tests, {len(named)} left out by name"
    unknown = _unknown(config)
    if _whole(config) and unknown:
        told += f", {len(unknown)} that no test knows, which fails the run: {', '.join(unknown[:10])}"
    terminalreporter.write_line(told)


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
