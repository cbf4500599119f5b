"""Heun's second-order method on the probability-flow ODE (Karras et al. 2022, arXiv 2206.00364, algorithm 1)."""

from __future__ import annotations

from torch import Tensor

from ddpm_lab.diffusion.coefficients import Transition, affine
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.errors import UserError
from ddpm_lab.samplers.sampler import RandnLike, Sampler, Step


class Heun(Sampler):
    """In x / a over sigma / a, where d(x / a) / d(sigma / a) = eps: an Euler step, and again with the mean of both ends' eps.

    The step to the image is Euler's, and so is DDIM's every step. It starts where there is signal: sqrt(alpha_bar_T) > 0.
    """

    calls_per_step = 2

    @property
    def deterministic(self) -> bool:
        """An ODE's solver."""
        return True

    def begin(self, denoiser: Denoiser, y: Tensor | None, randn_like: RandnLike) -> Step:
        """Two questions of the network, at both ends of the step."""

        def step(x: Tensor, to: Transition) -> Tensor:
            if to.t.signal == 0:
                raise UserError(
                    "sampler=heun follows x / sqrt(alpha_bar), and this schedule ends in pure noise, where that is infinite: "
                    "take sampler=ddim or dpm_solver_pp, or a walk that starts below T"
                )
            here = denoiser.estimate(x, to.t, y, clip=self.clip)
            x_s = affine(to.s.signal, here.x_0, to.s.noise, here.noise)
            if to.s.t == 0:
                return x_s
            there = denoiser.estimate(x_s, to.s, y, clip=self.clip)
            stretch = to.s.signal / to.t.signal
            return affine(stretch, x, to.s.noise - stretch * to.t.noise, (here.noise + there.noise) / 2)

        return step
