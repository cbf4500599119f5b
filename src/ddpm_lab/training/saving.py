"""How a checkpoint reaches the disk."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


class DirectCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint straight to its place, and returns once the disk has it.

    Lightning's own makes a copy in memory and another in the system's temporary folder, which may be small. Who needs all or
    nothing writes beside the old file and renames. Raises OSError.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write it; the folder is made."""
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
