"""Image sets: what a data set is to the rest of the project, one held in memory, and the flips."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ddpm_lab.errors import UserError, WrongTypeError
from ddpm_lab.parts import part

Batch = tuple[Tensor, Tensor]
"""images uint8 [B, C, H, W], labels int64 [B]"""


class ImageSet(Protocol):
    """Anything with a length that hands out a whole batch at a time.

    It may also have what an inspection tells its owner: classes, the names of the labels in the order of their numbers (empty
    where there are no labels), and notes, sentences about what was passed over; and of encoded images what `EncodedSet` has.
    """

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return images uint8 [B, C, H, W] and labels int64 [B]; the label is 0 where the set has none."""
        ...


class MemorySet:
    """A data set that fits in memory: one tensor, indexed a batch at a time.

    Args:
        images: uint8 [n, C, H, W].
        labels: int64 [n]; without labels every image is of class 0.
        classes: names of the classes in the order of their numbers; none where there are no labels, None: not known.
        notes: sentences for the owner of the set about what was passed over or decided.

    Raises:
        TypeError: if images are not uint8 or labels not int64.
        ValueError: if the shapes are others than these or the numbers of images and labels differ.

    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        classes: Sequence[str] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
        if images.dtype != torch.uint8 or labels.dtype != torch.int64:
            raise WrongTypeError(
                f"MemorySet takes uint8 images and int64 labels and got {images.dtype} and {labels.dtype}."
            )
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            raise UserError(
                f"MemorySet takes images [n, C, H, W] and labels [n] and got {list(images.shape)} and "
                f"{list(labels.shape)}: one label for each image."
            )
        self.images, self.labels = images, labels
        self.classes, self.notes = None if classes is None else tuple(classes), tuple(notes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return copies of the images uint8 [B, C, H, W] and their labels int64 [B]."""
        chosen = torch.tensor(indices, dtype=torch.int64)  # [B]
        # Not images[chosen]: index_select copies whole images at once, twenty times as fast.
        return self.images.index_select(0, chosen), self.labels[chosen]


class Part:
    """n images of a set, chosen by a seed from all of it; all where there are fewer.

    Args:
        original: the set.
        n: how many.
        seed: of the choice.

    Raises:
        ValueError: if n is not positive.

    """

    def __init__(self, original: ImageSet, n: int, seed: int = 0) -> None:
        if n < 1:
            raise UserError(f"data.first counts training images: it must be positive and is {n}.")
        self.original, self.chosen = original, part(len(original), n, seed)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return images uint8 [B, C, H, W] and labels int64 [B]."""
        return self.original.__getitems__([self.chosen[i] for i in indices])


class Mirrored:
    """A set and its mirror images: twice as many items, no random number.

    Item i < n is image i, item n + i is image i flipped left to right. A pass shows each of the 2n exactly once.

    Args:
        original: the set of n images.

    """

    def __init__(self, original: ImageSet) -> None:
        self.original = original

    def __len__(self) -> int:
        return 2 * len(self.original)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return images uint8 [B, C, H, W], flipped where the index is n or more, and labels int64 [B]."""
        n = len(self.original)
        images, labels = self.original.__getitems__([i % n for i in indices])
        both = torch.cat([images, images.flip(-1)])  # [2B, C, H, W]
        B = len(indices)
        return both.index_select(0, torch.tensor([b + B * (i >= n) for b, i in enumerate(indices)])), labels
