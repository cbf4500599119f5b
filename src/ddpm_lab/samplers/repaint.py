"""RePaint: inpainting whose two parts agree, by going back up again and again (Lugmayr et al. 2022, arXiv 2201.09865)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ddpm_lab.diffusion.coefficients import levels_of, times_of
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.process import GaussianPath
from ddpm_lab.errors import UserError
from ddpm_lab.samplers.sampler import RandnLike, Sampler, Step


class RePaint(Sampler):
    """The steps of another sampler, in the order of RePaint's section 4.2: algorithm 1 around an `Inpainted` denoiser.

    Below every jump_length-th step the walk goes up again by jump_length steps, by noise, resamples - 1 times. So what is
    made up meets new noise of what is known, until both belong together. Above, the other sampler begins anew: what it
    remembers is of another x.

    resamples: r, how often each stretch is walked; 1 goes straight down. jump_length: j.
    Raises ValueError unless both are positive, and for a sampler that walks in its own way.
    """

    def __init__(self, sampler: Sampler, jump_length: int = 10, resamples: int = 10) -> None:
        super().__init__(sampler.steps, sampler.spacing, sampler.clip, sampler.given_times)
        own = [part for part in ("walk", "__call__") if getattr(type(sampler), part) is not getattr(Sampler, part)]
        if own:
            raise UserError(
                f"RePaint takes single steps of another sampler, and {type(sampler).__name__} has a `{own[0]}` of its own: "
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

    @property
    def deterministic(self) -> bool:
        """Without noise, where it never goes up."""
        return self.sampler.deterministic and self.resamples == 1

    def times(self, process: GaussianPath) -> list[float]:
        """The other sampler's."""
        return self.sampler.times(process)

    def calls(self, process: GaussianPath) -> int:
        """Of all steps down, of which one reaches the image."""
        places = self.places(len(self.times(process)))
        down = sum(there < here for here, there in pairwise(places))
        return self.sampler.calls_per_step * (down - 1) + 1

    def places(self, steps: int) -> list[int]:
        """Where a walk of so many steps stands, one after the other, as numbers of steps still below it: 0 is the image.

        As in the public code, the lowest jump sets out one step above the image, and none from the top. Raises ValueError
        where the walk is too short for a jump.
        """
        if self.resamples > 1 and self.jump_length >= steps:
            raise UserError(
                f"a walk of {steps} steps has no room for jumps of jump_length={self.jump_length}: take a shorter one, more "
                "steps, or resamples=1 for none"
            )
        left = dict.fromkeys(range(1, steps - self.jump_length + 1, self.jump_length), self.resamples - 1)
        places = [steps]
        while places[-1] > 0:
            place = places[-1] - 1
            places.append(place)
            if left.get(place, 0) > 0:
                left[place] -= 1
                places.append(place + self.jump_length)
        return places

    def begin(self, denoiser: Denoiser, y: Tensor | None, randn_like: RandnLike) -> Step:
        """The other sampler's."""
        return self.sampler.begin(denoiser, y, randn_like)

    @torch.no_grad()
    def walk(
        self,
        denoiser: Denoiser,
        x: Tensor,
        y: Tensor | None = None,
        randn_like: RandnLike = torch.randn_like,
        *,
        start: float | None = None,
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield (s, x_s) after every step down."""
        process = denoiser.process
        down = self.course(process, start)[::-1]  # down[k] ends where k steps are left
        ends = levels_of(process.at(times_of([0, *(to.t.t.item() for to in down)])))
        step = self.begin(denoiser, y, randn_like)
        for here, there in pairwise(self.places(len(down))):
            if there < here:
                x = step(x, down[there])
                yield down[there].s.t.item(), x
            else:
                x = process.forward_step(x, process.transition(ends[there], ends[here]), randn_like(x))
                step = self.begin(denoiser, y, randn_like)
