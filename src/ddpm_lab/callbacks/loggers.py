"""The W&B logger, which never blocks: offline unless a key is configured."""

from __future__ import annotations

import netrc
import os
from pathlib import Path

from lightning.pytorch.loggers import WandbLogger


def wandb(folder: str, project: str, name: str | None, group: str | None, id: str | None = None) -> WandbLogger:
    """Log to W&B under `folder`; id: of the run to continue. WANDB_MODE, where set, decides; else the presence of a key."""
    offline = os.environ.get("WANDB_MODE", "online" if _has_key() else "offline") != "online"
    os.environ.setdefault("WANDB_SILENT", "true")
    return WandbLogger(
        name=name or Path(folder).name,
        save_dir=folder,
        project=project,
        group=group,
        id=id,
        resume="allow",
        offline=offline,
        settings={"console": "off", "x_disable_stats": True},
    )


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
