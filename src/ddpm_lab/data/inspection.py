"""What is in a set: every image of it looked at, or enough of them for a word at the start of a run.

Any `ImageSet` can be inspected. What it has beside __len__ and __getitems__ (labels, and of encoded images look, name, size
and encoded) is told where it is there.
"""

import io
import random
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate
from typing import Any, NamedTuple, cast

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ddpm_lab.data.facts import Facts, see_through
from ddpm_lab.data.memory import Batch, ImageSet
from ddpm_lab.errors import UserError

BATCH = 64
LOOKED_AT = 500  # images at the start of a run
SECONDS = 0.5  # that looking at them may take, and as much again looking for copies
COMPARED = (
    20_000,
    2**28,
)  # files, and bytes of images in memory, up to which copies are looked for at the start of a run


class Record(NamedTuple):
    """Image i. pixels, mirrored: hashes of it and of its mirror image. facts: of its file. error: why it cannot be read."""

    i: int
    label: int | None = None
    pixels: int = 0
    mirrored: int = 0
    facts: Facts | None = None
    error: str | None = None


@dataclass
class Split:
    """What was found in one split.

    n: its images. looked: at so many. labels: images of each, None where they were not counted. small: images that are scaled
    up. unreadable: what was wrong, by name.
    """

    n: int
    looked: int = 0
    labels: Counter[int] | None = None
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    transparent: int = 0
    rotated: int = 0
    small: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    pixels: list[int] = field(default_factory=list)
    mirrored: list[int] = field(default_factory=list)

    def add(self, record: Record, image_size: int, name: str) -> None:
        """Count one image."""
        self.looked += 1
        if record.error is not None:
            self.unreadable[name] = record.error
            return
        if record.label is not None:
            self.labels = Counter() if self.labels is None else self.labels
            self.labels[record.label] += 1
        self.pixels.append(record.pixels)
        self.mirrored.append(record.mirrored)
        if record.facts is not None:
            width, height, mode, transparent, rotated = record.facts
            self.sizes[width, height] += 1
            self.modes[mode] += 1
            self.transparent += transparent
            self.rotated += rotated
            self.small += min(width, height) < image_size


class Copies(NamedTuple):
    """Of how many images there are equal ones: within a split, from test in train, and as mirror images of train's."""

    train: int
    test: int
    across: int
    mirrored: int


class _Examined:
    """A set as records of its images: decoded, hashed, and what cannot be read named instead of an end."""

    def __init__(self, images: ImageSet, check: Callable[[Batch], Batch], mirror: bool) -> None:
        self.images, self.check, self.mirror = images, check, mirror

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> list[Record]:
        try:
            pixels, labels = self.check(self.images.__getitems__(indices))
            facts = [_facts(self.images, i) for i in indices]
        except (UserError, OSError) as error:
            if len(indices) == 1:
                return [Record(indices[0], error=str(error))]
            return [record for i in indices for record in self.__getitems__([i])]
        found = zip(indices, labels.tolist(), pixels, facts, strict=True)
        return [Record(i, y, _hash(x), _hash(x.flip(-1)) if self.mirror else 0, f) for i, y, x, f in found]


def examine(
    images: ImageSet, check: Callable[[Batch], Batch], image_size: int, workers: int, mirror: bool
) -> Iterator[Split]:
    """Look at every image of a split, decoded as the network will see it; give what is found so far after each batch.

    Args:
        images: the split.
        check: passes a batch on, or raises ValueError if it is not what the configuration declares.
        image_size: images whose shorter side is less are scaled up.
        workers: decoding processes.
        mirror: whether mirror images are compared too.

    """
    found = Split(len(images))
    batches = [list(range(start, min(start + BATCH, found.n))) for start in range(0, found.n, BATCH)]
    examined = cast("Dataset[Any]", _Examined(images, check, mirror))
    for records in DataLoader(examined, batch_sampler=batches, num_workers=workers, collate_fn=_same):
        for record in records:
            found.add(record, image_size, _name(images, record.i))
        yield found


