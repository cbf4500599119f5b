"""The upsamplers of Nichol & Dhariwal 2021 and Dhariwal & Nichol 2021."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_lab.networks.adm_unet import ADMUNet


class SuperResolutionUNet(nn.Module):
    """An `ADMUNet` that sees the low-resolution image, enlarged, beside the noisy one (Saharia et al. 2021).

    Args:
        image_size: pixels along a side of the large image.
        in_channels: C of the images, large and small.
        out_channels: C of the output.
        switches: the other arguments of `ADMUNet`.

    Raises:
        ValueError: as `ADMUNet`.
    """

    def __init__(self, image_size: int, in_channels: int, out_channels: int, **switches: Any) -> None:
        super().__init__()
        self.unet = ADMUNet(image_size, 2 * in_channels, out_channels, **switches)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, *, low_res: Tensor) -> Tensor:
        """One call of the network.

        Args:
            x: [B, in_channels, H, W] noisy large images.
            t: [B] timesteps counted from 0, integers or fractions.
            y: [B] labels, if and only if the network has classes.
            low_res: [B, in_channels, h, w] small images.

        Returns:
            [B, out_channels, H, W].
        """
        enlarged = F.interpolate(low_res, x.shape[2:], mode="bilinear", align_corners=False)
        return self.unet(torch.cat([x, enlarged], dim=1), t, y)
