"""A stored network output in place of a network, so that the arithmetic is tested apart from any network."""

from torch import Tensor, nn

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.predictions import Epsilon, PreviousMean, Start
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import cosine, linear
from ddpm_lab.diffusion.variances import FixedLarge, FixedSmall, Learned, LearnedRange

SCHEDULES = {"linear": linear, "cosine": cosine}
PREDICTIONS = {"EPSILON": Epsilon, "START_X": Start, "PREVIOUS_X": PreviousMean}
VARIANCES = {
    "LEARNED": Learned,
    "LEARNED_RANGE": LearnedRange,
    "FIXED_SMALL": FixedSmall,
    "FIXED_LARGE": FixedLarge,
}


class Replay(nn.Module):
    """Returns the stored outputs one after the other, and remembers the times it was called with."""

    def __init__(self, *outputs: Tensor) -> None:
        super().__init__()
        self.outputs = list(outputs)
        self.times: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.times.append(t)
        return self.outputs[(len(self.times) - 1) % len(self.outputs)]


def denoiser(
    process: Process, variance: str, prediction: str, *outputs: Tensor, time_scale: float = 1.0
) -> tuple[Denoiser, Replay]:
    kind = VARIANCES[variance]()
    network = Replay(*(output[:, : output.shape[1] // 2 * kind.heads] for output in outputs))  # stored with both heads
    return Denoiser(network, process, PREDICTIONS[prediction](), kind, time_scale), network


class NoiseOf:
    """randn_like that hands out stored noise in order."""

    def __init__(self, noise: Tensor) -> None:
        self.noise = iter(noise)

    def __call__(self, like: Tensor) -> Tensor:
        drawn = next(self.noise)
        assert drawn.shape == like.shape
        return drawn
