"""The U-Net of Nichol & Dhariwal 2021 (improved DDPM) and Dhariwal & Nichol 2021 (ADM)."""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_lab.networks.blocks import Attention, Downsample, ResidualBlock, Upsample, double, group_norm, halve, zero
from ddpm_lab.networks.embeddings import TimeEmbedding, cosine_first_embedding
from ddpm_lab.networks.levels import Blocks, Middle, check_images, down_path, plan, time_widths, up_path


def adm_blocks(
    *,
    num_heads: int,
    head_channels: int | None,
    dropout: float,
    scale_shift_norm: bool,
    resblock_updown: bool,
    conv_resample: bool,
    checkpointing: bool,
    rescale_residual: bool = False,
) -> Blocks:
    """The blocks that `ADMUNet`'s switches of the same names choose."""
    residual = partial(
        ResidualBlock,
        dropout=dropout,
        scale_shift_norm=scale_shift_norm,
        rescale=rescale_residual,
        checkpointing=checkpointing,
    )
    attention = partial(
        Attention,
        num_heads=num_heads,
        head_channels=head_channels,
        rescale=rescale_residual,
        checkpointing=checkpointing,
    )
    if resblock_updown:
        return Blocks(
            residual,
            attention,
            downsample=lambda channels: residual(channels, channels, resample=halve),
            upsample=lambda channels: residual(channels, channels, resample=double),
        )
    return Blocks(residual, attention, partial(Downsample, conv=conv_resample), partial(Upsample, conv=conv_resample))


class ADMUNet(nn.Module):
    """A U-Net with every switch of the two papers; the presets in conf/network/ are the published settings.

    Args:
        image_size: pixels along a side, from which attention_resolutions are counted. Other sizes run too, if they can
            be halved as often, and then attend on the same levels.
        in_channels: C of the images.
        out_channels: C of the output, twice the images' where the network predicts variances too.
        model_channels: channels that channel_mult multiplies; the time embedding has four times as many.
        channel_mult: one multiplier per level, finest first; 0.5 is allowed. Every product must be a multiple of 32.
        num_res_blocks: residual blocks per level on the way down; one more on the way up.
        attention_resolutions: sizes in pixels of the feature maps that attend. The middle always does.
        num_heads: attention heads, where head_channels is None.
        head_channels: channels per head, so that wider levels have more heads.
        dropout: probability in the residual blocks.
        num_classes: number of labels y, None for an unconditional network.
        scale_shift_norm: adaptive group norm; otherwise the timestep is added.
        resblock_updown: change resolution inside residual blocks.
        conv_resample: without resblock_updown, change resolution with convolutions.
        rescale_residual: multiply every sum of a residual branch by 1 / sqrt(2).
        checkpointing: trade time for memory by recomputing each block in the backward pass.

    Raises:
        ValueError: the image cannot be halved often enough, or channels do not split into groups or heads.
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
        num_heads: int = 1,
        head_channels: int | None = None,
        dropout: float = 0.0,
        num_classes: int | None = None,
        scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        conv_resample: bool = True,
        rescale_residual: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        levels = plan(image_size, model_channels, channel_mult, attention_resolutions)
        make = adm_blocks(
            num_heads=num_heads,
            head_channels=head_channels,
            dropout=dropout,
            scale_shift_norm=scale_shift_norm,
            resblock_updown=resblock_updown,
            conv_resample=conv_resample,
            rescale_residual=rescale_residual,
            checkpointing=checkpointing,
        )
        self.conv_in = nn.Conv2d(in_channels, levels[0].channels, 3, padding=1)
        self.down, features = down_path(make, levels, num_res_blocks)
        self.middle = Middle(make, features[-1])
        self.up = up_path(make, levels, num_res_blocks, features)
        self.norm_out = group_norm(levels[0].channels)
        self.conv_out = zero(nn.Conv2d(levels[0].channels, out_channels, 3, padding=1))
        self.time = TimeEmbedding(cosine_first_embedding, model_channels, num_classes, time_widths(self))

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
