"""What an evaluation shows on W&B: its numbers, their table with protocols, its pictures."""

from __future__ import annotations

import netrc
import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


def wandb(
    folder: Path,
    config: Mapping[str, Any],
    run: str | None,
    numbers: Mapping[str, float],
    table: tuple[Sequence[str], Sequence[Sequence[Any]]],
    pictures: Sequence[Path],
    *,
    project: str,
    group: str | None,
    tags: Sequence[str] = (),
    notes: str | None = None,
) -> None:
    """Log an evaluation as a W&B run of its own, in the group of the run that it is of; offline unless a key is configured."""
    import wandb as client

    os.environ.setdefault("WANDB_SILENT", "true")
    session = client.init(
        dir=folder,
        project=project,
        group=group or run,
        tags=list(tags) or None,  # None: WANDB_TAGS, if that is set
        notes=notes,
        job_type="evaluate",
        name=f"evaluation of {folder.name if run is None else f'{run}, {folder.name}'}",
        config=dict(config),
        mode=wandb_mode(),  # type: ignore[arg-type]
        settings=client.Settings(console="off", x_disable_stats=True),
    )
    try:
        columns, rows = table
        shown = {path.stem: client.Image(str(path)) for path in pictures}
        session.log(
            {**numbers, "evaluation": client.Table(columns=list(columns), data=[list(row) for row in rows]), **shown}
        )
    finally:
        session.finish()


def wandb_mode() -> str | None:
    """Online where a key is configured and the server answers, else offline; None where WANDB_MODE is set and decides."""
    if "WANDB_MODE" in os.environ:
        return None
    server = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    host, port = server.hostname or "", server.port or (80 if server.scheme == "http" else 443)
    if not _has_key(host):
        return "offline"
    if _answers(host, port):
        return "online"
    print(
        f"{host} does not answer: the W&B run is kept offline, `wandb sync` sends it later", file=sys.stderr, flush=True
    )
    return "offline"


def _answers(host: str, port: int, seconds: float = 1.5) -> bool:
    """Whether a connection can be made. In a thread: looking up a name knows no time limit."""
    answers: list[bool] = []

    def knock() -> None:
        with suppress(OSError), socket.create_connection((host, port), timeout=seconds):
            answers.append(True)

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)


def _has_key(host: str) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
