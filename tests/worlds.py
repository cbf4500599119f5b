"""Worlds with a closed-form denoiser, so that losses, bounds and samplers have exact numbers to meet.

Data x_0 ~ N(mean, covariance) over the C*H*W numbers of an image. Every formula here is written from alpha_bar alone,
by hand: nothing that a test could compare with itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ddpm_lab.diffusion import schedules
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.predictions import Epsilon, Prediction, PreviousMean, Start, Velocity
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.variances import FixedLarge, FixedSmall, Learned, LearnedRange, Variance
from ddpm_lab.samplers.sampler import Sampler

SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "linear": schedules.linear,
    "cosine": schedules.cosine,
    "quadratic": schedules.quadratic,
    "constant": schedules.constant,
    "warmup": schedules.warmup,
    "jsd": schedules.jsd,
    "sigmoid": schedules.sigmoid,
}
PREDICTIONS: list[Prediction] = [Epsilon(), Start(), Velocity(), PreviousMean()]
VARIANCES: list[Variance] = [FixedSmall(), FixedLarge(), Learned(), LearnedRange()]


def name(part: object) -> str:
    """For pytest's ids."""
    return getattr(part, "__name__", None) or (part if isinstance(part, str) else type(part).__name__)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def full(batch: int, value: int) -> Tensor:
    return torch.full((batch,), value)


def respaced(process: Process, chosen: list[int]) -> Process:
    """The chain of its own that visits only the chosen timesteps of `process`."""
    alpha_bar = process.alpha_bar[[0, *chosen]]
    return Process(1 - alpha_bar[1:] / alpha_bar[:-1])


