"""Pictures for people: grids of images with captions, and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddpm_lab.pixels import to_uint8

CAPTION = 22  # height of a caption in pixels
GAP = 16  # between panels
FRAME = 3  # between images
LIGHT = 222  # grey of the frame


def grid(images: Tensor, columns: int, scale: int) -> Image.Image:
    """images [n, C, H, W] in [-1, 1], row by row; every pixel drawn as scale x scale, a light frame between images."""
    n, channels, height, width = images.shape
    rows, tall, wide = -(-n // columns), height * scale + FRAME, width * scale + FRAME
    sheet = np.full((rows * tall + FRAME, columns * wide + FRAME, 3), LIGHT, np.uint8)
    pixels = to_uint8(images.cpu()).expand(-1, 3 if channels == 1 else channels, -1, -1)[:, :3]
    for k, pixel in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        top, left = (k // columns) * tall + FRAME, (k % columns) * wide + FRAME
        sheet[top : top + height * scale, left : left + width * scale] = pixel.repeat(scale, 0).repeat(scale, 1)
    return Image.fromarray(sheet)


def panels(named: Sequence[tuple[str, Tensor]], path: Path, columns: int = 8) -> None:
    """Write grids of images [n, C, H, W] in [-1, 1] side by side, each under its caption, as a PNG."""
    scale = max(1, round(40 / named[0][1].shape[-1]))
    grids = [(caption, grid(images, min(columns, len(images)), scale)) for caption, images in named if len(images)]
    font = ImageFont.load_default(14)
    widths = [max(sheet.width, int(font.getlength(caption)) + 4) for caption, sheet in grids]
    height = max(sheet.height for _, sheet in grids)
    canvas = Image.new("RGB", (sum(widths) + GAP * (len(grids) + 1), height + CAPTION + 2 * GAP), "white")
    draw = ImageDraw.Draw(canvas)
    left = GAP
    for (caption, sheet), width in zip(grids, widths, strict=True):
        draw.text((left, GAP // 2), caption, fill="black", font=font)
        canvas.paste(sheet, (left, GAP // 2 + CAPTION))
        left += width + GAP
    canvas.save(path)


def bound_terms(
    timesteps: Sequence[int], vlb: Tensor, x_0_mse: Tensor, noise_mse: Tensor, caption: str, path: Path
) -> None:
    """Plot the terms of the bound and the errors against t, each the mean of [B, K] over images, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    figure.suptitle(caption)
    for axes, (title, values, unit) in zip(
        figure.subplots(1, 3),
        [
            ("terms of the bound", vlb, "bits per dimension"),
            ("error of $x_0$", x_0_mse, "mean squared error"),
            (r"error of $\epsilon$", noise_mse, "mean squared error"),
        ],
        strict=True,
    ):
        axes.loglog(timesteps, values.mean(0).clamp(min=1e-12).tolist(), linewidth=1.5)
        axes.set(title=title, xlabel="timestep t", ylabel=unit)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def to_nhwc(images: Tensor) -> np.ndarray:
    """Images [n, C, H, W] in [-1, 1] as uint8 [n, H, W, C], the public evaluators' layout."""
    return to_uint8(images.cpu()).permute(0, 2, 3, 1).contiguous().numpy()


def save_npz(path: Path, images: Tensor, labels: Tensor | None = None) -> None:
    """Write arr_0 (uint8 [n, H, W, C]) and, where there are labels, arr_1 (int64 [n]), all or nothing."""
    arrays = [to_nhwc(images)] if labels is None else [to_nhwc(images), labels.cpu().to(torch.int64).numpy()]
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez(file, *arrays)
    partial.replace(path)
