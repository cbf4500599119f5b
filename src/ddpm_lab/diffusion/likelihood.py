"""The variational bound on -log p(x_0), in bits per dimension (Ho et al. 2020, equation 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_lab.diffusion.denoiser import Denoiser, Estimate
from ddpm_lab.diffusion.gaussian import standard_normal
from ddpm_lab.diffusion.process import GaussianPath, Time


def bits(nats: Tensor) -> Tensor:
    """Nats per element [B, C, H, W] -> bits per dimension [B]."""
    return nats.flatten(1).mean(1) / math.log(2)


def vlb_term(
    denoiser: Denoiser,
    estimate: Estimate,
    x_0: Tensor,
    x_t: Tensor,
    t: Time,
    s: Tensor | None = None,
    previous: Tensor | None = None,
) -> Tensor:
    """L_{t-1} of equation 5 in bits per dimension, [B].

    KL(q(x_s | x_t, x_0) || p(x_s | x_t)) for s > 0, and -log p(x_0 | x_t), the discretised decoder, for s = 0.
    x_0, x_t: [B, C, H, W]; t, s, previous: [B]; s = t - 1 if not given.
    """
    level = denoiser.process.at(t)
    s = level.t - 1 if s is None else s
    p = denoiser.reverse(estimate, x_t, denoiser.process.transition(level, s, previous))
    kl = bits(denoiser.process.posterior(x_0, x_t, level, s).kl(p))
    decoder = -bits(p.discretized_log_prob(x_0))
    return torch.where(s == 0, decoder, kl)


def prior_term(process: GaussianPath, x_0: Tensor, last: int | None = None) -> Tensor:
    """KL(q(x_last | x_0) || N(0, I)) in bits per dimension, [B]. last: where the chain ends, T if not given."""
    t = torch.full((len(x_0),), process.T if last is None else last, device=x_0.device)
    return bits(process.marginal(x_0, t).kl(standard_normal(x_0)))


MOST_AT_T = (
    0.05  # sqrt(alpha_bar_T): .006 of Ho et al., .03 of their code's quadratic; .07 shows (Lin et al. 2024, table 1)
)


def check_schedule(process: GaussianPath, x_0: Tensor | None = None) -> str | None:
    """A sentence about a schedule that leaves signal at T, with the prior term of images x_0 [B, C, H, W].

    Of none it is that of data of unit variance, -log2(1 - alpha_bar_T) / 2.
    """
    alpha_bar = process.alpha_bar_at(torch.tensor(process.T)).item()
    if alpha_bar**0.5 <= MOST_AT_T:
        return None
    if x_0 is None:
        cost, whose = -0.5 * math.log2(1 - alpha_bar), "of data of unit variance"
    else:
        cost, whose = prior_term(process, x_0).mean().item(), f"of {len(x_0)} images"
    return (
        f"the schedule leaves sqrt(alpha_bar_T) = {alpha_bar**0.5:.2g} of the image at T = {process.T}, and sampling starts "
        f"from noise without it, which the model has not met in training; the prior term {whose} is {cost:.2g} bits/dim"
    )


class BitsPerDim(NamedTuple):
    """The whole bound for a batch of images, term by term; all but the errors in bits per dimension.

    total [B] = vlb summed over its terms + prior [B]. Column k of vlb, x_0_mse and noise_mse [B, K] belongs to timesteps[k].
    """

    total: Tensor
    prior: Tensor
    vlb: Tensor
    x_0_mse: Tensor
    noise_mse: Tensor
    timesteps: list[int]


@torch.no_grad()
def bits_per_dim(
    denoiser: Denoiser,
    x_0: Tensor,
    y: Tensor | None = None,
    *,
    clip: bool = True,
    timesteps: Sequence[int] | None = None,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
    pairs: int = 1,
) -> BitsPerDim:
    """Evaluate the variational bound of a chain: the sum of its terms plus the prior. x_0: [B, C, H, W] in [-1, 1].

    timesteps: the ascending timesteps of the chain, all of 1..T if not given. A strided chain has a bound of its own.
    randn_like: draws the noise of each timestep, from the last to the first. pairs: how many (image, t) pairs go through
    the network at once; at least B do.
    """
    chain = list(timesteps) if timesteps is not None else list(range(1, int(denoiser.process.T) + 1))
    below = [0, *chain[:-1]]
    above = [*chain[1:], chain[-1]]
    B, K = len(x_0), len(chain)
    terms, x_0_errors, noise_errors = (torch.empty(B, K, dtype=x_0.dtype, device=x_0.device) for _ in range(3))
    width = max(1, pairs // B)
    for stop in range(K, 0, -width):
        columns = list(range(stop - 1, max(stop - width, 0) - 1, -1))
        noise = torch.cat([randn_like(x_0) for _ in columns])
        x = x_0.repeat(len(columns), 1, 1, 1)
        labels = None if y is None else torch.cat([y] * len(columns))

        def times(values: Sequence[int], columns: list[int] = columns) -> Tensor:
            return torch.tensor([values[k] for k in columns], device=x_0.device).repeat_interleave(B)

        t, s = times(chain), times(below)
        x_t = denoiser.process.diffuse(x, t, noise)
        estimate = denoiser.estimate(x_t, t, labels, clip=clip)
        term = vlb_term(denoiser, estimate, x, x_t, t, s, times(above))
        terms[:, columns] = term.view(-1, B).T
        x_0_errors[:, columns] = mse(estimate.x_0, x).view(-1, B).T
        noise_errors[:, columns] = mse(estimate.noise, noise).view(-1, B).T
    prior = prior_term(denoiser.process, x_0, chain[-1])
    return BitsPerDim(terms.sum(1) + prior, prior, terms, x_0_errors, noise_errors, chain)


def importance(
    denoiser: Denoiser,
    x_0: Tensor,
    y: Tensor | None = None,
    *,
    randn_like: Callable[[Tensor], Tensor],
    clip: bool = True,
    points: int = 40,
) -> Tensor:
    """Probabilities over t = 1..T, [T] float64 on the CPU, about proportional to the size of the bound's terms.

    A pilot: the terms of a few images x_0 [B, C, H, W] at t = 1, the decoder's, and at `points` timesteps above it,
    interpolated in log t, and mixed with 5 % of uniform so that no weight of `estimate_bits_per_dim` is large. Any
    probabilities leave that unbiased; good ones make it precise (Nichol & Dhariwal 2021, section 3.3). randn_like: must
    share no noise with the estimate.
    """
    T = int(denoiser.process.T)
    if T == 1:
        return torch.ones(1, dtype=torch.float64)
    above = torch.logspace(math.log10(2), math.log10(T), points, dtype=torch.float64).round().long().clamp(max=T)
    grid = torch.cat([torch.ones(1, dtype=torch.int64), above.unique()])
    times = [torch.full((len(x_0),), int(t), device=x_0.device) for t in grid]
    terms = torch.stack([_term(denoiser, x_0, y, t, clip, randn_like).cpu().double() for t in times])
    size = (terms**2).mean(1).sqrt().clamp(min=1e-12)
    t = torch.arange(1, T + 1)
    right = torch.searchsorted(grid, t).clamp(min=1)
    left = right - 1
    place = (t.log() - grid[left].log()) / (grid[right].log() - grid[left].log())
    p = torch.exp(size[left].log() * (1 - place) + size[right].log() * place)
    return 0.95 * p / p.sum() + 0.05 / T


class EstimatedBitsPerDim(NamedTuple):
    """An estimate of the bound for a batch of images, each field [B] in bits per dimension.

    total and decoder, the term t = 1 within it: unbiased. prior: exact.
    """

    total: Tensor
    prior: Tensor
    decoder: Tensor


def estimate_bits_per_dim(
    denoiser: Denoiser,
    x_0: Tensor,
    y: Tensor | None = None,
    *,
    probabilities: Tensor,
    draws: int,
    randn_like: Callable[[Tensor], Tensor],
    uniform: Callable[[], Tensor],
    clip: bool = True,
) -> EstimatedBitsPerDim:
    """An unbiased estimate of the whole bound for each image x_0 [B, C, H, W], from `draws` network calls each.

    The terms at `draws` timesteps from `probabilities` [T] float64 on the CPU (see `importance`), one from each of as many
    equal parts of the probability, each divided by draws times its probability.

    randn_like: draws the noise of a network call. uniform: draws a number in [0, 1) for each image, [B] float64 on the CPU.
    """
    T = int(denoiser.process.T)
    prior = prior_term(denoiser.process, x_0)
    total, decoder = prior, torch.zeros_like(prior)
    cumulative = probabilities.cumsum(0)
    for k in range(draws):
        index = torch.searchsorted(cumulative, (k + uniform()) / draws, right=True).clamp(max=T - 1)
        weight = (1 / (draws * probabilities[index])).to(x_0.dtype).to(x_0.device)
        t = (index + 1).to(x_0.device)
        term = weight * _term(denoiser, x_0, y, t, clip, randn_like)
        total = total + term
        decoder = decoder + torch.where(t == 1, term, 0)
    return EstimatedBitsPerDim(total, prior, decoder)


@torch.no_grad()
def _term(
    denoiser: Denoiser,
    x_0: Tensor,
    y: Tensor | None,
    t: Tensor,
    clip: bool,
    randn_like: Callable[[Tensor], Tensor],
) -> Tensor:
    x_t = denoiser.process.diffuse(x_0, t, randn_like(x_0))
    return vlb_term(denoiser, denoiser.estimate(x_t, t, y, clip=clip), x_0, x_t, t)


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference over all but the batch, [B]."""
    return ((a - b) ** 2).flatten(1).mean(1)
