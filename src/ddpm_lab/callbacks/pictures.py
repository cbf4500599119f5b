"""Sends a picture to every logger that can hold one."""

from __future__ import annotations

from pathlib import Path

import lightning
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image


def log_picture(trainer: lightning.Trainer, name: str, path: Path) -> None:
    """Log the PNG at `path` under `name` at the present step. Call on rank zero."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)], step=trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            logger.experiment.add_image(name, pixels, trainer.global_step, dataformats="HWC")
