"""Randomness by construction: every random number is a function of names such as (seed, rank, step), so nothing is stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ddpm_lab.errors import UserError


def mix(*names: int) -> int:
    """A 63-bit seed for torch from non-negative integers.

    Seeds of different names are as good as independent where there are equally many names, each below 2^32. Zeros at the end
    are not seen: mix(5) == mix(5, 0). Raises ValueError for a negative one.
    """
    if min(names, default=0) < 0:
        raise UserError(f"a seed must not be negative, got {', '.join(map(str, names))}; set seed to 0 or more")
    return int(np.random.SeedSequence(names).generate_state(1, np.uint64)[0] >> np.uint64(1))


def reseed(seed: int, device: torch.device) -> None:
    """Start torch's global random numbers of the CPU and of the device anew.

    torch.manual_seed does so for every kind of device there is: of those not in use it remembers each call for later, with its
    whole stack, which takes longer than a small network's step and never ends.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


class ImageNoise:
    """randn_like whose row k is the noise of one image alone: image k of a seed is the same at any batch size and rank.

    indices: which images of the seed the rows are.
    """

    def __init__(self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.generators = [torch.Generator(device).manual_seed(mix(seed, index)) for index in indices]

    def normal(self, *shape: int) -> Tensor:
        """The next standard normal numbers of every image, [len(indices), *shape]."""
        noise = torch.empty(len(self.generators), *shape, device=self.generators[0].device)
        for generator, row in zip(self.generators, noise, strict=True):
            row.normal_(generator=generator)
        return noise

    def uniform(self) -> Tensor:
        """The next number in [0, 1) of every image, [len(indices)] float64 on the CPU, in steps of 2^-24."""
        return torch.stack([torch.rand((), generator=g, device=g.device) for g in self.generators]).cpu().double()

    def __call__(self, like: Tensor) -> Tensor:
        """The next noise of `like`'s shape [len(indices), ...]."""
        return self.normal(*like.shape[1:]).to(like.device, like.dtype)
