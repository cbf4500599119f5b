"""DPM-Solver++ of second order, multistep (Lu et al. 2022, arXiv 2211.01095, algorithm 2)."""

from __future__ import annotations

from torch import Tensor

from ddpm_lab.diffusion.coefficients import Transition, affine
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.samplers.sampler import RandnLike, Sampler, Step


class DPMSolverPP(Sampler):
    """x_s = sigma_s / sigma_t x_t - a_s (exp(-h) - 1) D, with h = lambda_s - lambda_t and lambda = ln(a / sigma).

    D extrapolates x_0 from the last two estimates, linearly in lambda. The first step and that to the image, where lambda is
    infinite, know but one: they are DDIM's.
    """

    @property
    def deterministic(self) -> bool:
        """An ODE's solver."""
        return True

    def begin(self, denoiser: Denoiser, y: Tensor | None, randn_like: RandnLike) -> Step:
        """One question a step; the last estimate and the last h are remembered."""
        before: tuple[Tensor, Tensor] | None = None  # x_0 [B, C, H, W], h []

        def step(x: Tensor, to: Transition) -> Tensor:
            nonlocal before
            x_0 = denoiser.estimate(x, to.t, y, clip=self.clip).x_0
            if to.s.t == 0:
                return x_0
            h = to.s.half_log_snr - to.t.half_log_snr
            D = x_0
            if before is not None:
                forward = h / (2 * before[1])  # 1 / (2 r)
                D = affine(1 + forward, x_0, -forward, before[0])
            before = x_0, h
            return affine(to.s.noise / to.t.noise, x, -to.s.signal * (-h).expm1(), D)

        return step
