"""What every sampler is: a walk from noise to an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.guidance import Guided
from ddpm_lab.diffusion.process import Process
from ddpm_lab.errors import UserError, brief
from ddpm_lab.samplers.spacings import Spacing, pairs, walked

RandnLike = Callable[[Tensor], Tensor]
MOST_AT_START = 0.1  # spacings that end one stride below T leave less, unless their strides are long


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
        return walked(T, self.steps, self.spacing)

    def stages(self, T: int, start: int | None = None) -> list[int]:
        """The ascending timesteps of a walk that starts at `start`, one of `timesteps`; all of them if None.

        Raises ValueError for a start where no step of the walk begins; `nearest` finds one.
        """
        chosen = self.timesteps(T)
        if start is not None and start not in chosen:
            raise UserError(
                f"a walk of {len(chosen)} steps has none that starts at t={start}; near it: {self.nearest(T, start)}"
            )
        return chosen if start is None else chosen[: chosen.index(start) + 1]

    def nearest(self, T: int, t: float) -> int:
        """The timestep of the walk, or 0 for the image itself, that is nearest to t."""
        return min([0, *self.timesteps(T)], key=lambda stage: abs(stage - t))

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
        """Yield x after every step, the image last. x: standard normal; y: labels [B] or None.

        start: a timestep of the walk to set out from, where x is x_start; None: the last, as all walks do that begin
        in noise.
        """
        above = None
        for t, s in pairs(self.stages(denoiser.process.T, start)):
            x = self.move(denoiser, x, y, t, s, above, randn_like)
            yield x
            above = t

    @abstractmethod
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
        """x_s from x = x_t, s < t, by one network call; noise is drawn only where it is used. Called without gradients.

        above: the stage of the walk before t, None for its first; see Process.log_variance_bounds.
        """

    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        y: Tensor | None = None,
        randn_like: RandnLike = torch.randn_like,
        *,
        start: int | None = None,
    ) -> Tensor:
        """Return the image that the walk ends with."""
        image = x
        for image in self.walk(denoiser, x, y, randn_like, start=start):  # noqa: B007 (keeps one x alive, not all)
            pass
        return image


def start_signal(sampler: Sampler, process: Process) -> float:
    """sqrt(alpha_bar_t) where walks of the sampler start: how much of an image should be in what they start from."""
    return process.alpha_bar_at(sampler.timesteps(process.T)[-1]) ** 0.5


def check_guidance(sampler: Sampler, denoiser: Denoiser) -> str | None:
    """A sentence about a guidance that acts at no timestep of the sampler's walks."""
    visited = sampler.timesteps(denoiser.process.T)
    inside: object = denoiser
    while isinstance(inside, Guided):
        if not inside.acts_at(torch.tensor(visited)).any():
            return (
                f"{type(inside).__name__} acts at none of the {len(visited)} timesteps {brief(visited)} that a walk of "
                f"{type(sampler).__name__} visits, and the images are those without it: take another guidance.interval or "
                "guidance.min_alpha_bar, or more steps"
            )
        inside = inside.denoiser
    return None


def check_start(sampler: Sampler, process: Process) -> str | None:
    """A sentence about a sampler whose walks start where an image should be left, beyond what the schedule leaves at T."""
    t, signal = sampler.timesteps(process.T)[-1], start_signal(sampler, process)
    if signal - process.alpha_bar_at(process.T) ** 0.5 <= MOST_AT_START:
        return None
    return (
        f"the walk of {type(sampler).__name__} starts at t = {t} of T = {process.T}, where sqrt(alpha_bar_t) = {signal:.2g} of "
        "an image should be left, and gets pure noise there: take sampler.spacing=uniform, or one that ends nearer to T"
    )
