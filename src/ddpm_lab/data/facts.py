"""What a set can say about itself beside its pixels: facts of its files, for an inspection of it.

A set of encoded images has, beside what `ImageSet` asks for, look(i) -> Facts, name(i) -> str and encoded(i) -> bytes; any set
may have classes, the names of its labels, and notes, sentences about what was passed over. None of them is needed.
"""

from pathlib import Path
from typing import IO, NamedTuple, cast

from PIL import Image

from ddpm_lab.errors import UserError

ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
TURNED = (5, 6, 7, 8)  # by a quarter: width and height change places
MODES_OF_BYTES = ("L", "LA", "RGB", "RGBA")


class Facts(NamedTuple):
    """What the header of an encoded image tells.

    width, height: of the picture as it is shown, once turned. mode: Pillow's; "RGB;16" for colours of 16 bits. transparent:
    whether it has an alpha channel or a transparent colour. rotated: whether EXIF turns or flips it.
    """

    width: int
    height: int
    mode: str
    transparent: bool
    rotated: bool


def look(file: str | Path | IO[bytes], name: str) -> Facts:
    """Read the header of one image.

    Args:
        file: path or open file.
        name: what to call it in an error.

    Raises:
        ValueError: if the file is missing or no image.

    """
    try:
        with Image.open(file) as picture:
            width, height = picture.size
            # Of a PNG without EXIF before its pixels Pillow would decode them all to look behind them.
            known = picture.format != "PNG" or "exif" in picture.info
            orientation = picture.getexif().get(ORIENTATION, 1) if known else 1
            if orientation in TURNED and picture.format != "TIFF":  # whose size Pillow tells as it is shown
                width, height = height, width
            raw = [str(tile[3]) for tile in picture.tile]  # as the file has it: Pillow cuts colours of 16 bits to 8
            cut = picture.mode in MODES_OF_BYTES and any(";16" in mode for mode in raw)
            return Facts(
                width,
                height,
                f"{picture.mode};16" if cut else picture.mode,
                "A" in picture.getbands() or "transparency" in picture.info,
                orientation in range(2, 9),
            )
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, … whatever the damage
        raise UserError(f"Cannot read the image {name} ({error}): replace the file or remove it.") from error


def see_through(file: str | Path | IO[bytes]) -> bool:
    """Decode one image: whether any of its pixels is not opaque."""
    with Image.open(file) as picture:
        alpha = picture.convert("RGBA").getchannel("A")
        return cast("int", alpha.getextrema()[0]) < 255
