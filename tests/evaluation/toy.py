"""A small extractor and a small random diffusion model, for tests of what is around them."""

import torch
from torch import Tensor, nn

from ddpm_lab.diffusion import schedules
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.predictions import Velocity
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.variances import FixedLarge
from ddpm_lab.metrics.features import Extractor, Features, as_rgb
from ddpm_lab.networks.adm_unet import ADMUNet


class ToyExtractor(Extractor):
    """Random convolutions with fixed weights."""

    name, sha256, resize = "toy", "0123456789abcdef", "none"

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, 5)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Features:
        maps = self.conv(as_rgb(images).float() / 127.5 - 1).relu()
        pool = maps.mean((2, 3))
        return Features(pool, self.head(pool), maps[:, :2].flatten(1))


def toy_denoiser(num_classes: int | None = None, channels: int = 1) -> Denoiser:
    torch.manual_seed(1)
    network = ADMUNet(
        image_size=8,
        in_channels=channels,
        out_channels=channels,
        model_channels=32,
        channel_mult=[1, 2],
        num_res_blocks=1,
        attention_resolutions=[],
        num_heads=1,
        dropout=0.0,
        scale_shift_norm=True,
        num_classes=num_classes,
    ).eval()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.05) if p.ndim > 1 else None
    return Denoiser(network.requires_grad_(False), Process(schedules.cosine(40)), Velocity(), FixedLarge())
