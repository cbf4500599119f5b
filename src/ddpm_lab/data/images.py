"""Images to be judged: a folder of files or an .npz archive, read as they are, without crop, resize or change of colours."""

from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_lab.data.arrays import load_archive
from ddpm_lab.data.decoding import Picture, channels_first
from ddpm_lab.data.folder import FileSet, images_below
from ddpm_lab.data.memory import Batch, ImageSet, MemorySet
from ddpm_lab.errors import NoSuchFileError, UserError


class PlainFiles(FileSet):
    """Image files of one size, all grey or all RGB, decoded when they are asked for; all labels are 0.

    Raises:
        ValueError: if the first file cannot be read.

    """

    def __init__(self, paths: list[Path]) -> None:
        self.form = _form(paths[0])
        super().__init__(paths, [0] * len(paths), self.form[2], _as_it_is, classes=())

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return images uint8 [B, C, H, W] and labels 0, int64 [B].

        Raises:
            ValueError: names the file that cannot be read, or is of another size or number of channels than the first.

        """
        for path in (self.paths[i] for i in indices):
            form = _form(path)
            if form != self.form:
                raise UserError(
                    f"{path} is {_words(*form)} and {self.paths[0]} is {_words(*self.form)}: images that are judged together "
                    "must be of one size and all grey or all RGB."
                )
        return super().__getitems__(indices)


def _as_it_is(picture: Picture) -> Picture:
    return picture


def read_images(path: str | Path) -> ImageSet:
    """Return the images below a folder, in the order of their sorted relative paths, those of an .npz archive, or one file's.

    An archive has the public evaluators' form: arr_0 uint8 [n, H, W, C] (or [n, H, W]).

    Raises:
        FileNotFoundError: if there is nothing there, or no image in the folder.
        ValueError: if a file is damaged or the archive holds other arrays.

    """
    path = Path(path)
    if path.is_dir():
        return PlainFiles([path / name for name in images_below(path)])
    if not path.is_file():
        raise NoSuchFileError(
            f"There is neither a folder of images, nor an image, nor an .npz archive at {path.resolve()}."
        )
    if path.suffix != ".npz":
        return PlainFiles([path])
    arrays = load_archive(path)
    if "arr_0" not in arrays:
        raise UserError(
            f"{path} holds {', '.join(arrays) or 'nothing'} and no arr_0: images are arr_0, uint8 [n, H, W, C]."
        )
    images = arrays["arr_0"]
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or images.shape[3:] not in ((), (1,), (3,))
        or not len(images)
    ):
        raise UserError(
            f"{path} holds arr_0 {images.dtype} {list(images.shape)}: images must be bytes 0..255, uint8 [n, H, W, C] with "
            "C = 1 or 3; scale and round floats before they are saved."
        )
    return MemorySet(channels_first(images))


def _form(path: str | Path) -> tuple[int, int, int]:
    """Width, height and channels as the file's header tells."""
    try:
        with Image.open(path) as picture:
            return picture.width, picture.height, 1 if picture.mode in ("1", "L", "LA") else 3
    except Exception as error:  # Pillow raises whatever the damage
        raise UserError(f"Cannot read the image {path} ({error}): replace the file or remove it.") from error


def _words(width: int, height: int, channels: int) -> str:
    return f"{height}x{width} {'grey' if channels == 1 else 'RGB'}"
