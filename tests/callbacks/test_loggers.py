"""What WANDB_MODE, a key and the network decide."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddpm_lab.dashboards import wandb_mode

WRITES = """
import os, sys
from ddpm_lab.callbacks.loggers import wandb
for folder, mode in zip(sys.argv[1:], ("disabled", None)):
    os.environ.pop("WANDB_MODE", None)
    if mode is not None:
        os.environ["WANDB_MODE"] = mode
    logger = wandb(folder, "project", None, None, "abcd1234")
    logger.log_hyperparams({"a": 1})
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finalize("success")
    import wandb as client
    client.finish()
"""


def test_disabled_writes_nothing(tmp_path: Path) -> None:
    disabled, offline = tmp_path / "disabled", tmp_path / "offline"
    for folder in (disabled, offline):
        folder.mkdir()
    variables = {k: v for k, v in os.environ.items() if k not in {"WANDB_API_KEY", "WANDB_MODE"}}
    subprocess.run(
        [sys.executable, "-c", WRITES, str(disabled), str(offline)],
        env=variables | {"HOME": str(tmp_path)}, cwd=tmp_path, check=True, timeout=100,
    )  # fmt: skip
    assert not any(disabled.iterdir())
    assert len(list(offline.glob("wandb/offline-run-*/run-abcd1234.wandb"))) == 1


@pytest.mark.parametrize("answers", [True, False])
def test_a_key_goes_online_where_the_server_answers(answers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers:
            server.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert wandb_mode() == ("online" if answers else "offline")


def test_a_server_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with socket.socket() as server:  # its queue is full, so that a connection is neither made nor refused
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        start = time.monotonic()
        assert wandb_mode() == "offline"
        assert time.monotonic() - start < 2
        for one in waiting:
            one.close()
