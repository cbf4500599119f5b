"""scikit-learn's digits: real handwriting inside an installed package, so a first run needs no file and no network."""

import torch

from ddpm_lab.data.memory import MemorySet
from ddpm_lab.data.splits import hold_out

DIGITS = "0123456789"


def digits(split: str) -> MemorySet:
    """Return 1,797 handwritten digits of 8x8 pixels in 10 classes (UCI Optical Recognition of Handwritten Digits).

    Grey levels 0..16 become bytes by round(v * 255 / 16). Every sixth image (i % 6 == 5) is test: 1,498 and 299 images.

    Args:
        split: "train" or "test".

    Returns:
        Images uint8 [n, 1, 8, 8], labels 0..9.

    Raises:
        ValueError: if the split is another.

    """
    from sklearn.datasets import load_digits

    source = load_digits()
    chosen = hold_out(len(source.images), split, every=6)
    levels = torch.from_numpy(source.images[chosen])  # [n, 8, 8] float64, 0..16
    images = (levels * 255 / 16).round().to(torch.uint8)[:, None]  # [n, 1, 8, 8]
    return MemorySet(images, torch.from_numpy(source.target[chosen]).to(torch.int64), DIGITS)
