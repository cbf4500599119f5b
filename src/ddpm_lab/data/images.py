"""Images to be judged: a folder of files or an .npz archive, read as they are, without crop, resize or change of colours."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ddpm_lab.data.arrays import images_of, load_archive
from ddpm_lab.data.decoding import GREY, Background, Picture, colour
from ddpm_lab.data.facts import look
from ddpm_lab.data.folder import FileSet
from ddpm_lab.data.listing import images_below
from ddpm_lab.data.memory import Batch, ImageSet, MemorySet
from ddpm_lab.errors import NoSuchFileError, UserError
from ddpm_lab.pixels import KINDS


class Form(NamedTuple):
    """What images that are judged together have in common."""

    width: int
    height: int
    channels: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width} {KINDS[self.channels]}"


class PlainFiles(FileSet):
    """Image files of one size, all grey or all RGB, decoded when they are asked for; all labels are 0.

    Args:
        paths: of the files.
        background: behind transparent pixels: white, black or [red, green, blue].
        alpha: whether the alpha of the images stays, as a channel, and of those without one is 255.
        notes: sentences about what was passed over.

    Raises:
        ValueError: if the first file cannot be read.

    """

    def __init__(
        self, paths: list[Path], background: Background = "white", alpha: bool = False, notes: tuple[str, ...] = ()
    ) -> None:
        self.alpha, self.coloured = alpha, len(set(colour(background))) > 1
        self.form = self._form(paths[0])
        super().__init__(
            paths, [0] * len(paths), self.form.channels, _as_it_is, background=background, classes=(), notes=notes
        )

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return images uint8 [B, C, H, W] and labels 0, int64 [B].

        Raises:
            ValueError: names the file that cannot be read, or is of another size or number of channels than the first.

        """
        for path in (self.paths[i] for i in indices):
            form = self._form(path)
            if form != self.form:
                raise UserError(
                    f"{path} is {form} and {self.paths[0]} is {self.form}: images that are judged together must be of one "
                    "size and all grey or all RGB."
                )
        return super().__getitems__(indices)

    def _form(self, path: str | Path) -> Form:
        facts = look(path, str(path))
        grey = facts.mode in GREY and not (facts.transparent and self.coloured and not self.alpha)
        return Form(facts.width, facts.height, (1 if grey else 3) + self.alpha)


def _as_it_is(picture: Picture) -> Picture:
    return picture


def transparent_of(images: ImageSet, indices: Sequence[int]) -> int:
    """How many of the images have an alpha or a transparent colour in their files."""
    return sum(images.look(i).transparent for i in indices) if isinstance(images, PlainFiles) else 0


def read_images(path: str | Path, background: Background = "white", alpha: bool = False) -> ImageSet:
    """Return the images below a folder, in the order of their sorted relative paths, those of an .npz archive, or one file's.

    An archive has the public evaluators' form: arr_0 uint8 [n, H, W, C] (or [n, H, W]); its channels stay as they are.

    Args:
        path: of the folder, archive or file.
        background: behind transparent pixels of files: white, black or [red, green, blue].
        alpha: whether files keep their alpha as a channel instead.

    Raises:
        FileNotFoundError: if there is nothing there, or no image in the folder.
        ValueError: if a file is damaged or the archive holds other arrays, or the background is none.

    """
    path = Path(path)
    if path.is_dir():
        found = images_below(path)
        return PlainFiles([path / name for name in found.paths], background, alpha, found.notes)
    if not path.is_file():
        raise NoSuchFileError(
            f"There is neither a folder of images, nor an image, nor an .npz archive at {path.resolve()}."
        )
    if path.suffix != ".npz":
        return PlainFiles([path], background, alpha)
    return MemorySet(images_of(load_archive(path), path), classes=())
