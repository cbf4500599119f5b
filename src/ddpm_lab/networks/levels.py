"""The two sides of a U-Net, level by level, from whichever blocks a network chooses."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddpm_lab.errors import UserError
from ddpm_lab.networks.blocks import Attention, ResidualBlock


@dataclass(frozen=True)
class Blocks:
    """How a network makes its blocks; each is called `block(x, times)`."""

    residual: Callable[[int, int], ResidualBlock]  # (in_channels, out_channels)
    attention: Callable[[int], Attention]  # channels
    downsample: Callable[[int], nn.Module]  # channels
    upsample: Callable[[int], nn.Module]  # channels


@dataclass(frozen=True)
class Level:
    """One resolution of a U-Net."""

    size: int
    channels: int
    attends: bool


def plan(
    image_size: int, model_channels: int, channel_mult: Sequence[float], attention_resolutions: Sequence[int]
) -> list[Level]:
    """The levels of a U-Net, finest first, each half the size of the one before.

    Args:
        image_size: pixels along a side of the image.
        model_channels: channels that channel_mult multiplies.
        channel_mult: one multiplier for each level.
        attention_resolutions: sizes in pixels of the levels that attend. Sizes that no level has are passed over, so
            that one preset can serve 28 and 32 pixels.

    Raises:
        ValueError: the image cannot be halved often enough.
    """
    halvings = len(channel_mult) - 1
    if image_size < 1 or image_size % 2**halvings:
        raise UserError(
            f"An image of {image_size} pixels cannot be halved {halvings} times for the {halvings + 1} levels of "
            f"channel_mult: resize it to a multiple of {2**halvings}, or give fewer multipliers."
        )
    sizes = [image_size // 2**i for i in range(len(channel_mult))]
    return [
        Level(size, round(multiplier * model_channels), size in attention_resolutions)
        for size, multiplier in zip(sizes, channel_mult, strict=True)
    ]


class Block(nn.Module):
    """A residual block, and attention after it where given."""

    def __init__(self, residual: ResidualBlock, attention: Attention | None) -> None:
        super().__init__()
        self.residual = residual
        self.attention = attention

    def forward(self, x: Tensor, times: Iterator[Tensor]) -> Tensor:
        """[B, in_channels, H, W] -> [B, out_channels, H, W]."""
        x = self.residual(x, times)
        return x if self.attention is None else self.attention(x, times)


class DownLevel(nn.Module):
    """The blocks of one resolution, then half of it except on the last level."""

    def __init__(self, blocks: list[Block], resample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample

    def forward(self, x: Tensor, times: Iterator[Tensor]) -> list[Tensor]:
        """[B, C, H, W] -> the feature map after each step; the last is the level's output."""
        features = []
        for block in self.blocks:
            x = block(x, times)
            features.append(x)
        if self.resample is not None:
            features.append(self.resample(x, times))
        return features


class Middle(nn.Module):
    """Residual block, attention, residual block, at the coarsest resolution. It always attends."""

    def __init__(self, make: Blocks, channels: int) -> None:
        super().__init__()
        self.before = make.residual(channels, channels)
        self.attention = make.attention(channels)
        self.after = make.residual(channels, channels)

    def forward(self, x: Tensor, times: Iterator[Tensor]) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return self.after(self.attention(self.before(x, times), times), times)


class UpLevel(nn.Module):
    """The blocks of one resolution, each joined by a feature map of the way down, then twice the resolution."""

    def __init__(self, blocks: list[Block], resample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample

    def forward(self, x: Tensor, skips: list[Tensor], times: Iterator[Tensor]) -> Tensor:
        """[B, C, H, W] -> [B, C', 2H, 2W]; takes the last of `skips` for each block."""
        for block in self.blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), times)
        return x if self.resample is None else self.resample(x, times)


def down_path(make: Blocks, levels: Sequence[Level], num_res_blocks: int) -> tuple[nn.ModuleList, list[int]]:
    """The way down, finest level first, and the channels of every feature map on it, the input's first."""
    path, features = nn.ModuleList(), [levels[0].channels]
    for level in levels:
        blocks = []
        for _ in range(num_res_blocks):
            attention = make.attention(level.channels) if level.attends else None
            blocks.append(Block(make.residual(features[-1], level.channels), attention))
            features.append(level.channels)
        last = level is levels[-1]
        path.append(DownLevel(blocks, None if last else make.downsample(level.channels)))
        if not last:
            features.append(level.channels)
    return path, features


def up_path(make: Blocks, levels: Sequence[Level], num_res_blocks: int, features: Sequence[int]) -> nn.ModuleList:
    """The way up, coarsest level first: one block more than on the way down, since the resampled map joins too."""
    path, skips, channels = nn.ModuleList(), list(features), features[-1]
    for level in reversed(levels):
        blocks = []
        for _ in range(num_res_blocks + 1):
            attention = make.attention(level.channels) if level.attends else None
            blocks.append(Block(make.residual(channels + skips.pop(), level.channels), attention))
            channels = level.channels
        path.append(UpLevel(blocks, None if level is levels[0] else make.upsample(channels)))
    return path


def time_widths(network: nn.Module) -> list[int]:
    """What each residual block takes from the time embedding, in the order in which they were made and run."""
    return [module.width for module in network.modules() if isinstance(module, ResidualBlock)]


def check_images(x: Tensor, in_channels: int, levels: int) -> None:
    """Refuse images that a network cannot take.

    Raises:
        ValueError: x is not [B, in_channels, H, W], or H or W cannot be halved once for each level after the first.
    """
    multiple = 2 ** (levels - 1)
    if x.ndim != 4 or x.shape[1] != in_channels or x.shape[2] % multiple or x.shape[3] % multiple:
        raise UserError(
            f"This network takes images [B, {in_channels}, H, W] with H and W multiples of {multiple}, "
            f"and got {list(x.shape)}: change the data, or in_channels and channel_mult of the network."
        )
