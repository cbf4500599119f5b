"""The layers a diffusion U-Net is made of: residual block, attention, changes of resolution.

Every block is called `block(x, times)`: `times` holds one [B, width] projection of the timestep for each residual
block that is still to run (`TimeEmbedding`), and a residual block takes the next one.
"""

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ddpm_lab.errors import UserError

GROUPS = 32
Layer = TypeVar("Layer", bound=nn.Module)


def group_norm(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    """Group norm in 32 groups, as every published network has it.

    Raises:
        ValueError: the channels do not split into 32 groups.
    """
    if channels % GROUPS:
        raise UserError(
            f"Group norm in {GROUPS} groups cannot take {channels} channels: "
            f"choose model_channels and channel_mult so that each level has a multiple of {GROUPS}."
        )
    return nn.GroupNorm(GROUPS, channels, eps=eps)


def zero(layer: Layer) -> Layer:
    """The layer with all its parameters set to zero, so that a residual branch starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def halve(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, H/2, W/2], the mean of each 2x2 square."""
    return F.avg_pool2d(x, 2)


def double(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, 2H, 2W], each pixel repeated."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Downsample(nn.Module):
    """Half the resolution: a 3x3 convolution of stride 2, or the mean of 2x2 where `conv` is off."""

    def __init__(self, channels: int, conv: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if conv else None

    def forward(self, x: Tensor, times: Iterator[Tensor]) -> Tensor:
        """[B, C, H, W] -> [B, C, H/2, W/2]."""
        return halve(x) if self.conv is None else self.conv(x)


class Upsample(nn.Module):
    """Twice the resolution: nearest neighbour, then a 3x3 convolution where `conv` is on."""

    def __init__(self, channels: int, conv: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if conv else None

    def forward(self, x: Tensor, times: Iterator[Tensor]) -> Tensor:
        """[B, C, H, W] -> [B, C, 2H, 2W]."""
        x = double(x)
        return x if self.conv is None else self.conv(x)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) and the timestep))): Ho et al. 2020, appendix B.

    The timestep e [B, width] enters before the second norm by h + e, or after it by adaptive group norm,
    norm(h) * (1 + scale) + shift with (scale, shift) = e: Nichol & Dhariwal 2021, section 4.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; a 1x1 convolution joins the two on the shortcut where they differ.
        dropout: probability, before the last convolution.
        scale_shift_norm: adaptive group norm.
        resample: `halve` or `double`, applied to both branches, after the first activation and before its convolution
            (Dhariwal & Nichol 2021, the BigGAN residual block).
        rescale: multiply the sum of the branches by 1 / sqrt(2) (Dhariwal & Nichol 2021, section 3).
        checkpointing: recompute the block's activations in the backward pass instead of keeping them.
        eps: of the norms.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dropout: float,
        scale_shift_norm: bool = False,
        resample: Callable[[Tensor], Tensor] | None = None,
        rescale: bool = False,
        checkpointing: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.scale_shift_norm = scale_shift_norm
        self.resample = resample
        self.rescale = rescale
        self.checkpointing = checkpointing
        self.width = (2 if scale_shift_norm else 1) * out_channels
        self.norm_1 = group_norm(in_channels, eps)
        self.conv_1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm_2 = group_norm(out_channels, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, times: Iterator[Tensor]) -> Tensor:
        """[B, in_channels, H, W] -> [B, out_channels, H', W'], taking the next [B, width] from `times`."""
        e = next(times)
        return checkpoint(self._run, x, e, use_reentrant=False) if self.checkpointing else self._run(x, e)

    def _run(self, x: Tensor, e: Tensor) -> Tensor:
        h = F.silu(self.norm_1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv_1(h)
        e = e[:, :, None, None]
        if self.scale_shift_norm:
            scale, shift = e.chunk(2, dim=1)
            h = self.norm_2(h) * (1 + scale) + shift
        else:
            h = self.norm_2(h + e)
        h = self.shortcut(x) + self.conv_2(self.dropout(F.silu(h)))
        return h * math.sqrt(0.5) if self.rescale else h


def heads(channels: int, num_heads: int, head_channels: int | None) -> int:
    """How many heads attend over `channels`: num_heads, or as many as have head_channels each.

    Raises:
        ValueError: the channels do not split evenly.
    """
    count = num_heads if head_channels is None else channels // head_channels
    if count < 1 or channels % count or (head_channels is not None and count * head_channels != channels):
        asked = f"{num_heads} heads" if head_channels is None else f"heads of {head_channels} channels"
        raise UserError(f"{channels} channels do not split into {asked}: change num_heads or head_channels.")
    return count


def attend(qkv: Tensor, num_heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over tokens: qkv [B, N, 3C], each of q, k and v split into heads -> [B, N, C]."""
    q, k, v = qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()  # each [B, heads, N, d]
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """x + self-attention over the H*W positions of norm(x): Ho et al. 2020, appendix B.

    Args:
        channels: of input and output.
        num_heads: number of heads, where head_channels is None.
        head_channels: channels per head (Dhariwal & Nichol 2021, section 3: 64).
        rescale: multiply the sum of the branches by 1 / sqrt(2).
        checkpointing: recompute the block's activations in the backward pass instead of keeping them.
        eps: of the norm.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int = 1,
        head_channels: int | None = None,
        rescale: bool = False,
        checkpointing: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.num_heads = heads(channels, num_heads, head_channels)
        self.rescale = rescale
        self.checkpointing = checkpointing
        self.norm = group_norm(channels, eps)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor, times: Iterator[Tensor]) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return checkpoint(self._run, x, use_reentrant=False) if self.checkpointing else self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [B, H*W, C]
        h = self.proj(attend(self.qkv(tokens), self.num_heads))
        h = x + h.transpose(1, 2).unflatten(2, x.shape[2:])
        return h * math.sqrt(0.5) if self.rescale else h
