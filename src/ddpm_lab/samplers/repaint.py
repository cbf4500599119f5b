"""RePaint: inpainting whose two parts agree, by going back up again and again (Lugmayr et al. 2022)."""

from __future__ import annotations

from collections import deque
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
    Raises ValueError unless both are positive, and for a sampler that is more than its moves: one that walks in its own way,
    or, once it moves, that keeps images from step to step, which are no longer those above once a walk has gone up again.
    """

    def __init__(self, sampler: Sampler, jump_length: int = 10, resamples: int = 10) -> None:
        super().__init__(sampler.steps, sampler.spacing, sampler.clip)
        own = [part for part in ("walk", "__call__") if getattr(type(sampler), part) is not getattr(Sampler, part)]
        if own:
            raise UserError(
                f"RePaint takes single moves of another sampler, and {type(sampler).__name__} has a `{own[0]}` of its own: "
                f"take sampler=ancestral or ddim, or task.resamples=1, which walks as {type(sampler).__name__} does"
            )
        if jump_length < 1 or resamples < 1:
            raise UserError(
                "jump_length and resamples count steps and walks of them: both must be at least 1, got "
                f"jump_length={jump_length} and resamples={resamples}"
            )
        self.sampler = sampler
        self.jump_length = jump_length
        self.resamples = resamples

    def timesteps(self, T: int) -> list[int]:
        """The other sampler's."""
        return self.sampler.timesteps(T)

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
        kept = _images(self.sampler, x)
        x = self.sampler.move(denoiser, x, y, t, s, above, randn_like)
        if self.resamples > 1 and _images(self.sampler, x) - kept:
            raise UserError(
                f"{type(self.sampler).__name__} keeps images from step to step, and RePaint goes up again in between: take "
                f"sampler=ancestral or ddim, or task.resamples=1, which walks as {type(self.sampler).__name__} does"
            )
        return x


def _images(sampler: Sampler, x: Tensor) -> set[int]:
    """Which tensors of x's shape a sampler holds, itself or in a list, a tuple, a deque or a dict of it."""
    found = set()
    for value in vars(sampler).values():
        values = (
            value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, deque)) else [value]
        )
        found |= {id(held) for held in values if isinstance(held, Tensor) and held.shape == x.shape}
    return found