def copies(train: Split, test: Split, mirror: bool) -> Copies:
    """Compare the images that were examined.

    Args:
        train: of the training split.
        test: of the test split.
        mirror: whether training shows mirror images too.

    """
    ours, theirs, mirrored = (np.array(found, np.uint64) for found in (train.pixels, test.pixels, test.mirrored))
    plain = np.isin(theirs, ours)
    turned = np.isin(mirrored, ours) & ~plain if mirror else np.zeros(0, bool)
    in_train, in_test = (len(found) - len(np.unique(found)) for found in (ours, theirs))
    return Copies(in_train, in_test, int(plain.sum()), int(turned.sum()))


def glance(sets: Sequence[ImageSet], image_size: int) -> list[Split]:
    """Look at the headers of some images, a seeded choice spread over all splits, for SECONDS at most; count all labels.

    Args:
        sets: the splits.
        image_size: images whose shorter side is less are scaled up.

    """
    splits = [Split(len(images), labels=_labels(images)) for images in sets]
    ends = list(accumulate(len(images) if hasattr(images, "look") else 0 for images in sets))
    end = time.perf_counter() + SECONDS
    # Not `parts.part`, whose permutation of a hundred million would take ten seconds.
    for place in random.Random(0).sample(range(ends[-1]), min(LOOKED_AT, ends[-1])):
        s = bisect_right(ends, place)
        i = place - (ends[s - 1] if s else 0)
        try:
            record = Record(i, facts=cast("Any", sets[s]).look(i))
        except (UserError, OSError) as error:
            record = Record(i, error=str(error))
        splits[s].add(record, image_size, _name(sets[s], i))
        if time.perf_counter() > end:
            break
    for found, images in zip(splits, sets, strict=True):
        if not hasattr(images, "look"):
            found.looked = found.n
    return splits


def copies_across(train: ImageSet, test: ImageSet) -> int | None:
    """Count test images that are in the training set too, to the last byte: of their pixels in memory, of their files else.

    None where that would take long: sets larger than COMPARED, or more than SECONDS.
    """
    files, in_memory = COMPARED
    ours, theirs = (getattr(images, "images", None) for images in (train, test))
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        if ours.nbytes + theirs.nbytes > in_memory:
            return None
        known = {_digest(image.tobytes()) for image in ours.numpy()}
        return sum(_digest(image.tobytes()) in known for image in theirs.numpy())
    if not all(hasattr(images, "size") and hasattr(images, "encoded") for images in (train, test)):
        return None
    if len(train) + len(test) > files:
        return None
    return _equal_files(train, test)


def _equal_files(train: Any, test: Any) -> int | None:
    """Only files of equal size are read."""
    end = time.perf_counter() + SECONDS
    found = 0
    try:
        of_size: dict[int, list[int]] = {}
        for i in _until(end, range(len(train))):
            of_size.setdefault(train.size(i), []).append(i)
        hashes: dict[int, set[bytes]] = {}  # of the training files of a size
        for i in _until(end, range(len(test))):
            size = test.size(i)
            if size not in of_size:
                continue
            if size not in hashes:
                hashes[size] = {_digest(train.encoded(k)) for k in _until(end, of_size[size])}
            found += _digest(test.encoded(i)) in hashes[size]
    except (TimeoutError, UserError, OSError):
        return None
    return found


def _until(end: float, items: Iterable[int]) -> Iterator[int]:
    for item in items:
        if time.perf_counter() > end:
            raise TimeoutError
        yield item


def _labels(images: Any) -> Counter[int] | None:
    if getattr(images, "classes", None) == ():
        return None
    if hasattr(images, "labels") and len(images.labels) == len(images):
        values, counts = np.unique(np.asarray(images.labels), return_counts=True)
        return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return Counter(map(images.label, range(len(images)))) if hasattr(images, "label") else None


def _facts(images: Any, i: int) -> Facts | None:
    """Of the file; transparent only where a pixel is."""
    if not hasattr(images, "look"):
        return None
    facts = images.look(i)
    return facts._replace(transparent=facts.transparent and see_through(io.BytesIO(images.encoded(i))))


def _name(images: Any, i: int) -> str:
    return images.name(i) if hasattr(images, "name") else f"image {i}"


def _hash(image: Tensor) -> int:
    """64 bits: two of ten million different images share theirs once in 400,000 sets."""
    return int.from_bytes(_digest(image.contiguous().numpy().tobytes())[:8])


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def _same(records: list[Record]) -> list[Record]:
    return records
