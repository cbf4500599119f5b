"""What the header of an image file tells."""

import io
import struct
import zlib

import pytest
from PIL import Image

from ddpm_lab.data.facts import Facts, look


def png(colour: int, channels: int, bits: int) -> io.BytesIO:
    """A black PNG of 4x3 pixels, as the standard has it: Pillow writes no colours of 16 bits."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 4, 3, bits, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(1 + 4 * channels * bits // 8) * 3)
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("colour", "channels", "bits", "mode", "transparent"),
    [
        (0, 1, 8, "L", False),
        (0, 1, 16, "I;16", False),
        (2, 3, 8, "RGB", False),
        (2, 3, 16, "RGB;16", False),
        (4, 2, 8, "LA", True),
        (6, 4, 8, "RGBA", True),
        (6, 4, 16, "RGBA;16", True),
    ],
)
def test_modes_and_bits_of_png(colour: int, channels: int, bits: int, mode: str, transparent: bool) -> None:
    assert look(png(colour, channels, bits), "a.png") == Facts(4, 3, mode, transparent, False)


def saved(picture: Image.Image, kind: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_a_rotated_image_has_the_size_that_is_shown(kind: str) -> None:
    picture = Image.new("RGB", (5, 3))
    for orientation, size in ((1, (5, 3)), (3, (5, 3)), (6, (3, 5))):
        exif = picture.getexif()
        exif[0x0112] = orientation
        found = look(saved(picture, kind, exif=exif), "a")
        assert (found.width, found.height) == size
        assert found.rotated == (orientation != 1)


def test_a_palette_may_have_a_transparent_colour() -> None:
    assert not look(saved(Image.new("P", (2, 2)), "png"), "a").transparent
    assert look(saved(Image.new("P", (2, 2)), "png", transparency=0), "a").transparent


def test_no_pixel_is_read_and_what_is_no_image_is_named() -> None:
    whole = saved(Image.effect_noise((64, 64), 50), "png").getvalue()
    assert look(io.BytesIO(whole[: len(whole) // 2]), "a").width == 64
    with pytest.raises(ValueError, match=r"Cannot read the image cats/1\.png \(cannot identify"):
        look(io.BytesIO(b"text"), "cats/1.png")
