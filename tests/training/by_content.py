"""An objective whose t and noise are functions of the image: the same however a batch is cut into ranks and parts."""

from typing import Any

import torch
from torch import Tensor

from ddpm_lab.diffusion import objectives
from ddpm_lab.diffusion.denoiser import Denoiser


class Simple(objectives.Simple):
    def __call__(self, denoiser: Denoiser, x_0: Tensor, t: Tensor, *arguments: Any) -> dict[str, Tensor]:
        generators = [torch.Generator().manual_seed(hash(tuple(x.flatten().tolist())) & 0xFFFFFFFF) for x in x_0]
        t = torch.cat([torch.randint(1, denoiser.process.T + 1, (1,), generator=g) for g in generators])
        noise = torch.stack([torch.randn(x.shape, generator=g) for x, g in zip(x_0, generators, strict=True)])
        return super().__call__(denoiser, x_0, t, None, noise)
