"""The U-Net of Ho et al. 2020, as in their TensorFlow code."""

import math
from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_lab.networks.blocks import Attention, ResidualBlock, Upsample, group_norm
from ddpm_lab.networks.embeddings import TimeEmbedding, sine_first_embedding
from ddpm_lab.networks.levels import Blocks, Middle, check_images, down_path, plan, time_widths, up_path

EPS = 1e-6  # tf.contrib.layers.group_norm's; PyTorch's is 1e-5


class RightBottomDownsample(nn.Module):
    """Half the resolution by a 3x3 convolution of stride 2, padded right and bottom only (TensorFlow's SAME)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, times: object) -> Tensor:
        """[B, C, H, W] -> [B, C, H/2, W/2]."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


def variance_scaling_(weight: Tensor, scale: float = 1.0) -> None:
    """Fill with uniform numbers of variance scale / mean(fan in, fan out)."""
    nn.init.xavier_uniform_(weight, gain=math.sqrt(scale))


class HoUNet(nn.Module):
    """The network of "Denoising Diffusion Probabilistic Models", appendix B and public code.

    The timestep is added in every residual block, one head attends after each residual block of the chosen
    resolutions. Labels are not in the paper; they join the time embedding as in Nichol & Dhariwal 2021.

    Args:
        image_size: pixels along a side, from which attention_resolutions are counted.
        in_channels: C of the images.
        out_channels: C of the output.
        model_channels: channels that channel_mult multiplies; the time embedding has four times as many.
        channel_mult: one multiplier per level, finest first. Every product must be a multiple of 32.
        num_res_blocks: residual blocks per level on the way down; one more on the way up.
        attention_resolutions: sizes in pixels of the feature maps that attend. The middle always does.
        dropout: probability in the residual blocks.
        num_classes: number of labels y, None for an unconditional network.

    Raises:
        ValueError: the image cannot be halved often enough, or channels do not split into groups.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        out_channels: int,
        *,
        model_channels: int,
        channel_mult: Sequence[float],
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        dropout: float = 0.0,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        levels = plan(image_size, model_channels, channel_mult, attention_resolutions)
        make = Blocks(
            residual=partial(ResidualBlock, dropout=dropout, eps=EPS),
            attention=partial(Attention, eps=EPS),
            downsample=RightBottomDownsample,
            upsample=Upsample,
        )
        self.conv_in = nn.Conv2d(in_channels, levels[0].channels, 3, padding=1)
        self.down, features = down_path(make, levels, num_res_blocks)
        self.middle = Middle(make, features[-1])
        self.up = up_path(make, levels, num_res_blocks, features)
        self.norm_out = group_norm(levels[0].channels, EPS)
        self.conv_out = nn.Conv2d(levels[0].channels, out_channels, 3, padding=1)
        self.time = TimeEmbedding(sine_first_embedding, model_channels, num_classes, time_widths(self))
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                assert module.bias is not None
                variance_scaling_(module.weight)
                nn.init.zeros_(module.bias)
        # q, k and v, and the blocks' projections of the timestep, are separate matrices with fans of their own.
        for module in self.modules():
            if isinstance(module, Attention):
                for matrix in module.qkv.weight.chunk(3):
                    variance_scaling_(matrix)
                variance_scaling_(module.proj.weight, 1e-10)
            elif isinstance(module, ResidualBlock):
                variance_scaling_(module.conv_2.weight, 1e-10)
        for matrix in self.time.projection.weight.split(self.time.widths):
            variance_scaling_(matrix)
        variance_scaling_(self.conv_out.weight, 1e-10)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """One call of the network.

        Args:
            x: [B, in_channels, H, W] images.
            t: [B] timesteps counted from 0, integers or fractions.
            y: [B] labels, if and only if the network has classes.

        Returns:
            [B, out_channels, H, W].

        Raises:
            ValueError: x has a wrong shape, or y is missing or was not asked for.
        """
        check_images(x, self.in_channels, len(self.down))
        times = self.time(t, y)
        skips = [self.conv_in(x)]
        for level in self.down:
            skips += level(skips[-1], times)
        h = self.middle(skips[-1], times)
        for level in self.up:
            h = level(h, skips, times)
        return self.conv_out(F.silu(self.norm_out(h)))
