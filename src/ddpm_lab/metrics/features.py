"""What a feature extractor is: images in, the numbers that all metrics are made of out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ddpm_lab.errors import NoSuchFileError
from ddpm_lab.pixels import to_rgb


class Features(NamedTuple):
    """What the metrics need of B images, float32.

    pool [B, D]: FID, KID, precision and recall. logits [B, K]: Inception Score. spatial [B, S]: sFID. None: has none.
    """

    pool: Tensor
    logits: Tensor | None
    spatial: Tensor | None


class Extractor(nn.Module):
    """Called with images uint8 [B, C, H, W] (C = 1 to 4, any size), returns Features; in evaluation mode, without gradients.

    name: of the network, for protocols. sha256: of its weights, hexadecimal. resize: how images come to its input's size.
    """

    name: str
    sha256: str
    resize: str

    def forward(self, images: Tensor) -> Features:
        """The features of each image alone: no image's depend on the others in the batch."""
        raise NotImplementedError


class Images(Protocol):
    """A data set's split: hands out images uint8 [B, C, H, W] and labels int64 [B] by their indices."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]: ...


class FeatureSource(Protocol):
    """What the config group `features` makes: finds or trains an extractor for a data set.

    train: the training split. num_classes: of its labels, None if it has none. cache: a folder for what is computed.
    Raises WeightsNotFoundError where the weights cannot be had.
    """

    def __call__(
        self, train: Images, *, name: str, num_classes: int | None, cache: Path, device: torch.device
    ) -> Extractor:
        """The extractor, on the device."""
        ...


class WeightsNotFoundError(NoSuchFileError):
    """The weights of an extractor are not here; the message says which file, its hash, and where to put it."""


def as_rgb(images: Tensor) -> Tensor:
    """Images uint8 [B, C, H, W] as [B, 3, H, W]: grey is spread, what is transparent lies over white.

    Raises TypeError or ValueError for others.
    """
    return to_rgb(images)


def over_background(images: Images) -> dict[str, list[int]]:
    """For protocols: what transparent pixels lie over, of sets whose files may have some."""
    background = getattr(images, "background", None)
    return {} if background is None else {"background": list(background)}


def fingerprint(images: Images, most: int = 256) -> str:
    """SHA-256 of what a set is: its length, its images' shape, and `most` images spread evenly over it with their labels.

    The images are hashed as they are delivered, so another resolution, crop or preprocessing is another set.
    """
    n = len(images)
    k = min(n, most)
    pixels, labels = images.__getitems__([i * n // k for i in range(k)])
    found = hashlib.sha256(repr((n, tuple(pixels.shape[1:]))).encode())
    found.update(pixels.contiguous().numpy().tobytes())
    found.update(labels.contiguous().numpy().tobytes())
    return found.hexdigest()
