"""What an evaluation shows on W&B: its numbers, their table with protocols, its pictures."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


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
) -> None:
    """Log an evaluation as a W&B run of its own, in the group of the run that it is of; offline unless a key is configured."""
    import wandb as client

    os.environ.setdefault("WANDB_SILENT", "true")
    session = client.init(
        dir=folder,
        project=project,
        group=group or run,
        job_type="evaluate",
        name=f"evaluation of {folder.name}",
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
    """Online where a key is configured, else offline; None where WANDB_MODE is set and decides."""
    return None if "WANDB_MODE" in os.environ else "online" if _has_key() else "offline"


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
