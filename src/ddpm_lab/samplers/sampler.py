"""What every sampler is: a walk from noise to an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ddpm_lab.diffusion.coefficients import Transition, times_of, transitions_of
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.guidance import Guided
from ddpm_lab.diffusion.process import GaussianPath
from ddpm_lab.errors import UserError, brief
from ddpm_lab.samplers.spacings import Spacing, explicit, spaced
from ddpm_lab.wording import counted

RandnLike = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, Transition], Tensor]  # x_t [B, C, H, W], and what is known of t and s -> x_s
MOST_AT_START = 0.1  # spacings that end one stride below T leave less, unless their strides are long


class Sampler(ABC):
    """Walks x [B, C, H, W] down some times; keeps no state, and takes its randomness as an argument.

    A new one is its `begin`: what a step does, and in its variables what a walk remembers.

    steps: how many, all T if None. spacing: which, see samplers/spacings.py. times: the ascending times themselves, instead.
    clip: clamp every estimate of x_0 to [-1, 1].
    """

    calls_per_step = 1  # network calls of a step to s > 0; one to the image makes one

    def __init__(
        self,
        steps: int | None = None,
        spacing: Spacing = "uniform",
        clip: bool = True,
        times: Sequence[float] | None = None,
    ) -> None:
        self.steps = steps
        self.spacing = spacing
        self.clip = clip
        self.given_times = times

    @property
    def deterministic(self) -> bool:
        """Whether an image follows from its first noise alone."""
        return False

    def times(self, process: GaussianPath) -> list[float]:
        """The ascending times that a walk visits, integers or reals. Raises ValueError if the process has too few."""
        if self.given_times is not None:
            return explicit(process, self.given_times)
        return spaced(process, self.steps, self.spacing)

    def calls(self, process: GaussianPath) -> int:
        """How often a whole walk asks the network."""
        return self.calls_per_step * (len(self.times(process)) - 1) + 1

    def course(self, process: GaussianPath, start: float | None = None) -> list[Transition]:
        """The steps of a walk that sets out at `start`, one of `times`; the last if None.

        Raises ValueError for a start where no step of the walk begins; `nearest` finds one.
        """
        chosen = self.times(process)
        if start is not None:
            if start not in chosen:
                raise UserError(
                    f"a walk of {len(chosen)} steps has none that starts at t={start}; near it: {self.nearest(process, start)}"
                )
            chosen = chosen[: chosen.index(start) + 1]
        down = times_of([0, *chosen]).flip(0)
        t, s, previous = down[:-1], down[1:], torch.cat([down[:1] + 1, down[:-2]])
        return transitions_of(process.transition(t, s, previous))

    def nearest(self, process: GaussianPath, t: float) -> float:
        """The time of the walk, or 0 for the image itself, that is nearest to t."""
        return min([0, *self.times(process)], key=lambda time: abs(time - t))

    @abstractmethod
    def begin(self, denoiser: Denoiser, y: Tensor | None, randn_like: RandnLike) -> Step:
        """What takes the steps of one walk, each from the last one's end; what it remembers of them is its own.

        It is called without gradients, and draws noise only where that is used. A walk that goes back up begins anew.
        """

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
        """Yield (s, x_s) after every step, the image at s = 0 last. x: standard normal; y: labels [B] or None.

        start: a time of the walk to set out from, where x is x_start; None: the last, as all walks do that begin in noise.
        """
        step = self.begin(denoiser, y, randn_like)
        for transition in self.course(denoiser.process, start):
            x = step(x, transition)
            yield transition.s.t.item(), x

    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        y: Tensor | None = None,
        randn_like: RandnLike = torch.randn_like,
        *,
        start: float | None = None,
    ) -> Tensor:
        """Return the image that the walk ends with."""
        image = x
        for _, image in self.walk(denoiser, x, y, randn_like, start=start):  # noqa: B007 (keeps one x alive, not all)
            pass
        return image


def start_signal(sampler: Sampler, process: GaussianPath) -> float:
    """sqrt(alpha_bar_t) where walks of the sampler start: how much of an image should be in what they start from."""
    return process.at(times_of([sampler.times(process)[-1]])).signal.item()


def check_guidance(sampler: Sampler, denoiser: Denoiser, start: float | None = None) -> str | None:
    """A sentence about a guidance that acts at no time of the sampler's walks from `start`, of whole ones if None."""
    visited = [t for t in sampler.times(denoiser.process) if start is None or t <= start]
    inside: object = denoiser
    while isinstance(inside, Guided):
        if not inside.acts_at(times_of(visited)).any():
            return (
                f"{type(inside).__name__} acts at none of the {counted(len(visited), 'time')} {brief(visited)} that a walk of "
                f"{type(sampler).__name__} visits, and the images are those without it: take another guidance.interval or "
                "guidance.min_alpha_bar, or more steps"
            )
        inside = inside.denoiser
    return None


def check_start(sampler: Sampler, process: GaussianPath) -> str | None:
    """A sentence about a sampler whose walks start where an image should be left, beyond what the schedule leaves at T."""
    t, signal = sampler.times(process)[-1], start_signal(sampler, process)
    if signal - process.at(times_of([process.T])).signal.item() <= MOST_AT_START:
        return None
    return (
        f"the walk of {type(sampler).__name__} starts at t = {t:g} of T = {process.T}, where sqrt(alpha_bar_t) = {signal:.2g} "
        "of an image should be left, and gets pure noise there: take sampler.spacing=uniform, or one that ends nearer to T"
    )
