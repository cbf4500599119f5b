"""The lines that tie bytes to the numbers a diffusion model sees, and to the colours that a person does."""

import torch
from torch import Tensor

from ddpm_lab.errors import UserError, WrongTypeError

KINDS = {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGB with alpha"}
"""What the channels of an image are, by their number, as PNG has them."""
WITH_ALPHA = (2, 4)


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


def to_rgb(images: Tensor, behind: Tensor | int = 255) -> Tensor:
    """Turn images of any of the KINDS into RGB; colours under an alpha are blended with what is behind them.

    Args:
        images: uint8 [B, C, H, W].
        behind: grey level 0..255, one or of each pixel, uint8 [H, W]; white by default.

    Returns:
        uint8 [B, 3, H, W], on the same device.

    Raises:
        TypeError: if the images are not uint8.
        ValueError: if they have another number of channels.

    """
    if images.dtype != torch.uint8:
        raise WrongTypeError(
            f"images to be looked at are uint8 in 0..255 and these are {images.dtype}: round them first (to_uint8)."
        )
    if images.ndim != 4 or images.shape[1] not in KINDS:
        raise UserError(f"images to be looked at are [B, 1 to 4, H, W] and these are {list(images.shape)}.")
    if images.shape[1] in WITH_ALPHA:
        # In 32 bits: 255 * 255 is no byte. Rounded to the nearest.
        colours, alpha = images[:, :-1].int(), images[:, -1:].int()
        images = ((colours * alpha + behind * (255 - alpha) + 127) // 255).to(torch.uint8)
    return images.expand(-1, 3, -1, -1)
