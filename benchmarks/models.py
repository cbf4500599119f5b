"""The configurations that are compared, and the network of each peer at each.

diffusers' and improved-diffusion's are the same shape with the same parameter count. denoising-diffusion-pytorch's cannot be:
at the same widths it has 1.41, 5.25 and 28.5 million parameters where the others have 1.62, 4.44 and 35.7.
"""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddpm_lab.networks.adm_unet import ADMUNet


class Shape(NamedTuple):
    """One configuration. attention: sizes in pixels of the feature maps that attend."""

    size: int
    channels: int
    mult: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    dropout: float
    batch: int


SHAPES = {
    "cifar": Shape(32, 128, (1, 2, 2, 2), 2, (16,), 0.1, 2),
    "demo28": Shape(28, 64, (1, 2, 2), 1, (14,), 0.0, 8),
    "demo16": Shape(16, 32, (1, 2, 2), 2, (8,), 0.0, 16),
}


def ours(shape: Shape) -> nn.Module:
    """ADMUNet with one head and the timestep added."""
    return ADMUNet(
        shape.size,
        3,
        3,
        model_channels=shape.channels,
        channel_mult=shape.mult,
        num_res_blocks=shape.blocks,
        attention_resolutions=shape.attention,
        dropout=shape.dropout,
    )


class Sample(nn.Module):
    """A UNet2DModel called as the other networks are."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.model(x, t, return_dict=False)[0]


def diffusers(shape: Shape) -> nn.Module:
    """UNet2DModel."""
    from diffusers import UNet2DModel

    down = [
        "AttnDownBlock2D" if shape.size // 2**i in shape.attention else "DownBlock2D" for i in range(len(shape.mult))
    ]
    model = UNet2DModel(
        sample_size=shape.size,
        block_out_channels=[shape.channels * m for m in shape.mult],
        layers_per_block=shape.blocks,
        down_block_types=down,
        up_block_types=[kind.replace("Down", "Up") for kind in reversed(down)],
        attention_head_dim=None,
        dropout=shape.dropout,
    )
    return Sample(model)


def lucidrains(shape: Shape) -> nn.Module:
    """denoising-diffusion-pytorch's Unet, whose shape cannot be matched: its own defaults at the same widths."""
    from denoising_diffusion_pytorch import Unet

    return Unet(shape.channels, dim_mults=shape.mult, flash_attn=False, dropout=shape.dropout)


def improved(shape: Shape) -> nn.Module:
    """improved-diffusion's UNetModel."""
    from improved_diffusion.unet import UNetModel

    return UNetModel(
        in_channels=3,
        model_channels=shape.channels,
        out_channels=3,
        num_res_blocks=shape.blocks,
        attention_resolutions=tuple(shape.size // size for size in shape.attention),
        dropout=shape.dropout,
        channel_mult=shape.mult,
    )


# improved-diffusion is in no registry: it takes part where PYTHONPATH names a checkout of it.
NETWORKS = {"diffusers": diffusers, "lucidrains": lucidrains}
if importlib.util.find_spec("improved_diffusion") is not None:
    NETWORKS = {"improved-diffusion": improved, **NETWORKS}


def awake(network: nn.Module) -> nn.Module:
    """The network with its zero-initialised layers filled, so that no gradient is nought."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return network
