"""Sets too large for memory or for one file an image: tar files, as webdataset and img2dataset write them.

Read by position and not as a stream, so that the training order is that of every other set and a resumed run goes on in the
middle of a pass. The shards lie on a disk of this machine or one that is mounted.
"""

import hashlib
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_lab.data.decoding import Shape, centre_crop
from ddpm_lab.data.encoded import EncodedSet
from ddpm_lab.data.listing import SUFFIXES
from ddpm_lab.data.splits import is_train
from ddpm_lab.errors import NoSuchFileError, UserError


class Index(NamedTuple):
    """Where n images lie."""

    shard: NDArray[np.int64]  # [n] number of the tar file
    offset: NDArray[np.int64]  # [n] first byte in it
    size: NDArray[np.int64]  # [n] bytes
    label: NDArray[np.int64]  # [n]


class TarSet(EncodedSet):
    """Encoded images in tar files, in the order of the files' names and of the images in them.

    Args:
        paths: the tar files.
        index: where the images lie in them.
        channels: 1 or 3.
        shape: cuts and scales a picture to the size of the set.

    """

    def __init__(self, paths: Sequence[Path], index: Index, channels: int, shape: Shape) -> None:
        super().__init__(channels, shape)
        self.paths, self.index = list(paths), index

    def __len__(self) -> int:
        return len(self.index.shard)

    def name(self, i: int) -> str:
        """Return the shard and place of image i."""
        return f"at byte {self.index.offset[i]} of {self.paths[self.index.shard[i]]}"

    def label(self, i: int) -> int:
        """Return the class of image i."""
        return int(self.index.label[i])

    def size(self, i: int) -> int:
        """Return the bytes of the member."""
        return int(self.index.size[i])

    def encoded(self, i: int) -> bytes:
        """Return the member of the tar file.

        Raises:
            ValueError: names the shard that cannot be read.

        """
        try:
            with self.paths[self.index.shard[i]].open("rb") as file:
                file.seek(int(self.index.offset[i]))
                return file.read(int(self.index.size[i]))
        except OSError as error:
            raise UserError(f"Cannot read the image {self.name(i)} ({error}): is the disk still there?") from error


def webdataset(
    root: str | Path, split: str, train: str, test: str, image_size: int, channels: int, cache: str | Path
) -> TarSet:
    """Return the images of tar files in webdataset's format: members of one name up to the first dot are one sample.

    Its image is the member whose name ends as images do (.jpg, .png, …); its class is the number in the member .cls, 0 where
    there is none. What else a sample has is left alone.

    Args:
        root: the folder of the shards.
        split: "train" or "test".
        train: pattern of the training shards' paths below the root, such as train-*.tar.
        test: that of the test shards.
        image_size: pixels of the square cut from the centre.
        channels: 1 or 3; images are converted.
        cache: where the index of the shards is kept: reading all headers of a large set takes minutes.

    Returns:
        Images uint8 [n, channels, image_size, image_size], labels int64.

    Raises:
        FileNotFoundError: if no shard is found.
        ValueError: if a shard cannot be read as a tar file or a class is no number, or the split is another.

    """
    pattern = train if is_train(split) else test
    paths = sorted(Path(root).glob(pattern))
    if not paths:
        raise NoSuchFileError(
            f"No shard {pattern} in {Path(root).resolve()}: name the folder with data.dataset.root=… and the shards with "
            "data.dataset.train='…-*.tar' and data.dataset.test='…-*.tar'."
        )
    return TarSet(paths, _index(paths, Path(cache)), channels, centre_crop(image_size))


def _index(paths: Sequence[Path], cache: Path) -> Index:
    """Read the shards' headers, or the index of the same shards that is kept."""
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    kept = cache / f"shards-{hashlib.sha256(repr(states).encode()).hexdigest()[:16]}.npy"
    if kept.is_file():
        return Index(*np.load(kept))
    rows = [(number, *place) for number, path in enumerate(paths) for place in _places(path)]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    cache.mkdir(parents=True, exist_ok=True)
    partial = kept.with_name(f"{kept.name}.{os.getpid()}.partial")  # every rank may write it
    with partial.open("wb") as file:
        np.save(file, columns)
    partial.replace(kept)
    return Index(*columns)


def _places(path: Path) -> list[tuple[int, int, int]]:
    """(offset, size, label) of each image in one shard."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                folder, name = os.path.split(member.name)
                stem, _, ending = name.partition(".")
                key = os.path.join(folder, stem)
                if not member.isfile():
                    continue
                if os.path.splitext(name)[1].lower() in SUFFIXES:
                    images[key] = (member.offset_data, member.size)
                elif ending == "cls":
                    text = shard.extractfile(member).read()  # type: ignore[union-attr]
                    labels[key] = int(text)
            end = max((offset + size for offset, size in images.values()), default=0)
    except ValueError as error:
        raise UserError(
            f"{path} has a class that is no number ({error}): write labels as 0, 1, … into .cls."
        ) from error
    except tarfile.TarError as error:
        raise UserError(f"{path} cannot be read as an uncompressed tar file ({error}): write it anew.") from error
    if end > path.stat().st_size:
        raise UserError(f"{path} is cut off: it ends before its last image does; copy it again.")
    return [(*place, labels.get(key, 0)) for key, place in images.items()]
