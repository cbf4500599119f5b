"""Sets whose images are decoded when they are asked for: what files, tar shards and databases have in common."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from ddpm_lab.data.decoding import Background, Shape, colour, decode, stack
from ddpm_lab.data.facts import Facts, look
from ddpm_lab.data.memory import Batch


class EncodedSet:
    """Images that `encoded` hands out as they are stored.

    Args:
        channels: 1 to 4.
        shape: cuts and scales a picture to the size of the set.
        background: behind transparent pixels: white, black or [red, green, blue].
        classes: names of the classes in the order of their numbers; none where there are no labels, None: not known.
        notes: sentences for the owner of the set about what was passed over.

    """

    def __init__(
        self,
        channels: int,
        shape: Shape,
        *,
        background: Background = "white",
        classes: Sequence[str] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.channels, self.shape, self.background = channels, shape, colour(background)
        self.classes = None if classes is None else tuple(classes)
        self.notes = tuple(notes)

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, i: int) -> str:
        """Return what image i is called in an error."""
        raise NotImplementedError

    def label(self, i: int) -> int:
        """Return the class of image i, 0 where there are none."""
        raise NotImplementedError

    def encoded(self, i: int) -> bytes:
        """Return image i as it is stored.

        Raises:
            ValueError: names the image that cannot be read.

        """
        raise NotImplementedError

    def size(self, i: int) -> int:
        """Return the bytes of image i as it is stored."""
        return len(self.encoded(i))

    def file(self, i: int) -> str | Path | IO[bytes]:
        """Return image i as Pillow opens it."""
        return io.BytesIO(self.encoded(i))

    def look(self, i: int) -> Facts:
        """Return what the header of image i tells.

        Raises:
            ValueError: names the image that cannot be read.

        """
        return look(self.file(i), self.name(i))

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return images uint8 [B, C, H, W] and labels int64 [B].

        Raises:
            ValueError: names the image that cannot be read.

        """
        pictures = [self.shape(decode(self.file(i), self.name(i), self.channels, self.background)) for i in indices]
        return stack(pictures, [self.label(i) for i in indices])
