"""Folders of image files, decoded when they are asked for."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from ddpm_lab.data.decoding import Shape, centre_crop
from ddpm_lab.data.encoded import EncodedSet
from ddpm_lab.data.splits import hold_out, is_train
from ddpm_lab.errors import NoSuchFileError, UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}


class FileSet(EncodedSet):
    """Image files, decoded when they are asked for.

    Args:
        paths: one file for each image.
        labels: one class for each image.
        channels: 1 or 3.
        shape: cuts and scales a picture to the size of the set.
        classes: names of the classes in the order of their numbers; none where there are no labels, None: not known.
        notes: sentences for the owner of the set about what was passed over.

    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        labels: Sequence[int],
        channels: int,
        shape: Shape,
        classes: Sequence[str] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(channels, shape, classes, notes)
        self.paths, self.labels = list(paths), list(labels)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, i: int) -> str:
        """Return the path of image i."""
        return str(self.paths[i])

    def label(self, i: int) -> int:
        """Return the class of image i."""
        return self.labels[i]

    def size(self, i: int) -> int:
        """Return the bytes of the file."""
        return os.stat(self.paths[i]).st_size

    def file(self, i: int) -> str | Path:
        """Return the path of image i: only its header is read for `look`."""
        return self.paths[i]

    def encoded(self, i: int) -> bytes:
        """Return the bytes of the file.

        Raises:
            ValueError: names the file that cannot be read.

        """
        return read(self.paths[i])


def read(path: str | Path) -> bytes:
    """Return the bytes of a file of an image.

    Raises:
        ValueError: names the file that cannot be read.

    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read the image {path} ({error}): replace the file or remove it.") from error


def folder_name(path: PurePath) -> str:
    """Name the class after the first folder below the root: cat/a/1.png is of class cat.

    Raises:
        ValueError: if the file lies in the root itself.

    """
    if len(path.parts) < 2:
        raise UserError(f"{path} lies in no class folder: move it into one, or use another class_of.")
    return path.parts[0]


def name_prefix(path: PurePath) -> str:
    """Name the class after the file name up to the first underscore, as OpenAI's loaders do: cat_17.png is cat."""
    return path.name.split("_")[0]


def image_folder(
    root: str | Path,
    split: str,
    image_size: int,
    channels: int,
    class_of: Callable[[PurePath], str] | None = None,
) -> FileSet:
    """Return the images below a folder, found recursively, in the order of their sorted relative paths.

    With folders ROOT/train and ROOT/test, these are the splits. Otherwise every tenth image (i % 10 == 9) of the sorted
    list is test. Classes are numbered in sorted order of the names found in train (or in the whole list).

    Args:
        root: the folder.
        split: "train" or "test".
        image_size: pixels of the square cut from the centre.
        channels: 1 or 3; images are converted.
        class_of: names the class from a path relative to the split's root; None gives all images class 0.

    Returns:
        Images uint8 [n, channels, image_size, image_size], labels int64.

    Raises:
        FileNotFoundError: if there is no such folder or no image in it.
        ValueError: if the test split has a class that train has not, or the split is another.

    """
    train, root = is_train(split), Path(root)
    if (root / "train").is_dir() and (root / "test").is_dir():
        folder, listed = root / split, images_below(root / "train")
        chosen = listed if train else images_below(folder)
    else:
        folder, listed = root, images_below(root)
        chosen = [listed[i] for i in hold_out(len(listed), split, every=10)]
    if class_of is None:
        labels = [0] * len(chosen)
    else:
        number = {name: k for k, name in enumerate(sorted({class_of(PurePath(path)) for path in listed}))}
        names = [class_of(PurePath(path)) for path in chosen]
        unknown = sorted(set(names) - set(number))
        if unknown:
            raise UserError(f"{folder} has classes that {root / 'train'} has not: {', '.join(unknown[:5])}.")
        labels = [number[name] for name in names]
    return FileSet([os.path.join(folder, path) for path in chosen], labels, channels, centre_crop(image_size))


def images_below(folder: Path) -> list[str]:
    """Return the sorted relative paths of all images below a folder; names beginning with a dot are not images."""
    found = [
        os.path.relpath(os.path.join(where, file), folder)
        for where, _, files in os.walk(folder, followlinks=True)
        for file in files
        if os.path.splitext(file)[1].lower() in SUFFIXES and not file.startswith(".")
    ]
    if not found:
        raise NoSuchFileError(
            f"No image below {folder.resolve()}: put {', '.join(sorted(SUFFIXES))} files there, or name another folder "
            "(data.dataset.root=… for a data set)."
        )
    return sorted(found)
