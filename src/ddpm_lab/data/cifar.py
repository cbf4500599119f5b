"""CIFAR-10 and CIFAR-100, read and checked by torchvision."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ddpm_lab.data.decoding import channels_first
from ddpm_lab.data.memory import MemorySet
from ddpm_lab.data.splits import is_train
from ddpm_lab.errors import NoSuchFileError, UserError

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10


def cifar10(root: str | Path, split: str) -> MemorySet:
    """Return CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 images, from ROOT/cifar-10-batches-py.

    Args:
        root: data folder.
        split: "train" or "test".

    Returns:
        Images uint8 [n, 3, 32, 32], labels 0..9.

    Raises:
        FileNotFoundError: if files are missing; says where to get them.
        ValueError: if a file is not the published one (MD5) or the split is another.

    """
    from torchvision.datasets import CIFAR10

    return _read(CIFAR10, root, split)


def cifar100(root: str | Path, split: str) -> MemorySet:
    """Return CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 images with their fine labels, from ROOT/cifar-100-python.

    Args:
        root: data folder.
        split: "train" or "test".

    Returns:
        Images uint8 [n, 3, 32, 32], labels 0..99.

    Raises:
        FileNotFoundError: if files are missing; says where to get them.
        ValueError: if a file is not the published one (MD5) or the split is another.

    """
    from torchvision.datasets import CIFAR100

    return _read(CIFAR100, root, split)


def _read(kind: "type[CIFAR10]", root: str | Path, split: str) -> MemorySet:
    train = is_train(split)
    folder = Path(root) / kind.base_folder
    names = [name for name, _ in kind.train_list + kind.test_list] + [kind.meta["filename"]]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise NoSuchFileError(
            f"{kind.__name__} is not here: {folder.resolve()} lacks {', '.join(missing)}. Get {kind.url} and unpack it "
            f"in {Path(root).resolve()}."
        )
    try:
        # torchvision unpickles, which runs code from the file: its MD5 check is what makes that safe, so it stays.
        source = kind(root, train=train, download=False)
    except RuntimeError as error:
        raise UserError(
            f"A file in {folder.resolve()} is damaged, its MD5 is not the published one: unpack {kind.url} again."
        ) from error
    return MemorySet(channels_first(source.data), torch.tensor(source.targets), source.classes)
