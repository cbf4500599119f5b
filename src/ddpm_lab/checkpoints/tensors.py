"""Files of plain tensors: nothing else in them is read, and no code runs."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ddpm_lab.errors import UserError


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a pickle of nothing else, once every byte has met its checksum.

    Raises ValueError, naming the file, for a folder, a damaged file, or one that holds anything else.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the file in it.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):  # torch.load does not look at the checksums; files before torch 1.6 have none
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
            if broken is not None:
                raise zipfile.BadZipFile(f"{broken} has another checksum")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(
            f"{path} is not a file of plain tensors, and nothing else is unpickled ({type(error).__name__}): it is damaged, or "
            "holds more than a state dict."
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"{path} holds something other than a dict of tensors: give a state dict (model*.pt or ema*.pt)."
        )
    return state
