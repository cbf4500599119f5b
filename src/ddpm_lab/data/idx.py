"""MNIST and Fashion-MNIST from their IDX files.

Not through torchvision: it reads only unpacked files and would want those beside Debian's packed ones, in /usr.
"""

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ddpm_lab.data.memory import MemorySet
from ddpm_lab.data.splits import is_train
from ddpm_lab.errors import NoSuchFileError, UserError

CLOTHING = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
DEBIAN = (Path("/usr/share/datasets/fashion-mnist"), Path("/usr/share/dataset/fashion-mnist"))


def mnist(root: str | Path, split: str) -> MemorySet:
    """Return MNIST (LeCun et al. 1998): 60,000 + 10,000 digits, 28x28, from ROOT/MNIST/raw, packed (.gz) or not.

    Args:
        root: data folder; the layout inside is torchvision's.
        split: "train" or "test".

    Returns:
        Images uint8 [n, 1, 28, 28], labels 0..9.

    Raises:
        FileNotFoundError: if the files are not there; says where to get them.
        ValueError: if a file is damaged or the split is another.

    """
    source = "from https://ossci-datasets.s3.amazonaws.com/mnist/"
    return _read([Path(root) / "MNIST" / "raw"], split, "MNIST", source, "0123456789")


def fashion_mnist(root: str | Path, split: str) -> MemorySet:
    """Return Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 pieces of clothing, 28x28, packed (.gz) or not.

    Read from ROOT/FashionMNIST/raw or, failing that, from where Debian's package dataset-fashion-mnist puts it.

    Args:
        root: data folder; the layout inside is torchvision's.
        split: "train" or "test".

    Returns:
        Images uint8 [n, 1, 28, 28], labels 0..9.

    Raises:
        FileNotFoundError: if the files are not there; says where to get them.
        ValueError: if a file is damaged or the split is another.

    """
    source = (
        "from https://github.com/zalandoresearch/fashion-mnist, or install the Debian package: "
        "apt-get install dataset-fashion-mnist"
    )
    return _read([Path(root) / "FashionMNIST" / "raw", *DEBIAN], split, "Fashion-MNIST", source, CLOTHING)


def _read(folders: list[Path], split: str, name: str, source: str, classes: Sequence[str]) -> MemorySet:
    stem = "train" if is_train(split) else "t10k"
    wanted = [f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte"]
    for folder in folders:
        found = [path for file in wanted for path in (folder / f"{file}.gz", folder / file) if path.is_file()]
        if {path.name.removesuffix(".gz") for path in found} == set(wanted):
            images, labels = (_idx(next(path for path in found if path.name.startswith(file))) for file in wanted)
            return MemorySet(torch.from_numpy(images)[:, None], torch.from_numpy(labels).to(torch.int64), classes)
    raise NoSuchFileError(
        f"{name} is not here: put {wanted[0]}.gz and {wanted[1]}.gz into {folders[0].resolve()}, {source}."
    )


def _idx(path: Path) -> np.ndarray:
    """Read an IDX file of bytes: 0, 0, type 8, number of dimensions, each dimension as big-endian uint32, the data."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, kind, dimensions = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{dimensions}I", content, 4)
        if (zero, kind) != (0, 8):
            raise UserError("it does not begin like an IDX file of bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise UserError(f"Cannot read {path} ({error}): get the file again.") from error
