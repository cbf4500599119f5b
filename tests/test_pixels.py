import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_lab.pixels import to_float, to_rgb, to_uint8

ALL = torch.arange(256, dtype=torch.uint8)


def test_every_byte_survives_the_round_trip():
    assert torch.equal(to_uint8(to_float(ALL)), ALL)


def test_truncation_would_not_survive_it():
    assert int((((to_float(ALL) + 1) * 127.5).to(torch.uint8) != ALL).sum()) == 63


def test_to_float_is_the_formula_in_single_precision():
    x = to_float(ALL)
    assert x.dtype == torch.float32
    assert np.array_equal(x.numpy(), np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1))
    assert (x[0], x[255]) == (-1, 1)


def test_to_uint8_clamps_and_rounds_to_the_nearest():
    x = torch.tensor([-7.0, -1.0, 0.0, 1.0, 7.0, 100.4 / 127.5 - 1, 100.6 / 127.5 - 1])
    assert to_uint8(x).tolist() == [0, 0, 128, 255, 255, 100, 101]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_to_uint8_takes_any_precision_that_can_tell_256_levels_apart(dtype):
    assert torch.equal(to_uint8(to_float(ALL).to(dtype)), ALL)


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match=r"uint8 .* got torch\.float32"):
        to_float(torch.zeros(3))
    with pytest.raises(TypeError, match=r"floating-point .* got torch\.uint8"):
        to_uint8(ALL)


def test_every_kind_of_image_becomes_rgb_as_pillow_has_it():
    bytes_ = np.random.default_rng(0).integers(0, 256, (1, 4, 64, 64), dtype=np.uint8)
    bytes_[0, 3, :8], bytes_[0, 3, 8:16] = 0, 255
    for channels, mode in ((1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")):
        images = torch.from_numpy(bytes_[:, -channels:].copy())
        picture = Image.fromarray(images[0].permute(1, 2, 0).squeeze(-1).numpy(), mode).convert("RGBA")
        white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        found = to_rgb(images)[0].permute(1, 2, 0).numpy()
        assert np.abs(found.astype(int) - np.asarray(white)).max() <= (channels in (2, 4)), mode  # a rounding
        assert (to_rgb(images, 7)[0, :, :8] == 7).all() == (channels in (2, 4))
    with pytest.raises(ValueError, match=r"1 to 4, H, W\] and these are \[1, 5, 2, 2\]"):
        to_rgb(torch.zeros(1, 5, 2, 2, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"are torch\.float32"):
        to_rgb(torch.zeros(1, 4, 2, 2))
