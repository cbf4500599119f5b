"""Grids and their captions: every image whole and in its place, no text cut off."""

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFont
from torch import Tensor

from ddpm_lab.pictures import FRAME, captioned, grid, panels
from ddpm_lab.pixels import to_float, to_uint8


def pixels(picture: Image.Image) -> Tensor:
    """[3, H, W] uint8."""
    rgb = picture.convert("RGB")
    return torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).view(rgb.height, rgb.width, 3).permute(2, 0, 1)


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def noise(n: int, channels: int, side: int) -> Tensor:
    bytes_ = torch.randint(256, (n, channels, side, side), generator=torch.Generator().manual_seed(0))
    return to_float(bytes_.to(torch.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_holds_every_byte_row_by_row(channels: int) -> None:
    images, scale = noise(5, channels, 4), 3
    sheet = pixels(grid(images, 2, scale))
    pitch = 4 * scale + FRAME
    assert sheet.shape == (3, 3 * pitch + FRAME, 2 * pitch + FRAME)
    for k, image in enumerate(to_uint8(images)):
        top, left = k // 2 * pitch + FRAME, k % 2 * pitch + FRAME
        drawn = sheet[:, top : top + 4 * scale, left : left + 4 * scale]
        for dy in range(scale):
            for dx in range(scale):
                assert torch.equal(drawn[:, dy::scale, dx::scale], image.expand(3, -1, -1))


@pytest.mark.parametrize("channels", [2, 4])
def test_what_is_transparent_shows_a_checker_and_what_is_not_itself(channels: int) -> None:
    images = noise(1, channels, 16)
    images[:, -1], images[:, -1, :, 8:] = -1, 1
    drawn = pixels(grid(images, 1, 1))[:, FRAME:-FRAME, FRAME:-FRAME]
    assert drawn[:, :4, :4].unique().tolist() == drawn[:, 4:8, 4:8].unique().tolist() == [255]
    assert drawn[:, :4, 4:8].unique().tolist() == drawn[:, 4:8, :4].unique().tolist() == [214]
    assert torch.equal(drawn[:, :, 8:], to_uint8(images)[0, :-1, :, 8:].expand(3, -1, -1))


def test_many_images_fill_a_square_rather_than_a_strip(tmp_path: Path) -> None:
    for n, most in ((64, 1.2), (256, 1.2), (1000, 1.2)):
        panels([("one", noise(n, 3, 32))], tmp_path / "panels.png")
        width, height = size(tmp_path / "panels.png")
        assert 1 / most < width / height < most, n
    panels([("one", noise(64, 3, 32))], tmp_path / "narrow.png", columns=4)
    width, height = size(tmp_path / "narrow.png")
    assert height > 3 * width


@pytest.mark.parametrize("side", [8, 28, 32, 64, 128])
def test_an_image_is_at_least_forty_pixels_wide(side: int, tmp_path: Path) -> None:
    panels([("one", noise(1, 1, side))], tmp_path / "one.png")
    panels([("two", noise(2, 1, side))], tmp_path / "two.png")
    pitch = size(tmp_path / "two.png")[0] - size(tmp_path / "one.png")[0]
    assert 40 <= pitch - FRAME <= max(64, side)


def test_captions_are_not_cut_off(tmp_path: Path) -> None:
    """Right of the last letter there is white, however long the captions and small the images."""
    long = "a caption that is much longer than its one small image is wide, step 123456"
    panels([(long, noise(1, 1, 8)), (long, noise(1, 1, 8))], tmp_path / "panels.png")
    with Image.open(tmp_path / "panels.png") as picture:
        drawn = pixels(picture)
    assert drawn.shape[2] > 2 * ImageFont.load_default(14).getlength(long)
    assert (drawn[:, :, -8:] == 255).all()
    sheet = grid(noise(4, 1, 8), 2, 2)
    for columns, rows in (([], []), ([(0, "one"), (19, long)], []), ([(0, "one")], [long, "second"])):
        drawn = pixels(captioned(sheet, long, columns, rows))
        assert (drawn[:, :, -8:] == 255).all()
        assert (drawn[:, -8:] == 255).all()
        # The sheet is whole: nothing is written over it.
        places = (drawn == pixels(sheet)[:, :1, :1]).all(0).nonzero().tolist()
        h, w = sheet.height, sheet.width
        assert any(torch.equal(drawn[:, y : y + h, x : x + w], pixels(sheet)) for y, x in places)


def test_names_stand_above_their_columns_and_in_no_other(tmp_path: Path) -> None:
    for names in ([], ["", "a name wider than its column", ""]):
        panels([("left", noise(6, 1, 40)), ("right", noise(3, 1, 40))], tmp_path / f"{len(names)}.png", 3, names)
    (_, without), (_, height) = (size(tmp_path / f"{k}.png") for k in (0, 3))
    with Image.open(tmp_path / "3.png") as picture:
        line = (
            pixels(picture)[:, 30 : 30 + height - without].float().mean((0, 1))
        )  # the line between caption and images
    pitch = 40 + FRAME
    drawn = (line < 255).nonzero().flatten()
    second = [left + pitch for left in (16, 16 + 3 * pitch + FRAME + 16)]
    assert all(any(left <= x < left + pitch for left in second) for x in drawn.tolist())
    assert all(any(left <= x < left + pitch for x in drawn.tolist()) for left in second)
