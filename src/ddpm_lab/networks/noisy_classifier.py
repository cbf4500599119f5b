"""The classifier of noisy images of Dhariwal & Nichol 2021, section 4: the way down of `ADMUNet`, then a pool."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_lab.errors import UserError
from ddpm_lab.networks.adm_unet import adm_blocks
from ddpm_lab.networks.blocks import attend, group_norm, heads, zero
from ddpm_lab.networks.embeddings import TimeEmbedding, cosine_first_embedding
from ddpm_lab.networks.levels import Middle, check_images, down_path, plan, time_widths


class AdaptivePool(nn.Module):
    """The mean over positions of the last feature map, then a linear layer.

    Args, as of every pool:
        channels: C of each feature map, the last one's last.
        size: pixels along a side of the last feature map.
        num_classes: K.
    """

    def __init__(self, channels: Sequence[int], size: int, num_classes: int) -> None:
        super().__init__()
        self.norm = group_norm(channels[-1])
        self.linear = zero(nn.Linear(channels[-1], num_classes))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps, each [B, C, H, W] -> logits [B, K]."""
        return self.linear(F.silu(self.norm(features[-1])).mean(dim=(2, 3)))


class AttentionPool(nn.Module):
    """The mean position attends to all positions of the last feature map: CLIP's pool (Radford et al. 2021).

    Args beside those of every pool:
        head_channels: channels per head.

    Raises:
        ValueError: the channels do not split into heads.
    """

    def __init__(self, channels: Sequence[int], size: int, num_classes: int, *, head_channels: int) -> None:
        super().__init__()
        width = channels[-1]
        self.num_heads = heads(width, 1, head_channels)
        self.norm = group_norm(width)
        self.positions = nn.Parameter(torch.randn(size**2 + 1, width) / width**0.5)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps, the last [B, C, size, size] -> logits [B, K].

        Raises:
            ValueError: the last feature map has another size, for which there are no positions.
        """
        tokens = F.silu(self.norm(features[-1])).flatten(2).transpose(1, 2)  # [B, H*W, C]
        if tokens.shape[1] + 1 != self.positions.shape[0]:
            raise UserError(
                f"This pool has positions for {self.positions.shape[0] - 1} pixels and got {tokens.shape[1]}: "
                "build the classifier with the image_size it is called with."
            )
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) + self.positions
        return self.proj(attend(self.qkv(tokens), self.num_heads)[:, 0])


class SpatialPool(nn.Module):
    """The means over positions of all feature maps, then two linear layers."""

    def __init__(self, channels: Sequence[int], size: int, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(sum(channels), 2048)
        self.linear = nn.Linear(2048, num_classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps, each [B, C, H, W] -> logits [B, K]."""
        means = torch.cat([feature.mean(dim=(2, 3)) for feature in features], dim=1)  # [B, sum of C]
        return self.linear(F.relu(self.hidden(means)))


class NormedSpatialPool(SpatialPool):
    """`SpatialPool` with group norm and SiLU between its layers ("spatial_v2" in the public code)."""

    def __init__(self, channels: Sequence[int], size: int, num_classes: int) -> None:
        super().__init__(channels, size, num_classes)
        self.norm = group_norm(2048)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps, each [B, C, H, W] -> logits [B, K]."""
        means = torch.cat([feature.mean(dim=(2, 3)) for feature in features], dim=1)
        return self.linear(F.silu(self.norm(self.hidden(means))))


class NoisyClassifier(nn.Module):
    """log p(y | x_t) up to a constant: logits of a noisy image, whose gradient guides sampling.

    Args:
        image_size: pixels along a side, from which attention_resolutions are counted.
        in_channels: C of the images.
        num_classes: K.
        pool: called as pool(channels, size, num_classes), one of the classes above; `AttentionPool` as a partial with
            its head_channels.
        model_channels, channel_mult, num_res_blocks, attention_resolutions, num_heads, head_channels, dropout,
            scale_shift_norm, resblock_updown, conv_resample, checkpointing: as in `ADMUNet`.

    Raises:
        ValueError: the image cannot be halved often enough, or channels do not split into groups or heads.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        num_classes: int,
        *,
        pool: Callable[[Sequence[int], int, int], nn.Module],
        model_channels: int,
        channel_mult: Sequence[float],
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        num_heads: int = 1,
        head_channels: int | None = None,
        dropout: float = 0.0,
        scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        conv_resample: bool = True,
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
            checkpointing=checkpointing,
        )
        self.conv_in = nn.Conv2d(in_channels, levels[0].channels, 3, padding=1)
        self.down, features = down_path(make, levels, num_res_blocks)
        self.middle = Middle(make, features[-1])
        self.pool = pool([*features, features[-1]], levels[-1].size, num_classes)
        self.time = TimeEmbedding(cosine_first_embedding, model_channels, None, time_widths(self))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """One call of the network.

        Args:
            x: [B, in_channels, H, W] noisy images.
            t: [B] timesteps counted from 0, integers or fractions.

        Returns:
            Logits [B, K].

        Raises:
            ValueError: x has a wrong shape.
        """
        check_images(x, self.in_channels, len(self.down))
        times = self.time(t, None)
        features = [self.conv_in(x)]
        for level in self.down:
            features += level(features[-1], times)
        features.append(self.middle(features[-1], times))
        return self.pool(features)
