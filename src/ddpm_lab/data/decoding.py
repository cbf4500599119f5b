"""From an image file to bytes of one size."""

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from ddpm_lab.data.facts import ORIENTATION
from ddpm_lab.data.memory import Batch
from ddpm_lab.errors import UserError
from ddpm_lab.pixels import WITH_ALPHA

Picture = Image.Image
Shape = Callable[[Picture], Picture]
"""Cuts and scales a decoded picture to the size of the set."""

Colour = tuple[int, int, int]
Background = str | Sequence[int]
"""white, black or [red, green, blue]"""

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B")
"""Pillow's modes of grey pictures."""
SECOND = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}  # of PNG; of TIFF also
SECOND |= {"RGB;16L": "RGB;16B", "RGBA;16L": "RGBA;16B"}
SECOND |= {"RGB;16N": "RGB;16B", "RGBA;16N": "RGBA;16B"} if sys.byteorder == "little" else {}
"""The raw mode by which Pillow reads the second byte of each level, where it keeps the first of two by its own."""
COLOURS: dict[str, Colour] = {"white": (255, 255, 255), "black": (0, 0, 0)}


def colour(background: Background) -> Colour:
    """Return red, green and blue of a background: white, black, or three numbers 0..255.

    Raises:
        ValueError: if it is none of these.

    """
    if isinstance(background, str) and background in COLOURS:
        return COLOURS[background]
    levels: tuple[Any, ...] = (
        () if isinstance(background, str) or not isinstance(background, Sequence) else tuple(background)
    )
    if len(levels) != 3 or not all(type(level) is int and 0 <= level <= 255 for level in levels):
        raise UserError(
            f"The background of transparent pixels is white, black or [red,green,blue] of 0..255 and is {background}."
        )
    red, green, blue = levels
    return red, green, blue


def decode(file: str | Path | IO[bytes], name: str, channels: int, background: Background = "white") -> Picture:
    """Read one image as it is meant to be seen, as grey (1 channel), RGB (3), or either with its alpha (2 and 4).

    Grey is spread to RGB and RGB is averaged to grey as asked. Without alpha, transparent pixels are composited over the
    background. EXIF's orientation is applied. Sixteen bits become eight by round(v * 255 / 65535). Other colour spaces are
    converted as Pillow does, without their ICC profiles; of an animation it is the first picture.

    Args:
        file: path or open file.
        name: what to call it in an error.
        channels: 1 to 4.
        background: behind transparent pixels, as `colour` takes it.

    Raises:
        ValueError: if the file is missing, truncated, no image or has numbers of more bits, or channels or background are
            others than these.

    """
    if channels not in MODES:
        raise UserError(f"Images have 1 to 4 channels, and channels={channels} was asked for.")
    behind = colour(background)
    try:
        with _opened(file) as stream, Image.open(stream) as picture:
            eight = _eight_bits(picture, stream)
            ImageOps.exif_transpose(eight, in_place=True)
            return _of_channels(eight, channels, behind)
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, … whatever the damage
        raise UserError(f"Cannot read the image {name} ({error}): replace the file or remove it.") from error


def _opened(file: str | Path | IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    # Not by its path: Pillow 13 maps an uncompressed TIFF into memory then, and scrambles it where EXIF turns it.
    return Path(file).open("rb") if isinstance(file, (str, Path)) else nullcontext(file)


def _of_channels(picture: Picture, channels: int, behind: Colour) -> Picture:
    if picture.mode in ("La", "RGBa"):  # multiplied by their alpha; Pillow converts them to these alone
        picture = picture.convert(picture.mode.upper())
    if channels in WITH_ALPHA:
        return picture.convert("RGBA").convert(MODES[channels])
    if picture.has_transparency_data:
        clear = picture.convert("RGBA")  # of palettes too, and of a transparent colour
        picture = Image.composite(clear.convert("RGB"), Image.new("RGB", clear.size, behind), clear.getchannel("A"))
    if picture.mode not in GREY:
        picture = picture.convert("RGB")  # first: LAB does not become grey otherwise
    return picture.convert(MODES[channels])


def _eight_bits(picture: ImageFile.ImageFile, stream: IO[bytes]) -> Picture:
    """Load a picture; of 16 bits a channel all are rounded, of which Pillow cuts colours off."""
    stored = {tile[3] if isinstance(tile[3], str) else str((tile[3] or [""])[0]) for tile in picture.tile}
    picture.load()
    # Pillow's mode of a PGM of more than 8 bits is I, scaled to 0..65535; otherwise I has 32 bits.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM"):
        return _rounded(_clear(np.asarray(picture)[..., None], picture), picture)
    if any(";16" in mode for mode in stored):
        if not stored <= set(SECOND):
            raise UserError(f"its colours are {', '.join(stored)}, 16 bits a channel; convert it to RGB or to 8 bits")
        return _rounded(_clear(_sixteen_bits(picture, stream), picture), picture)
    if picture.mode in ("I", "F"):
        raise UserError(f"it has mode {picture.mode}, 32 bits a channel; scale it to 8 or 16")
    return picture


def _sixteen_bits(picture: Picture, stream: IO[bytes]) -> np.ndarray:
    """Levels 0..65535, [H, W, C]: of two bytes Pillow keeps the first, and the second where it is told another order."""
    first = np.asarray(picture).astype(np.uint16)
    stream.seek(0)
    with Image.open(stream) as again:
        raw = [tile[3] for tile in again.tile]
        two: list[Any] = [
            SECOND[mode] if isinstance(mode, str) else (SECOND[mode[0]], *mode[1:]) for mode in raw if mode
        ]
        again.tile = [tile._replace(args=args) for tile, args in zip(again.tile, two, strict=True)]
        second = np.asarray(again)
    if "LA;16B" in raw:  # four bytes, all of them read
        return second[..., ::2].astype(np.uint16) << 8 | second[..., 1::2]
    return first << 8 | second


def _clear(levels: np.ndarray, picture: Picture) -> np.ndarray:
    """Levels with an alpha for the colour that a PNG says is transparent."""
    colour = picture.info.get("transparency")
    if colour is None:
        return levels
    alpha = np.where((levels == colour).all(-1, keepdims=True), 0, 65535)
    return np.concatenate([levels, alpha], axis=-1)


def _rounded(levels: np.ndarray, source: Picture) -> Picture:
    """Scale 0..65535 to bytes, to the nearest: round(v * 255 / 65535); oriented as the picture that they are of."""
    eight = ((levels.astype(np.int64) + 128) // 257).astype(np.uint8)  # [H, W, C]
    rounded = Image.merge(MODES[eight.shape[2]], [Image.fromarray(channel) for channel in np.moveaxis(eight, 2, 0)])
    rounded.getexif()[ORIENTATION] = source.getexif().get(ORIENTATION, 1)
    return rounded


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
