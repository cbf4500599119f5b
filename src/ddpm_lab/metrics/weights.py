"""Weights from files: hashed before they are read, and nothing but tensors is ever unpickled."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch
from torch import Tensor

from ddpm_lab.errors import UserError


def read_weights(path: Path, sha256: str | None = None) -> tuple[dict[str, Tensor], str]:
    """The state dict in a file, on the CPU, and the hexadecimal SHA-256 of the file's bytes.

    sha256: how the hash must begin; None takes any. It is checked before anything is read into tensors.
    Raises ValueError for another hash, a damaged file, or one that holds anything but a dict of tensors.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and not found.startswith(sha256.lower()):
        raise UserError(
            f"{path} has the SHA-256 {found[: max(8, len(sha256))]}… and {sha256}… was expected: it is damaged or another "
            "file; get it again, or set features.sha256=null to take it as it is"
        )
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage
        raise UserError(
            f"{path} cannot be read as a file of weights ({type(error).__name__}): it is damaged, or holds more than tensors, "
            "and nothing else is unpickled"
        ) from error
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict: a file of weights is a dict of tensors by their names")
    return state, found
