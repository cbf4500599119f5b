"""Data sets that come as numpy archives: the downsampled ImageNet, and the form of the public evaluators."""

import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm_lab.data.decoding import channels_first
from ddpm_lab.data.memory import MemorySet
from ddpm_lab.data.splits import hold_out, is_train
from ddpm_lab.errors import NoSuchFileError, UserError
from ddpm_lab.pixels import KINDS


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

    arr_0 is uint8 [n, H, W, C] (or [n, H, W]), arr_1, where present, the labels [n], whole numbers from 0. Without a
    test.npz every tenth image (i % 10 == 9) of train.npz is test.

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
    images, labels = images_of(archive, path), labels_of(archive, path)
    if not test.is_file():
        chosen = hold_out(len(images), split, every=10)
        images, labels = images[chosen], None if labels is None else labels[chosen]
    return MemorySet(images, labels, classes=() if labels is None else None)


def images_of(archive: Mapping[str, Any], path: Path) -> Tensor:
    """Return the images of an archive, uint8 [n, C, H, W], from its arr_0, uint8 [n, H, W, C] or [n, H, W].

    Raises:
        ValueError: if there is none or it is another array; says what to do about it.

    """
    if "arr_0" not in archive:
        raise UserError(
            f"{path} holds {', '.join(archive) or 'nothing'} and no arr_0: save it by np.savez(path, images, labels), images "
            "uint8 [n, H, W, C]."
        )
    images = np.asarray(archive["arr_0"])
    held, wanted = f"{path} holds arr_0 {images.dtype} {list(images.shape)}", "uint8 [n, H, W, C] with C = 1 to 4"
    if images.ndim == 4 and images.shape[3] not in KINDS and images.shape[1] in KINDS:
        raise UserError(f"{held}, channels first: images must be {wanted}; save images.transpose(0, 2, 3, 1).")
    if images.ndim == 3 and images.shape[2] == 3:
        raise UserError(f"{held}, one image: images must be {wanted}; save image[None].")
    if images.ndim not in (3, 4) or images.shape[3:] not in ((), *((count,) for count in KINDS)) or 0 in images.shape:
        raise UserError(f"{held}: images must be bytes 0..255, {wanted}, or grey ones [n, H, W].")
    if images.dtype != np.uint8:
        raise UserError(
            f"{held}: images must be bytes 0..255, {wanted}; scale to 0..255, round and save them as uint8."
        )
    return channels_first(images)


def labels_of(archive: Mapping[str, Any], path: Path) -> Tensor | None:
    """Return the labels of an archive's images, int64 [n], from its arr_1; None where it has none.

    Raises:
        ValueError: if they are not one whole number, 0 or more, for each image.

    """
    if "arr_1" not in archive:
        return None
    labels, n = np.asarray(archive["arr_1"]), len(archive["arr_0"])
    held = f"{path} holds labels arr_1 {labels.dtype} {list(labels.shape)}"
    if labels.shape not in ((n,), (n, 1)):
        raise UserError(f"{held} for {n} images: give one number for each, [{n}].")
    if labels.dtype.kind not in "biuf":
        raise UserError(f"{held}: number the classes from 0, as np.unique(labels, return_inverse=True)[1] does.")
    numbers = labels.reshape(n).astype(np.float64)  # exact below 2^53
    wrong = numbers[~((numbers >= 0) & (numbers < 2**31) & (numbers == np.floor(numbers)))]  # nan too
    if len(wrong):
        raise UserError(f"{held}, {wrong[0]:g} among them: number the classes by whole numbers from 0.")
    return torch.from_numpy(numbers.astype(np.int64))


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
    except ValueError as error:
        objects = "Object arrays" in str(error)
        advice = "save arrays of numbers, images of one size as uint8 [n, H, W, C]" if objects else "get the file again"
        raise UserError(f"Cannot read {path} ({error}): {advice}.") from error
    except (OSError, EOFError, TypeError, zlib.error, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise UserError(f"Cannot read {path} ({error}): get the file again.") from error


def _entry(content: Mapping[str, Any], key: str, path: Path) -> Any:
    if key not in content:
        raise UserError(f"{path} has no entry {key!r}, only {', '.join(map(repr, content))}.")
    return content[key]
