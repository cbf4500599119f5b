"""From an image file to bytes of one size."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddpm_lab.data.memory import Batch
from ddpm_lab.errors import UserError

Picture = Image.Image
Shape = Callable[[Picture], Picture]
"""Cuts and scales a decoded picture to the size of the set."""

MODES = {1: "L", 3: "RGB"}


def decode(file: str | Path | IO[bytes], name: str, channels: int) -> Picture:
    """Read one image as grey (1 channel) or RGB (3); grey is spread to RGB and RGB is averaged to grey as asked.

    Args:
        file: path or open file.
        name: what to call it in an error.
        channels: 1 or 3.

    Raises:
        ValueError: if the file is missing, truncated, no image or has more than 8 bits, or channels is neither 1 nor 3.

    """
    if channels not in MODES:
        raise UserError(f"Images have 1 or 3 channels, and channels={channels} was asked for.")
    try:
        with Image.open(file) as picture:
            picture.load()
            if picture.mode.startswith(("I", "F")):
                raise UserError(f"it has mode {picture.mode}, more than 8 bits a channel, which would be cut off")
            return picture.convert(MODES[channels])
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, … whatever the damage
        raise UserError(f"Cannot read the image {name} ({error}): replace the file or remove it.") from error


def centre_crop(size: int) -> Shape:
    """Scale the shorter side to `size` pixels and cut out the central square (Dhariwal & Nichol 2021, data loader).

    Halves with a box filter while that leaves at least `size` pixels, then resizes bicubically: these are the pixels
    the published checkpoints and reference statistics have seen.
    """
    return partial(_centre_crop, size=size)


def _centre_crop(picture: Picture, size: int) -> Picture:
    while min(picture.size) >= 2 * size:
        width, height = picture.size
        picture = picture.resize((width // 2, height // 2), Image.Resampling.BOX)
    width, height = picture.size
    scale = size / min(width, height)
    picture = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))


def cut_box(box: Sequence[int], size: int) -> Shape:
    """Cut out a fixed box (left, top, right, bottom), in pixels, and scale it bilinearly to `size` by `size`."""
    left, top, right, bottom = box
    return partial(_cut_box, box=(left, top, right, bottom), size=size)


def _cut_box(picture: Picture, box: tuple[int, int, int, int], size: int) -> Picture:
    return picture.crop(box).resize((size, size), Image.Resampling.BILINEAR)


def stack(pictures: Sequence[Picture], labels: Sequence[int]) -> Batch:
    """Return pictures of one size as images uint8 [B, C, H, W], and labels int64 [B]."""
    images = np.stack([np.asarray(picture) for picture in pictures])  # [B, H, W] or [B, H, W, C]
    return channels_first(images), torch.tensor(labels, dtype=torch.int64)


def channels_first(images: np.ndarray) -> Tensor:
    """Turn uint8 [n, H, W] or [n, H, W, C] into a contiguous tensor [n, C, H, W]."""
    n, height, width = images.shape[:3]
    channels = math.prod(images.shape[3:])
    return torch.from_numpy(images.reshape(n, height, width, channels)).permute(0, 3, 1, 2).contiguous()