class GaussianWorld:
    """x_0 ~ N(mean, covariance). mean: [C, H, W] float64; covariance: [D, D] with D = C*H*W, its factors in `axes`."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.mean = mean
        self.covariance = covariance
        self.variances, self.axes = torch.linalg.eigh(covariance)
        self.variances = self.variances.clamp(min=0)  # of a point world

    @classmethod
    def isotropic(cls, mean: float, std: float, shape: tuple[int, int, int] = (1, 1, 1)) -> GaussianWorld:
        D = shape[0] * shape[1] * shape[2]
        return cls(torch.full(shape, mean, dtype=torch.float64), std**2 * torch.eye(D, dtype=torch.float64))

    @classmethod
    def correlated(cls) -> GaussianWorld:
        """Three numbers of unlike variances and strong correlation."""
        factor = torch.tensor([[0.5, 0.0, 0.0], [0.4, 0.2, 0.0], [-0.3, 0.1, 0.6]], dtype=torch.float64)
        return cls(torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64).view(1, 1, 3), factor @ factor.T)

    def along_axes(self, x: Tensor, factors: Tensor) -> Tensor:
        """Multiply x [B, C, H, W] by factors [B, D] along the principal axes."""
        return ((x.flatten(1) @ self.axes * factors) @ self.axes.T).view_as(x)

    def x_0(self, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
        """E[x_0 | x_t]: mean + sqrt(ab) S (ab S + (1 - ab) I)^-1 (x_t - sqrt(ab) mean)."""
        ab = alpha_bar.view(-1, 1)
        gain = ab.sqrt() * self.variances / (ab * self.variances + 1 - ab)
        return self.mean + self.along_axes(x_t - ab.sqrt().view(-1, 1, 1, 1) * self.mean, gain)

    def flow(self, x_t: Tensor, alpha_bar_t: Tensor, alpha_bar_s: Tensor) -> Tensor:
        """Follow the probability flow of the continuous process exactly: every marginal's z-score is conserved.

        x_t: [B, C, H, W]; alpha_bar_t, alpha_bar_s: scalars.
        """
        ratio = (alpha_bar_s * self.variances + 1 - alpha_bar_s) / (alpha_bar_t * self.variances + 1 - alpha_bar_t)
        return alpha_bar_s.sqrt() * self.mean + self.along_axes(x_t - alpha_bar_t.sqrt() * self.mean, ratio.sqrt())


class Oracle(nn.Module):
    """The network that returns E[target | x_t] of a Gaussian world, for the prediction it is asked for.

    exact_variance: a second head with the log of the true Var(x_s | x_t), s = t - 1 unless `chain` names another walk
    (isotropic worlds only, where that variance is one number).
    """

    def __init__(
        self,
        world: GaussianWorld,
        process: Process,
        prediction: Prediction,
        exact_variance: bool = False,
        chain: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.world = world
        self.alpha_bar = process.alpha_bar
        self.prediction = type(prediction)
        self.exact_variance = exact_variance
        chain = list(range(1, process.T + 1)) if chain is None else chain
        self.below = dict(zip(chain, [0, *chain[:-1]], strict=True))

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        t = time.round().long() + 1
        ab = self.alpha_bar[t].view(-1, 1, 1, 1)
        previous = self.alpha_bar[t - 1].view(-1, 1, 1, 1)
        x_0 = self.world.x_0(x, ab.flatten())
        noise = (x - ab.sqrt() * x_0) / (1 - ab).sqrt()
        alpha = ab / previous
        output = {
            Epsilon: noise,
            Start: x_0,
            Velocity: ab.sqrt() * noise - (1 - ab).sqrt() * x_0,
            PreviousMean: (previous.sqrt() * (1 - alpha) * x_0 + alpha.sqrt() * (1 - previous) * x) / (1 - ab),
        }[self.prediction]
        if not self.exact_variance:
            return output
        s = torch.tensor([self.below[int(step)] for step in t])
        log_variance = reverse_variance(self.alpha_bar, t, s, self.world.variances[0]).log()
        return torch.cat([output, log_variance.view(-1, 1, 1, 1).expand_as(x)], dim=1)


def start_variance(alpha_bar: Tensor, t: Tensor, variance: Tensor) -> Tensor:
    """Var(x_0 | x_t) of one number whose variance is `variance`: 1 / (1 / variance + snr), [B]."""
    ab = alpha_bar[t]
    return variance * (1 - ab) / (ab * variance + 1 - ab)


def reverse_variance(alpha_bar: Tensor, t: Tensor, s: Tensor, variance: Tensor) -> Tensor:
    """Var(x_s | x_t) = Var(x_s) - Cov(x_s, x_t)^2 / Var(x_t) of one number whose variance is `variance`, [B]."""
    ab_t, ab_s = alpha_bar[t], alpha_bar[s]
    of_s, of_t = ab_s * variance + 1 - ab_s, ab_t * variance + 1 - ab_t
    return of_s - (ab_t / ab_s) * of_s**2 / of_t


def oracle(
    world: GaussianWorld,
    process: Process,
    prediction: Prediction | None = None,
    variance: Variance | None = None,
    chain: list[int] | None = None,
) -> Denoiser:
    """The perfect denoiser of a world; a `Learned` variance is the true one."""
    prediction = Epsilon() if prediction is None else prediction
    variance = FixedSmall() if variance is None else variance
    network = Oracle(world, process, prediction, isinstance(variance, Learned), chain)
    return Denoiser(network, process, prediction, variance)


class Mixer(nn.Module):
    """A small network with no meaning, that depends on x, its time and y. Both heads have weights of their own."""

    def __init__(self, channels: int, heads: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.mean = nn.Parameter(0.5 * randn(channels, channels, seed=seed, dtype=dtype))
        self.raw = nn.Parameter(0.5 * randn(channels, channels, seed=seed + 1, dtype=dtype)) if heads == 2 else None

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        x = torch.tanh(x) + torch.cos(time / 100).view(-1, 1, 1, 1)
        if y is not None:
            x = x + 0.1 * y.view(-1, 1, 1, 1)
        weights = [self.mean] if self.raw is None else [self.mean, self.raw]
        return torch.cat([torch.einsum("oc,bchw->bohw", weight, x) for weight in weights], dim=1)


def mixer(
    process: Process,
    prediction: Prediction,
    variance: Variance,
    channels: int = 2,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Denoiser:
    return Denoiser(Mixer(channels, variance.heads, seed, dtype), process, prediction, variance)


class Replay:
    """A randn_like that returns prepared noise, call by call, and counts its calls."""

    def __init__(self, noises: list[Tensor]) -> None:
        self.noises: Iterator[Tensor] = iter(noises)
        self.calls = 0

    def __call__(self, like: Tensor) -> Tensor:
        self.calls += 1
        noise = next(self.noises)
        assert noise.shape == like.shape
        return noise


def law_of(sampler: Sampler, denoiser: Denoiser, shape: tuple[int, int, int], start_std: float = 1.0) -> tuple:
    """(mean [D], covariance [D, D]) of what an unclipped walk ends with, exactly and without a draw.

    Where the network is affine in x, so is the walk in x_T and each step's noise. Row 0 of the batch walks without
    noise and ends at the mean; the others get one unit of one of these noises, and what that moves is a column of the
    factor of the covariance.
    """
    D = shape[0] * shape[1] * shape[2]
    steps = len(sampler.times(denoiser.process))
    impulses = torch.eye(steps * D, dtype=torch.float64).view(steps * D, steps, *shape)
    rows = torch.cat([torch.zeros(1, steps, *shape, dtype=torch.float64), impulses])
    # The last step draws none, so x_T takes the first slot and steps - 1 draws the rest.
    ends = sampler(denoiser, start_std * rows[:, 0], randn_like=Replay(list(rows[:, 1:].unbind(1)))).flatten(1)
    responses = ends[1:] - ends[0]
    return ends[0], responses.T @ responses


def slope(sizes: list[float], errors: list[float]) -> float:
    """The exponent p of errors ~ sizes^p, by least squares in the logarithms."""
    x, y = torch.tensor(sizes).double().log(), torch.tensor(errors).double().log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())
