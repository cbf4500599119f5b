"""RePaint: inpainting whose two parts agree, by going back up again and again (Lugmayr et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.errors import UserError
from ddpm_lab.samplers.sampler import RandnLike, Sampler


class RePaint(Sampler):
    """The moves of another sampler, in the order of RePaint's section 4.2: algorithm 1 around an `Inpainted` denoiser.

    Below every jump_length-th step the walk goes up again by jump_length steps, by noise, resamples - 1 times. So what is
    made up meets new noise of what is known, until both belong together.

    resamples: r, how often each stretch is walked; 1 goes straight down. jump_length: j.
    Raises ValueError unless both are positive.
    """

    def __init__(self, sampler: Sampler, jump_length: int = 10, resamples: int = 10) -> None:
        super().__init__(sampler.steps, sampler.spacing, sampler.clip)
        if jump_length < 1 or resamples < 1:
            raise UserError(
                "jump_length and resamples count steps and walks of them: both must be at least 1, got "
                f"jump_length={jump_length} and resamples={resamples}"
            )
        self.sampler = sampler
        self.jump_length = jump_length
        self.resamples = resamples

    def places(self, stages: int) -> list[int]:
        """Where a walk of so many stages stands, one after the other, as numbers of stages still below it: 0 is the image.

        As in the public code, the lowest jump sets out one stage above the image, and none from the top. Raises ValueError
        where the walk is too short for a jump.
        """
        if self.resamples > 1 and self.jump_length >= stages:
            raise UserError(
                f"a walk of {stages} steps has no room for jumps of jump_length={self.jump_length}: take a shorter one, more "
                "steps, or resamples=1 for none"
            )
        left = dict.fromkeys(range(1, stages - self.jump_length + 1, self.jump_length), self.resamples - 1)
        places = [stages]
        while places[-1] > 0:
            place = places[-1] - 1
            places.append(place)
            if left.get(place, 0) > 0:
                left[place] -= 1
                places.append(place + self.jump_length)
        return places

    @torch.no_grad()
    def walk(
        self,
        denoiser: Denoiser,
        x: Tensor,
        y: Tensor | None = None,
        randn_like: RandnLike = torch.randn_like,
        *,
        start: int | None = None,
    ) -> Iterator[Tensor]:
        """Yield x after every step down."""
        stages = [0, *self.stages(denoiser.process.T, start)]
        places = self.places(len(stages) - 1)
        for here, there in pairwise(places):
            t, s = stages[here], stages[there]
            if s < t:
                above = stages[here + 1] if here + 1 < len(stages) else None
                x = self.move(denoiser, x, y, t, s, above, randn_like)
                yield x
            else:
                x = denoiser.process.rise(x, t, s, randn_like(x))

    def move(
        self,
        denoiser: Denoiser,
        x: Tensor,
        y: Tensor | None,
        t: int,
        s: int,
        above: int | None,
        randn_like: RandnLike,
    ) -> Tensor:
        """The other sampler's."""
        return self.sampler.move(denoiser, x, y, t, s, above, randn_like)
