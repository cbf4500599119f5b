"""Folders of image files, decoded when they are asked for."""

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from ddpm_lab.data.decoding import Background, Shape, centre_crop
from ddpm_lab.data.encoded import EncodedSet
from ddpm_lab.data.listing import images_below
from ddpm_lab.data.splits import TEST, TRAIN, find_splits, hold_out, is_train
from ddpm_lab.errors import UserError


class FileSet(EncodedSet):
    """Image files, decoded when they are asked for.

    Args:
        paths: one file for each image.
        labels: one class for each image.
        channels: 1 to 4.
        shape: cuts and scales a picture to the size of the set.
        background: behind transparent pixels: white, black or [red, green, blue].
        classes: names of the classes in the order of their numbers; none where there are no labels, None: not known.
        notes: sentences for the owner of the set about what was passed over.

    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        labels: Sequence[int],
        channels: int,
        shape: Shape,
        *,
        background: Background = "white",
        classes: Sequence[str] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(channels, shape, background=background, classes=classes, notes=notes)
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
        raise UserError(
            f"{path} lies in no class folder: move it into one, or take data.classes=prefix where file names begin with "
            "their class."
        )
    return path.parts[0]


def name_prefix(path: PurePath) -> str:
    """Name the class after the file name up to the first underscore, as OpenAI's loaders do: cat_17.png is cat.

    Raises:
        ValueError: if there is no underscore.

    """
    name, underscore, _ = path.name.partition("_")
    if not underscore:
        raise UserError(
            f"{path} names no class before an underscore: rename it as in cat_17.png, or take data.classes=folders where "
            "each class has its folder."
        )
    return name


ClassOf = Callable[[PurePath], str]
CLASSES: dict[str, ClassOf] = {"folders": folder_name, "prefix": name_prefix}


def naming(classes: str | ClassOf | None) -> ClassOf | None:
    """Return the function that names the class of a path: one of CLASSES, or one's own, given as it is or by its dotted path.

    Raises:
        ValueError: if there is none of that name.

    """
    if classes is None or callable(classes):
        return classes
    if classes in CLASSES:
        return CLASSES[classes]
    module, _, name = str(classes).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name) if module else None
    except (ImportError, AttributeError) as error:
        raise UserError(f"data.classes={classes} cannot be imported ({error}): correct its path.") from error
    if not callable(found):
        raise UserError(
            f"data.classes={classes} is no way to name classes: take {' or '.join(CLASSES)}, or the dotted path of a function "
            "of your own from a path below the root to a name."
        )
    return found


def image_folder(
    root: str | Path,
    split: str,
    image_size: int,
    channels: int,
    class_of: str | ClassOf | None = None,
    background: Background = "white",
) -> FileSet:
    """Return the images below a folder, found recursively, in the order of their sorted relative paths.

    With folders ROOT/train and ROOT/test (or, failing that, val, valid or validation), these are the splits. Otherwise every
    tenth image (i % 10 == 9) of the sorted list is test. Classes are numbered in sorted order of the names found in train
    (or in the whole list).

    Args:
        root: the folder.
        split: "train" or "test".
        image_size: pixels of the square cut from the centre.
        channels: 1 to 4; images are converted.
        class_of: names the class from a path relative to the split's root: "folders", "prefix", or a function of one's own
            (or its dotted path); None gives all images class 0.
        background: behind transparent pixels: white, black or [red, green, blue].

    Returns:
        Images uint8 [n, channels, image_size, image_size], labels int64.

    Raises:
        FileNotFoundError: if there is no such folder or no image in it.
        ValueError: if the test split has a class that train has not, or the split, background or class_of is another.

    """
    train, name_of, parts = is_train(split), naming(class_of), find_splits(Path(root))
    listed, notes = images_below(parts.train)
    if parts.test is None:
        folder, chosen = parts.train, [listed[i] for i in hold_out(len(listed), split, every=10)]
    elif train:
        folder, chosen = parts.train, listed
    else:
        folder, (chosen, notes) = parts.test, images_below(parts.test)
    names: list[str] = []
    labels = [0] * len(chosen)
    if name_of is not None:
        names = sorted({name_of(PurePath(path)) for path in listed})
        number = {name: k for k, name in enumerate(names)}
        found = [name_of(PurePath(path)) for path in chosen]
        unknown = sorted(set(found) - set(number))
        if unknown:
            raise UserError(
                f"{folder} has classes that {parts.train} has not: {', '.join(unknown[:5])}. Give them training images, or "
                "take them out."
            )
        labels = [number[name] for name in found]
    inside = {part for path in listed for part in PurePath(path).parts[:-1] if part.lower() in TRAIN + TEST}
    if inside:
        notes += (f"folders in {parts.train} are not taken for splits: {', '.join(sorted(inside))}",)
    return FileSet(
        [os.path.join(folder, path) for path in chosen],
        labels,
        channels,
        centre_crop(image_size),
        background=background,
        classes=[str(name) for name in names],
        notes=parts.notes + notes,
    )
