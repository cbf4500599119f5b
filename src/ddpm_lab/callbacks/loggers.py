"""The W&B logger, which never blocks: offline unless a key is configured."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.pytorch.loggers import WandbLogger

from ddpm_lab.dashboards import wandb_mode


def wandb(folder: str, project: str, name: str | None, group: str | None, id: str | None = None) -> WandbLogger:
    """Log to W&B under `folder`; id: of the run to continue. WANDB_MODE, where set, decides; else the presence of a key."""
    os.environ.setdefault("WANDB_SILENT", "true")
    return WandbLogger(
        name=name or Path(folder).name,
        save_dir=folder,
        project=project,
        group=group,
        id=id,
        resume="allow",
        mode=wandb_mode(),
        settings={"console": "off", "x_disable_stats": True},
    )
