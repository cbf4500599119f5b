"""Data sets that come as numpy archives: the downsampled ImageNet, and the form of the public evaluators."""

import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpm_lab.data.decoding import channels_first
from ddpm_lab.data.memory import MemorySet
from ddpm_lab.data.splits import hold_out, is_train
from ddpm_lab.errors import NoSuchFileError, UserError


def imagenet64(root: str | Path, split: str) -> MemorySet:
    """Return the downsampled ImageNet of 64x64 pixels (Chrabaszcz et al. 2017): 1,281,167 + 50,000 images.

    Read from ROOT/imagenet64: train_data_batch_1 … _10 and val_data, as pickles (no suffix) or .npz. The validation
    part is the test split. Train takes 16 GB of memory in every process that loads it.

    Args:
        root: data folder.
        split: "train" or "test".

    Returns:
        Images uint8 [n, 3, 64, 64], labels 0..999 (the files count from 1).

    Raises:
        FileNotFoundError: if a file is not there; says where to get it.
        ValueError: if a file is damaged or of another size, or the split is another.

    """
    folder = Path(root) / "imagenet64"
    names = [f"train_data_batch_{k}" for k in range(1, 11)] if is_train(split) else ["val_data"]
    paths = [next((p for p in (folder / name, folder / f"{name}.npz") if p.is_file()), None) for name in names]
    missing = [name for name, path in zip(names, paths, strict=True) if path is None]
    if missing:
        raise NoSuchFileError(
            f"ImageNet-64 is not here: {folder.resolve()} lacks {', '.join(missing)}. Get the downsampled ImageNet, "
            f"64x64, from https://image-net.org/download-images and unpack its parts into that folder."
        )
    pixels, labels = np.empty((0, 3 * 64 * 64), np.uint8), np.empty(0, np.int64)
    for path in (path for path in paths if path is not None):
        part = load_archive(path)
        data, classes = _entry(part, "data", path), np.asarray(_entry(part, "labels", path), np.int64)
        if data.dtype != np.uint8 or data.shape != (len(classes), 3 * 64 * 64):
            raise UserError(
                f"{path} must hold data uint8 [N, {3 * 64 * 64}] and N labels, and holds {data.dtype} {data.shape} and "
                f"{len(classes)} labels: get the 64x64 version."
            )
        # Grows in place: a list and one concatenation would need twice the 16 GB.
        pixels.resize((len(pixels) + len(data), 3 * 64 * 64), refcheck=False)
        pixels[-len(data) :] = data
        labels = np.concatenate([labels, classes - 1])
    return MemorySet(torch.from_numpy(pixels).view(-1, 3, 64, 64), torch.from_numpy(labels))


def npz(root: str | Path, split: str) -> MemorySet:
    """Return the images of ROOT/train.npz and ROOT/test.npz, archives as the public evaluators (OpenAI's) take them.

    arr_0 is uint8 [n, H, W, C] (or [n, H, W]), arr_1, where present, the labels [n]. Without a test.npz every tenth
    image (i % 10 == 9) of train.npz is test.

    Args:
        root: the folder of the archives.
        split: "train" or "test".

    Returns:
        Images uint8 [n, C, H, W], labels int64 (all 0 without arr_1).

    Raises:
        FileNotFoundError: if there is no train.npz.
        ValueError: if an archive is damaged or its arrays are others than these, or the split is another.

    """
    train, test = Path(root) / "train.npz", Path(root) / "test.npz"
    path = train if is_train(split) or not test.is_file() else test
    if not path.is_file():
        raise NoSuchFileError(f"No {path.resolve()}: put an archive with arr_0 uint8 [n, H, W, C] there.")
    archive = load_archive(path)
    images = _entry(archive, "arr_0", path)
    labels = np.asarray(archive["arr_1"], np.int64) if "arr_1" in archive else np.zeros(len(images), np.int64)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.shape != images.shape[:1]:
        raise UserError(
            f"{path} must hold arr_0 uint8 [n, H, W, C] and, if any, labels arr_1 [n], and holds {images.dtype} "
            f"{list(images.shape)} and {list(labels.shape)}."
        )
    if not test.is_file():
        chosen = hold_out(len(images), split, every=10)
        images, labels = images[chosen], labels[chosen]
    return MemorySet(channels_first(images), torch.from_numpy(labels))


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numpy arrays and plain values and refuses all else, for a pickle can run any code."""

    ALLOWED = frozenset(
        [("_codecs", "encode"), ("numpy", "ndarray"), ("numpy", "dtype")]
        + [(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")]
        + [(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")]
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        # The old name warns; both are the same module.
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def load_archive(path: Path) -> Mapping[str, Any]:
    """Read an .npz archive or a pickle of arrays; nothing else is unpickled.

    Raises:
        ValueError: if the file is damaged or holds objects.

    """
    try:
        with path.open("rb") as file:
            if path.suffix != ".npz":
                return _ArraysOnly(file, encoding="latin1").load()
            with np.load(file, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
    except (OSError, EOFError, ValueError, TypeError, zlib.error, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise UserError(f"Cannot read {path} ({error}): get the file again.") from error


def _entry(content: Mapping[str, Any], key: str, path: Path) -> Any:
    if key not in content:
        raise UserError(f"{path} has no entry {key!r}, only {', '.join(map(repr, content))}.")
    return content[key]
