"""Train and test: the two names every data set knows, and the hold-out of sets that come without a split."""

import os
from pathlib import Path
from typing import NamedTuple

from ddpm_lab.data.listing import SUFFIXES, counted, is_hidden
from ddpm_lab.errors import UserError

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")  # the first that is there


def is_train(split: str) -> bool:
    """Tell train from test.

    Raises:
        ValueError: for any other name.

    """
    if split not in ("train", "test"):
        raise UserError(f'The split is "train" or "test" and got {split!r}.')
    return split == "train"


def hold_out(n: int, split: str, every: int) -> list[int]:
    """Return the indices of one split: item i is test where i % every == every - 1, else train.

    Of fewer items than `every` the last one is test.

    Args:
        n: number of items.
        split: "train" or "test".
        every: one item in so many is held out.

    Returns:
        Indices in ascending order. The two splits are disjoint and together 0 .. n-1.

    Raises:
        ValueError: for a single item, or another split.

    """
    train, every = is_train(split), min(every, n)
    if n == 1:
        raise UserError(
            "One image cannot be both trained and tested on: add images, or give each split its own (folders ROOT/train and "
            "ROOT/test, archives train.npz and test.npz)."
        )
    return [i for i in range(n) if (i % every != every - 1) == train]


class Splits(NamedTuple):
    """The folders of a set's splits.

    train: or all images, where test is None. notes: sentences about what was passed over.
    """

    train: Path
    test: Path | None
    notes: tuple[str, ...] = ()


def find_splits(root: Path) -> Splits:
    """Return the folders of the splits below a root: train and test (or val, valid, validation), of any case.

    Where only one such folder and nothing else is there, it holds all images; a train beside other folders is one of them.
    """
    entries = sorted(entry.name for entry in os.scandir(root)) if root.is_dir() else []
    folders = [name for name in entries if (root / name).is_dir() and not is_hidden(name)]
    loose = [name for name in entries if os.path.splitext(name)[1].lower() in SUFFIXES and not is_hidden(name)]
    known = {name.lower(): name for name in folders if name.lower() in TRAIN + TEST}
    train, test = (next((known[name] for name in names if name in known), None) for names in (TRAIN, TEST))
    if train and test:
        others = [f"{name}/" for name in folders if name not in (train, test)] + loose
        notes = (f"what lies beside {train}/ and {test}/ is passed over: {counted(others)}",) if others else ()
        return Splits(root / train, root / test, notes)
    if len(folders) == len(known) == 1 and not loose:
        return Splits(
            root / folders[0], None, (f"only {folders[0]}/ is there: every tenth of its images is the test split",)
        )
    return Splits(root, None)
