"""Which pixels of an image are known: by name, or from a file. Every mask is bool [H, W], True where known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm_lab.data.decoding import decode
from ddpm_lab.errors import NoSuchFileError, UserError


def half(H: int, W: int, generator: torch.Generator) -> Tensor:
    """The left half."""
    return (torch.arange(W) < W // 2).expand(H, W)


def centre(H: int, W: int, generator: torch.Generator) -> Tensor:
    """All but a square of half the side in the middle."""
    mask = torch.ones(H, W, dtype=torch.bool)
    mask[H // 4 : H - H // 4, W // 4 : W - W // 4] = False
    return mask


def random(H: int, W: int, generator: torch.Generator) -> Tensor:
    """Each pixel with probability one half."""
    return torch.rand(H, W, generator=generator) < 0.5


def every_second(H: int, W: int, generator: torch.Generator) -> Tensor:
    """Every second pixel of every second line: a quarter, as for doubling the resolution."""
    return (torch.arange(H)[:, None] % 2 == 0) & (torch.arange(W) % 2 == 0)


def lines(H: int, W: int, generator: torch.Generator) -> Tensor:
    """Every second line."""
    return (torch.arange(H)[:, None] % 2 == 0).expand(H, W)


NAMED: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "half": half,
    "centre": centre,
    "random": random,
    "every_second": every_second,
    "lines": lines,
}


def read_mask(mask: str, H: int, W: int, seed: int) -> Tensor:
    """The mask of that name, or of the picture at that path: bright pixels (128 and more of 255) are known, clear ones not.

    Raises ValueError for a picture of another size or without both kinds of pixels, FileNotFoundError if there is none.
    """
    if mask in NAMED:
        known = NAMED[mask](H, W, torch.Generator().manual_seed(seed))
    else:
        path = Path(mask)
        if not path.is_file():
            raise NoSuchFileError(f"task.mask={mask} is none of {', '.join(NAMED)}, nor a picture's file")
        try:
            pixels = np.asarray(decode(path, str(path), 1, "black"))
        except UserError as error:
            raise UserError(f"task.mask={mask} cannot be read as a picture: {error}") from None
        if pixels.shape != (H, W):
            raise UserError(
                f"task.mask={mask} has {pixels.shape[0]}x{pixels.shape[1]} pixels and the images {H}x{W}: they must be equal"
            )
        known = torch.from_numpy(pixels >= 128)
    if known.all() or not known.any():
        raise UserError(
            f"task.mask={mask} leaves {'nothing to paint' if known.all() else 'nothing known'}: bright pixels are known"
        )
    return known
