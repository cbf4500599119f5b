"""What a walk really asks its denoiser, whatever it is said to visit."""

from __future__ import annotations

from torch import Tensor

from ddpm_lab.diffusion.denoiser import Denoiser, Estimate
from ddpm_lab.diffusion.gaussian import Gaussian
from ddpm_lab.diffusion.guidance import Guided, Outputs
from ddpm_lab.diffusion.tables import Times
from ddpm_lab.errors import UserError


class Observed(Guided):
    """The denoiser itself, which remembers the first question since `first` was None: (x_t [B, C, H, W], t)."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.first: tuple[Tensor, Times] | None = None

    def estimate(self, x_t: Tensor, t: Times, y: Tensor | None = None, *, clip: bool) -> Estimate:
        """That of the denoiser inside."""
        self._remember(x_t, t)
        return self.denoiser.estimate(x_t, t, y, clip=clip)

    def outputs(self, x_t: Tensor, t: Times, y: Tensor | None = None) -> Outputs:
        """Those of the denoiser inside."""
        self._remember(x_t, t)
        return self.denoiser.outputs(x_t, t, y)

    def step(self, estimate: Estimate, x_t: Tensor, t: Times, s: Times, above: Times | None = None) -> Gaussian:
        """That of the denoiser inside."""
        return self.denoiser.step(estimate, x_t, t, s, above)

    @property
    def t(self) -> float | None:
        """The timestep of that question. Raises ValueError where images of one batch are at different ones."""
        if self.first is None:
            return None
        t = self.first[1]
        if not isinstance(t, Tensor):
            return t
        if (t != t.flatten()[0]).any():
            raise UserError("the images of this walk are at different timesteps: no one t is that of a stage")
        return t.flatten()[0].item()

    def _remember(self, x_t: Tensor, t: Times) -> None:
        if self.first is None:
            self.first = x_t, t
