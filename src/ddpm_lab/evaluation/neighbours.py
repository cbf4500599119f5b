"""Nearest neighbours in the training set: does the model copy?"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ddpm_lab.metrics.features import Images
from ddpm_lab.parts import named, part
from ddpm_lab.pictures import FRAME, captioned, grid
from ddpm_lab.pixels import to_float

BLOCK = 4096  # training images at once, and fewer of large ones:
NUMBERS = 2**24  # of their pixel values at once, 128 MiB as float64
AMONG = 100_000  # training images that are searched: more would take hours to decode from files


def nearest(images: Tensor, train: Images, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Distances [n, k], ascending, and indices [n, k] of the k nearest training images of each of n images uint8 [n, C, H, W].

    Of a larger training set AMONG images are searched, which the seed chooses.
    The distance is the root mean square over pixels, in grey levels 0..255, and exact: float64 on the CPU holds the sums of
    bytes' products without rounding.
    """
    queries = images.cpu().flatten(1).double()
    squares = (queries**2).sum(1, keepdim=True)
    size = max(1, min(BLOCK, NUMBERS // queries.shape[1]))
    chosen = part(len(train), AMONG, seed)
    among = len(chosen)
    # Squared distance and index in one integer: equal distances come in the order of their indices, at any block size.
    best = torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, among, size):
        indices = list(range(start, min(start + size, among)))
        block = train.__getitems__([chosen[i] for i in indices])[0].flatten(1).double()
        distances = squares + (block**2).sum(1) - 2 * queries @ block.T
        keys = torch.cat([best, distances.long() * among + torch.tensor(indices)], 1)
        best = keys.topk(min(k, keys.shape[1]), largest=False).values
    return ((best // among).double() / queries.shape[1]).sqrt(), torch.tensor(chosen)[best % among]


def neighbours_picture(
    images: Tensor, train: Images, test: Images, path: Path, seed: int = 0, rows: int = 8, k: int = 6
) -> tuple[dict[str, float], dict[str, str]]:
    """Write generated images uint8 [n, C, H, W] beside their nearest training images, those nearest to one first, as a PNG.

    Return the median distance of the generated images to their nearest training image, and that of as many test images: a
    model that copies is much nearer than real new images are; and which test and training images these are.
    """
    distances, indices = nearest(images, train, k, seed)
    real = nearest(test.__getitems__(part(len(test), len(images), seed))[0], train, 1, seed)[0]
    medians = {"generated": distances[:, 0].median().item(), "test": real.median().item()}
    shown = distances[:, 0].argsort()[:rows]
    cells = [torch.cat([images[i : i + 1].cpu(), train.__getitems__(indices[i].tolist())[0]]) for i in shown.tolist()]
    columns, size = len(cells[0]), images.shape[-1]
    scale = max(1, round(72 / size))
    width = size * scale + FRAME
    names = [(FRAME, "generated"), (width + FRAME, f"its {columns - 1} nearest training images, the nearest first")]
    labels = [f"nearest: {distances[i, 0]:.1f}" for i in shown.tolist()]
    searched = f"of {AMONG:,} training images" if len(train) > AMONG else "training image"
    caption = (
        f"median distance to the nearest {searched}: generated {medians['generated']:.1f}, real test images "
        f"{medians['test']:.1f} (RMSE in grey levels)"
    )
    captioned(grid(to_float(torch.cat(cells)), columns, scale), caption, names, labels).save(path)
    return medians, {"train": named(len(train), AMONG, seed), "test": named(len(test), len(images), seed)}
