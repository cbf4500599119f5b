"""The two lines that tie bytes to the numbers a diffusion model sees."""

import torch
from torch import Tensor

from ddpm_lab.errors import WrongTypeError


def to_float(images: Tensor) -> Tensor:
    """Scale bytes linearly to [-1, 1] (Ho et al. 2020, section 3.3).

    Args:
        images: uint8, any shape.

    Returns:
        x = images / 127.5 - 1, float32, same shape, on the same device.

    Raises:
        TypeError: if the images are not uint8.

    """
    if images.dtype != torch.uint8:
        raise WrongTypeError(
            f"to_float takes uint8 pixels in 0..255 and got {images.dtype}: pass the bytes as they were read."
        )
    # A divisor on the device: by a Python number CUDA multiplies with the rounded reciprocal and differs from the CPU.
    return images.to(torch.float32).div_(torch.full((), 127.5, device=images.device)).sub_(1)


def to_uint8(x: Tensor) -> Tensor:
    """Turn model space back into bytes; the inverse of `to_float` on all 256 values.

    Rounds to the nearest byte: truncation would put 63 of the 256 values one level too low.

    Args:
        x: floating point, nominally in [-1, 1], any shape; values outside are clamped.

    Returns:
        uint8, same shape.

    Raises:
        TypeError: if x is not floating point.

    """
    if not x.is_floating_point():
        raise WrongTypeError(
            f"to_uint8 takes floating-point images in [-1, 1] and got {x.dtype}: pass the model's output."
        )
    # At least float32: half precision has too few digits for 256 levels times 127.5.
    x = x if x.dtype == torch.float64 else x.to(torch.float32)
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
