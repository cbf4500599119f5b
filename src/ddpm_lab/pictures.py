"""Pictures for people: grids of images with captions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddpm_lab.pixels import to_rgb, to_uint8

CAPTION = 22  # height of a caption in pixels
GAP = 16  # between panels
FRAME = 3  # between images
LIGHT = 222  # grey of the frame
CHECKER = 4, 255, 214  # what is seen through transparent pixels: side of its squares in pixels of the images, and greys


def grid(images: Tensor, columns: int, scale: int) -> Image.Image:
    """images [n, C, H, W] in [-1, 1], row by row; every pixel drawn as scale x scale, a light frame between images.

    C is 1 to 4: those with an alpha (2, 4) are drawn over a light checker.
    """
    n, _, height, width = images.shape
    rows, tall, wide = -(-n // columns), height * scale + FRAME, width * scale + FRAME
    sheet = np.full((rows * tall + FRAME, columns * wide + FRAME, 3), LIGHT, np.uint8)
    side, light, dark = CHECKER
    odd = (torch.arange(height)[:, None] // side + torch.arange(width) // side) % 2  # [H, W]
    pixels = to_rgb(to_uint8(images.cpu()), light + odd * (dark - light))  # [n, 3, H, W]
    for k, pixel in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        top, left = (k // columns) * tall + FRAME, (k % columns) * wide + FRAME
        sheet[top : top + height * scale, left : left + width * scale] = pixel.repeat(scale, 0).repeat(scale, 1)
    return Image.fromarray(sheet)


def captioned(
    sheet: Image.Image, caption: str, columns: Sequence[tuple[int, str]], rows: Sequence[str] = ()
) -> Image.Image:
    """A grid under a caption and the names of its columns, each at its left end in pixels, and with names of rows beside it."""
    large, small = ImageFont.load_default(14), ImageFont.load_default(12)
    right = max([int(small.getlength(name)) + GAP for name in rows], default=0)
    needed = max([int(large.getlength(caption)), *(left + int(small.getlength(name)) for left, name in columns)])
    width = max(sheet.width + right, needed) + 2 * GAP
    canvas = Image.new("RGB", (width, sheet.height + 2 * CAPTION + 2 * GAP), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, GAP // 2), caption, fill="black", font=large)
    top = GAP // 2 + 2 * CAPTION
    for left, name in columns:
        draw.text((GAP + left, top - CAPTION + 4), name, fill="black", font=small)
    canvas.paste(sheet, (GAP, top))
    height = sheet.height / max(len(rows), 1)
    for k, name in enumerate(rows):
        draw.text((GAP + sheet.width + GAP // 2, top + int((k + 0.5) * height) - 8), name, fill="black", font=small)
    return canvas


def panels(
    named: Sequence[tuple[str, Tensor]], path: Path, columns: int | None = None, names: Sequence[str] = ()
) -> None:
    """Write grids of images [n, C, H, W] in [-1, 1] side by side, each under its caption, as a PNG.

    columns: of each grid; None takes 8, and as many as rows where there are more than 64 images. names: of the columns, cut
    to their width.
    """
    scale = max(1, math.ceil(40 / named[0][1].shape[-1]))
    columns = columns or max(8, *(math.ceil(len(images) ** 0.5) for _, images in named))
    grids = [(caption, grid(images, min(columns, len(images)), scale)) for caption, images in named if len(images)]
    font = ImageFont.load_default(14)
    widths = [max(sheet.width, int(font.getlength(caption)) + 4) for caption, sheet in grids]
    above = CAPTION * (2 if names else 1)
    height = max(sheet.height for _, sheet in grids)
    canvas = Image.new("RGB", (sum(widths) + GAP * (len(grids) + 1), height + above + 2 * GAP), "white")
    draw = ImageDraw.Draw(canvas)
    left = GAP
    for (caption, sheet), width in zip(grids, widths, strict=True):
        draw.text((left, GAP // 2), caption, fill="black", font=font)
        canvas.paste(sheet, (left, GAP // 2 + above))
        pitch = named[0][1].shape[-1] * scale + FRAME
        for k, name in enumerate(names[: sheet.width // pitch]):
            text = _cut(name, pitch - FRAME)
            draw.text(
                (left + k * pitch + FRAME, GAP // 2 + CAPTION + 4), text, fill="black", font=ImageFont.load_default(12)
            )
        left += width + GAP
    canvas.save(path)


def _cut(text: str, width: int) -> str:
    """As much of a text as fits into a width in pixels."""
    font, kept = ImageFont.load_default(12), text
    while kept and font.getlength(kept if kept == text else f"{kept}…") > width:
        kept = kept[:-1]
    return kept if kept == text else f"{kept}…"


def to_nhwc(images: Tensor) -> np.ndarray:
    """Images [n, C, H, W] in [-1, 1] as uint8 [n, H, W, C], the public evaluators' layout."""
    return to_uint8(images.cpu()).permute(0, 2, 3, 1).contiguous().numpy()


def save_npz(path: Path, images: Tensor, labels: Tensor | None = None, **more: Tensor) -> None:
    """Write arr_0 (uint8 [n, H, W, C]) and, where there are labels, arr_1 (int64 [n]), all or nothing.

    more: arrays under their own names; images [n, C, H, W] among them like arr_0, others as they are.
    """
    arrays = [to_nhwc(images)] if labels is None else [to_nhwc(images), labels.cpu().to(torch.int64).numpy()]
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        named: dict[str, Any] = {name: to_nhwc(x) if x.dim() == 4 else x.numpy() for name, x in more.items()}
        np.savez(file, *arrays, **named)
    partial.replace(path)
