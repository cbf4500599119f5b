"""However many sessions a run takes, and however they end, W&B has its history whole, once and on one axis."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ddpm_lab.callbacks.wandb_file import history
from tests.doors import environment, run

OPENWANDB = shutil.which("openwandb", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def session(folder: Path, run_id: str, start: int, last: int, how: str, *variables: str) -> str:
    folder.mkdir(exist_ok=True)
    expect = -signal.SIGKILL if how == "killed" else 0
    few = ["WANDB__SAVE_REQUIREMENTS=false", "WANDB__DISABLE_META=true"]  # each file costs the server half a second
    return run("tests/wandb_sessions", str(folder), run_id, str(start), str(last), how, *few, *variables, expect=expect)


def assert_whole_and_once(rows: list[dict[str, Any]], last: int) -> None:
    """rows: as logged, each with the optimizer's step under "step"."""
    assert [row["_step"] for row in rows] == [row["step"] for row in rows] == list(range(1, last + 1))
    assert [row["loss"] for row in rows] == [1 / step for step in range(1, last + 1)]
    assert [row["bits_per_dim"] for row in rows if "bits_per_dim" in row] == list(range(5, last + 1, 5))
    for name in ("samples", "table", "timesteps"):
        assert [row["step"] for row in rows if name in row] == [10], name


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved at 10 and killed at 13, saved at 20 and killed at 24, whose row was not yet written."""
    folder = tmp_path_factory.mktemp("offline") / "run"
    session(folder, "offline1", 0, 13, "killed")
    session(folder, "offline1", 10, 24, "killed")
    return folder


def test_an_offline_run_has_one_folder_to_sync(offline: Path) -> None:
    (waiting,) = offline.glob("wandb/offline-run-*")
    assert_whole_and_once([{**row, "step": step} for step, row in history(waiting)], 23)
    assert len(list(offline.glob("wandb/superseded/offline-run-*-offline1/run-offline1.wandb"))) == 1
    assert len(list((waiting / "files" / "media" / "images").glob("samples_*.png"))) == 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables that lead to a W&B-compatible server of one's own."""
    assert OPENWANDB is not None, "openwandb is in requirements.lock and not in this environment: make setup"
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    command = [OPENWANDB, "serve", "--host", "127.0.0.1", "-p", str(port), "--data-dir", str(folder / "data")]
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HOME": str(folder)}
    with log.open("w") as file:
        process = subprocess.Popen(command, env=variables, stdout=file, stderr=subprocess.STDOUT)
    try:
        while "Uvicorn running" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        key = re.findall("WANDB_API_KEY=(.*)", log.read_text())[0]
        yield {"WANDB_BASE_URL": f"http://127.0.0.1:{port}", "WANDB_API_KEY": key, "DATA": str(folder / "data")}
    finally:
        process.terminate()
        process.wait()


def rows_of(server: dict[str, str], run_id: str) -> list[dict[str, Any]]:
    lines = (Path(server["DATA"]) / "files" / "default" / "project" / run_id / "wandb-history.jsonl").read_text()
    return [{**row, "step": row["trainer/global_step"]} for row in map(json.loads, filter(None, lines.splitlines()))]


def asked(server: dict[str, str], path: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server['WANDB_BASE_URL']}/api/v2/runs/{path}") as answer:
        return json.load(answer)


def test_a_run_synced_on_the_way_arrives_whole(offline: Path, server: dict[str, str]) -> None:
    sync(offline, server)
    session(offline, "offline1", 20, 31, "ended")
    sync(offline, server)
    assert_whole_and_once(rows_of(server, "offline1"), 31)
    run = asked(server, "offline1")["run"]
    assert (run["tags"], run["notes"]) == (["first", "small"], "what it is")
    found = [(row["step"], row["value"]) for row in asked(server, "offline1/metrics?key=loss")["metrics"]]
    assert found == [(step, 1 / step) for step in range(1, 32)]


def sync(folder: Path, server: dict[str, str]) -> None:
    """As a user does: all folders there, those that are synced are passed over."""
    client = Path(sys.executable).parent / "wandb"
    folders = [str(path) for path in folder.glob("wandb/offline-run-*")]
    command = [client, "sync", "--skip-synced", *folders]
    subprocess.run(command, env=environment() | server, check=True, capture_output=True, timeout=200)


def test_online_nothing_is_sent_twice_or_lost(server: dict[str, str], tmp_path: Path) -> None:
    variables = [f"{name}={value}" for name, value in server.items()] + ["WANDB__FILE_STREAM_TRANSMIT_INTERVAL=5"]
    session(tmp_path / "run", "online01", 0, 13, "killed", *variables)
    output = session(tmp_path / "run", "online01", 10, 31, "ended", *variables)
    assert_whole_and_once(rows_of(server, "online01"), 31)
    assert output.count("W&B has some steps after 10 from an earlier session") == 1
    found = [(row["step"], row["value"]) for row in asked(server, "online01/metrics?key=loss")["metrics"]]
    assert found == [(step, 1 / step) for step in range(1, 32)]
