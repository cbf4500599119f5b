"""Checkpoints as W&B artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning
from lightning.pytorch.loggers import WandbLogger

from ddpm_lab.errors import UserError


class Artifacts(lightning.Callback):
    """At the end of training, sends checkpoints to W&B: versions of the artifact model-<run id>, under the files' names.

    files: of <folder>/checkpoints, such as last.ckpt and best-fid.ckpt, whose aliases are then last and best-fid; none by
    default. One that the run did not write is left out. An offline run keeps them for `wandb sync`.

    Raises ValueError for what is no checkpoint's name.
    """

    def __init__(self, folder: str, files: Sequence[str]) -> None:
        for name in files:
            if not name.endswith(".ckpt") or "/" in name:
                raise UserError(f"callbacks.artifacts.files names files of checkpoints/ such as last.ckpt, got {name}")
        self.folder = Path(folder) / "checkpoints"
        self.files = files

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Send them."""
        for logger in trainer.loggers:
            if not (trainer.is_global_zero and isinstance(logger, WandbLogger)):
                continue
            for path in (self.folder / name for name in self.files):
                if path.is_file():
                    import wandb

                    artifact = wandb.Artifact(
                        f"model-{logger.version}", "model", metadata={"step": trainer.global_step}
                    )
                    artifact.add_file(str(path))
                    logger.experiment.log_artifact(artifact, aliases=[path.stem])
