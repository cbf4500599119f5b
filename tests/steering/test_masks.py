from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_lab.steering.masks import NAMED, read_mask


def test_what_the_names_leave_known() -> None:
    shares = {name: read_mask(name, 8, 8, 0).double().mean().item() for name in NAMED}
    assert {name: shares[name] for name in shares if name != "random"} == {
        "half": 0.5,
        "centre": 0.75,
        "every_second": 0.25,
        "lines": 0.5,
    }
    assert 0.3 < shares["random"] < 0.7
    assert read_mask("half", 8, 8, 0)[:, :4].all()
    assert not read_mask("centre", 28, 28, 0)[7:21, 7:21].any()
    assert torch.equal(read_mask("random", 8, 8, 3), read_mask("random", 8, 8, 3))
    assert not torch.equal(read_mask("random", 8, 8, 3), read_mask("random", 8, 8, 4))


def save(path: Path, pixels: np.ndarray) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


def test_bright_pixels_of_a_file_are_known(tmp_path: Path) -> None:
    pixels = np.zeros((6, 8), np.uint8)
    pixels[:, 5:] = 255
    mask = read_mask(save(tmp_path / "mask.png", pixels), 6, 8, 0)
    assert torch.equal(mask, torch.from_numpy(pixels > 0))


def test_a_mask_is_read_as_images_are(tmp_path: Path) -> None:
    deep = np.zeros((6, 8), np.uint16)
    deep[:, 2:] = 3000  # of 65535: dark
    deep[:, 5:] = 60000
    assert read_mask(save(tmp_path / "deep.png", deep), 6, 8, 0).sum(1).tolist() == [3] * 6
    clear = np.full((6, 8, 4), 255, np.uint8)
    clear[:, :5, 3] = 0  # white that nobody sees
    assert read_mask(save(tmp_path / "clear.png", clear), 6, 8, 0).sum(1).tolist() == [3] * 6


def test_masks_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"task\.mask=midle is none of half, centre"):
        read_mask("midle", 8, 8, 0)
    grey = save(tmp_path / "grey.png", np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    with pytest.raises(ValueError, match="has 8x8 pixels and the images 28x28"):
        read_mask(grey, 28, 28, 0)
    for value, left in ((255, "nothing to paint"), (0, "nothing known")):
        with pytest.raises(ValueError, match=f"leaves {left}"):
            read_mask(save(tmp_path / f"{value}.png", np.full((8, 8), value, np.uint8)), 8, 8, 0)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        read_mask(str(tmp_path / "text.png"), 8, 8, 0)
