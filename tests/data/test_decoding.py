"""Pixels as their owner sees them: transparency, orientation, sixteen bits, other modes."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm_lab.data.decoding import centre_crop, decode
from ddpm_lab.data.facts import look
from ddpm_lab.data.folder import FileSet, image_folder
from ddpm_lab.data.images import read_images

ORIENTATION = 0x0112
TURNS = {  # EXIF's orientations, as what is done to the stored rows and columns
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def pixels(path: Path | io.BytesIO, channels: int = 3, **options: Any) -> np.ndarray:
    return np.asarray(decode(path, "x", channels, **options))


def over(colours: np.ndarray, alpha: np.ndarray, background: int | list[int]) -> np.ndarray:
    """The nearest byte of colour * alpha + background * (1 - alpha)."""
    a = alpha.astype(float)[..., None] / 255
    return np.floor(colours * a + np.asarray(background) * (1 - a) + 0.5).astype(np.uint8)


def png(levels: np.ndarray, transparent: tuple[int, ...] = ()) -> bytes:
    """A PNG of 16 bits a channel: uint16 [H, W, C]."""
    height, width, C = levels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[C]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    chunks = {
        b"IHDR": header,
        b"tRNS": struct.pack(f">{len(transparent)}H", *transparent),
        b"IDAT": zlib.compress(rows),
    }
    packed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in {**chunks, b"IEND": b""}.items()
        if data or name == b"IEND"
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def tiff(levels: np.ndarray) -> bytes:
    """A TIFF of RGB of 16 bits a channel: uint16 [H, W, 3]."""
    height, width, _ = levels.shape
    data, bits = levels.astype("<u2").tobytes(), struct.pack("<3H", 16, 16, 16)
    end = 8 + len(data)
    short, long = 3, 4
    tags = [
        (256, short, 1, width),
        (257, short, 1, height),
        (258, short, 3, end),
        (259, short, 1, 1),
        (262, short, 1, 2),
    ]
    tags += [(273, long, 1, 8), (277, short, 1, 3), (278, short, 1, height), (279, long, 1, len(data))]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", end + 6) + data + bits + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("background", ["white", "black", [200, 30, 90]])
def test_transparent_pixels_show_the_background_and_not_their_hidden_colour(tmp_path, noise, background):
    behind = {"white": 255, "black": 0}.get(str(background), background)
    rgba = noise(16, 16, 4)
    rgba[:, :8, 3] = 0
    expected = over(rgba[..., :3], rgba[..., 3], behind)
    for mode in ("RGBA", "LA", "P", "one colour"):
        path = tmp_path / f"{mode}.png"
        if mode == "RGBA":
            Image.fromarray(rgba).save(path)
        elif mode == "LA":
            Image.merge("LA", (Image.fromarray(rgba[..., 0]), Image.fromarray(rgba[..., 3]))).save(path)
            expected = over(rgba[..., [0, 0, 0]], rgba[..., 3], behind)
        else:
            grey = (noise(16, 16) // 128) * 255
            Image.fromarray(grey).convert("P" if mode == "P" else "RGB").save(
                path, transparency=255 if mode == "P" else (255, 255, 255)
            )
            expected = over(np.zeros((16, 16, 3)), 255 - grey, behind)
        assert look(path, "x").transparent
        assert np.array_equal(pixels(path, background=background), expected), mode
        if background == "black" and mode != "RGBA":
            assert np.array_equal(pixels(path, 1, background=background), expected[..., 0])


def test_with_channels_for_it_the_alpha_stays(tmp_path, noise):
    rgba = noise(16, 16, 4)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert np.array_equal(pixels(tmp_path / "a.png", 4), rgba)
    assert np.array_equal(pixels(tmp_path / "a.png", 2)[..., 1], rgba[..., 3])
    Image.fromarray(rgba[..., 0]).save(tmp_path / "b.png")
    assert np.array_equal(pixels(tmp_path / "b.png", 4)[..., 3], np.full((16, 16), 255))


@pytest.mark.parametrize("background", ["grey", [1, 2], [0, 0, 256], [0.5, 0, 0], 7])
def test_a_background_is_white_black_or_three_bytes(tmp_path, noise, background):
    for name in ("a.png", "b.png"):
        Image.fromarray(noise(8, 8, 3)).save(tmp_path / name)
    with pytest.raises(
        ValueError, match=r"background of transparent pixels is white, black or \[red,green,blue\] of 0\.\.255 and is"
    ):
        image_folder(tmp_path, "train", 8, 3, background=background)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", list(TURNS))
def test_pictures_are_upright(tmp_path, noise, suffix, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored, path = np.kron(noise(4, 6), np.ones((8, 8), np.uint8)), tmp_path / f"a.{suffix}"
    lossless = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(stored).save(path, exif=exif, quality=100, **lossless)
    upright = TURNS[orientation](stored)
    found = pixels(path, 1)
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).max() <= 3  # JPEG errs by a level or two
    facts = look(path, "x")
    assert (facts.height, facts.width) == upright.shape
    assert facts.rotated == (orientation > 1)
    assert read_images(path).__getitems__([0])[0].shape[2:] == upright.shape


@pytest.mark.parametrize("C", [1, 2, 3, 4])
def test_sixteen_bits_are_rounded_to_eight(noise, C):
    levels = noise(40, 50, C, 2).view(np.uint16)[..., 0]
    expected = np.round(levels / 257).astype(np.uint8)  # 65535 is 255
    assert np.array_equal(pixels(io.BytesIO(png(levels)), C).reshape(levels.shape), expected)
    assert np.any(expected != levels >> 8)  # which is what Pillow makes of colours
    assert look(io.BytesIO(png(levels)), "x").mode in ("I;16", "RGB;16", "RGBA;16")
    with pytest.raises(ValueError, match="Cannot read the image x"):
        pixels(io.BytesIO(png(levels)[:400]), C)


def test_sixteen_bits_of_other_kinds(tmp_path, noise):
    levels = noise(8, 9, 3, 2).view(np.uint16)[..., 0]
    expected = np.round(levels / 257).astype(np.uint8)
    clear = pixels(io.BytesIO(png(levels, tuple(int(level) for level in levels[0, 0]))))
    assert clear[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(clear[1:], expected[1:])
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for suffix in ("tif", "png"):
        Image.fromarray(levels[..., 0].copy()).save(tmp_path / f"grey.{suffix}", exif=exif)
        assert np.array_equal(pixels(tmp_path / f"grey.{suffix}", 1), np.rot90(expected[..., 0], -1))
    assert np.array_equal(pixels(io.BytesIO(tiff(levels))), expected)
    pgm = b"P5 9 8 65535\n" + levels[..., 0].astype(">u2").tobytes()
    assert np.array_equal(pixels(io.BytesIO(pgm), 1), expected[..., 0])
    ppm = b"P6 9 8 65535\n" + levels.astype(">u2").tobytes()
    assert np.array_equal(pixels(io.BytesIO(ppm)), expected)


def test_numbers_of_32_bits_are_refused(tmp_path, noise):
    Image.fromarray(noise(8, 8).astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif \(it has mode F, 32 bits a channel; scale it to 8 or 16\)"):
        FileSet([tmp_path / "float.tif"], [0], 3, centre_crop(8)).__getitems__([0])


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB"]
)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_mode_becomes_the_channels_asked_for(tmp_path, mode, channels):
    Image.new(mode, (5, 4)).save(tmp_path / "a.tif") if mode in ("CMYK", "YCbCr", "LAB", "RGBX") else None
    if (tmp_path / "a.tif").is_file():
        found = pixels(tmp_path / "a.tif", channels)
    else:
        from ddpm_lab.data.decoding import _of_channels

        found = np.asarray(_of_channels(Image.new(mode, (5, 4)), channels, (255, 255, 255)))
    assert found.shape == ((4, 5) if channels == 1 else (4, 5, channels))
    assert found.dtype == np.uint8


def test_images_in_files_are_composited_too(tmp_path, noise):
    rgba = noise(8, 8, 4)
    for k in range(2):
        Image.fromarray(rgba).save(tmp_path / f"{k}.png")
    for background, behind in (("white", 255), ([10, 20, 30], [10, 20, 30])):
        found = read_images(tmp_path, background).__getitems__([1])[0]
        assert np.array_equal(found[0].permute(1, 2, 0).numpy(), over(rgba[..., :3], rgba[..., 3], behind))
    assert np.array_equal(read_images(tmp_path, alpha=True).__getitems__([0])[0][0].permute(1, 2, 0).numpy(), rgba)
    Image.merge("LA", (Image.fromarray(rgba[..., 0]), Image.fromarray(rgba[..., 3]))).save(tmp_path / "g.png")
    assert read_images(tmp_path / "g.png").__getitems__([0])[0].shape == (1, 1, 8, 8)
    coloured = read_images(tmp_path / "g.png", [10, 20, 30]).__getitems__([0])[0]  # no longer grey
    assert np.array_equal(coloured[0].permute(1, 2, 0).numpy(), over(rgba[..., [0, 0, 0]], rgba[..., 3], [10, 20, 30]))
