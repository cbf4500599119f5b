"""What every sampler is: a walk from noise to an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.samplers.spacings import Spacing, timesteps

RandnLike = Callable[[Tensor], Tensor]


class Sampler(ABC):
    """Walks x [B, C, H, W] down `steps` timesteps; keeps no state, and takes its randomness as an argument.

    steps: how many, all T if None. spacing: which, see samplers/spacings.py. clip: clamp every estimate of x_0 to [-1, 1].
    """

    def __init__(self, steps: int | None = None, spacing: Spacing = "uniform", clip: bool = True) -> None:
        self.steps = steps
        self.spacing = spacing
        self.clip = clip

    def timesteps(self, T: int) -> list[int]:
        """The ascending timesteps that a walk visits, one network call each. Raises ValueError if T has too few."""
        return timesteps(T, self.steps, self.spacing)

    @abstractmethod
    def walk(
        self, denoiser: Denoiser, x: Tensor, y: Tensor | None = None, randn_like: RandnLike = torch.randn_like
    ) -> Iterator[Tensor]:
        """Yield x after every step, the image last. x: standard normal; y: labels [B] or None."""

    def __call__(
        self, denoiser: Denoiser, x: Tensor, y: Tensor | None = None, randn_like: RandnLike = torch.randn_like
    ) -> Tensor:
        """Return the image that the walk ends with."""
        image = x
        for image in self.walk(denoiser, x, y, randn_like):  # noqa: B007 (keeps one x alive, not all)
            pass
        return image
