"""DDIM: a first-order solver of the probability flow, and ancestral sampling at the other end of eta."""

import pytest
import torch

from ddpm_lab.diffusion.predictions import Epsilon, Prediction, Velocity
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import cosine
from ddpm_lab.diffusion.variances import FixedSmall
from ddpm_lab.samplers.ancestral import Ancestral
from ddpm_lab.samplers.ddim import DDIM
from ddpm_lab.samplers.spacings import Spacing
from tests.worlds import (
    PREDICTIONS,
    SCHEDULES,
    GaussianWorld,
    Replay,
    full,
    law_of,
    mixer,
    name,
    oracle,
    randn,
    slope,
)

STEPS = [20, 40, 80, 160]
WORLD = GaussianWorld.correlated()
FINE = Process(cosine(1000))


def images(count: int) -> torch.Tensor:
    """Draws of WORLD."""
    factor = torch.linalg.cholesky(WORLD.covariance)
    return WORLD.mean + (randn(count, 3, seed=5) @ factor.T).view(count, 1, 1, 3)


def test_without_noise_the_error_falls_with_order_one() -> None:
    """Against the exact flow of the Gaussian world."""
    model, x = oracle(WORLD, FINE), randn(8, 1, 1, 3)
    exact = WORLD.flow(x, FINE.alpha_bar[1000], FINE.alpha_bar[0])
    errors = [(DDIM(steps, clip=False)(model, x) - exact).abs().max().item() for steps in STEPS]
    assert -1.1 < slope(STEPS, errors) < -0.9
    assert errors[-1] < 0.015


def test_without_noise_the_covariance_tends_to_that_of_the_data_with_order_one() -> None:
    errors = []
    for steps in STEPS[:3]:
        mean, covariance = law_of(DDIM(steps, clip=False), oracle(WORLD, FINE), (1, 1, 3))
        torch.testing.assert_close(mean, WORLD.mean.flatten(), rtol=0, atol=1e-3)
        errors.append((covariance - WORLD.covariance).abs().max().item())
    assert -1.1 < slope(STEPS[:3], errors) < -0.9


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_any_eta_keeps_the_marginals_of_a_point(schedule: str, eta: float) -> None:
    """The non-Markovian processes of Song et al. share q(x_t | x_0): from its law at T, x_t has its law at every t."""
    process = Process(SCHEDULES[schedule](40))
    model, ends = oracle(GaussianWorld.isotropic(0.4, 0.0), process, Velocity()), [2, 9, 40]
    for last in range(2):
        # The walk's noise-to-x response up to x at ends[last], one unit of each noise at a time, as in law_of.
        rows = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double().view(4, 3, 1, 1, 1)
        ab = process.alpha_bar[40]
        start = ab.sqrt() * 0.4 + (1 - ab).sqrt() * rows[:, 0]
        sampler = DDIM(3, eta, lambda T, steps: ends, clip=False)
        xs = [x for _, x in sampler.walk(model, start, randn_like=Replay([rows[:, 1], rows[:, 2]]))]
        x, ab_t = xs[1 - last].flatten(), process.alpha_bar[ends[last]]
        torch.testing.assert_close(x[0], ab_t.sqrt() * 0.4)
        torch.testing.assert_close(((x[1:] - x[0]) ** 2).sum(), 1 - ab_t, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_data_of_a_single_point_is_followed_exactly_in_any_number_of_steps(steps: int) -> None:
    world, x = GaussianWorld.isotropic(0.4, 0.0), randn(4, 1, 1, 1)
    sampler, model = DDIM(steps, spacing=lambda T, steps: [*range(1, steps), T]), oracle(world, FINE)
    for s, x_s in sampler.walk(model, x):
        torch.testing.assert_close(x_s, world.flow(x, FINE.alpha_bar[1000], FINE.alpha_bar[s]), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("spacing", ["uniform", "quadratic", [5, 2]], ids=["uniform", "quadratic", "sections"])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
def test_eta_one_is_ancestral_sampling_with_fixed_small(
    prediction: Prediction, schedule: str, clip: bool, spacing: Spacing
) -> None:
    """The same noise leads through the same x, step by step, for any network."""
    model, x = mixer(Process(SCHEDULES[schedule](40)), prediction, FixedSmall()), randn(2, 2, 2, 2)
    noises = [randn(2, 2, 2, 2, seed=k) for k in range(7)]
    ddim = [x_s for _, x_s in DDIM(7, 1.0, spacing, clip).walk(model, x, randn_like=Replay(noises))]
    ancestral = [x_s for _, x_s in Ancestral(7, spacing, clip).walk(model, x, randn_like=Replay(noises))]
    for ours, theirs in zip(ddim, ancestral, strict=True):
        # 1 - ab_s - sigma^2 is 0 at jsd's first step, and its root keeps half the digits of its rounding.
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("eta", [0.25, 0.5, 1.0])
def test_eta_scales_the_standard_deviation(eta: float) -> None:
    """Not the variance: eta = 0.5 halves the noise of a step (equation 16)."""
    model, x = mixer(Process(cosine(40)), Epsilon(), FixedSmall()), randn(1, 2, 1, 1)
    one, none = (
        next(DDIM(7, eta, clip=False).walk(model, x, randn_like=Replay([torch.full_like(x, unit)])))[1]
        for unit in (1.0, 0.0)
    )
    chosen = DDIM(7).times(model.process)
    ab_t, ab_s = model.process.alpha_bar[chosen[-1]], model.process.alpha_bar[chosen[-2]]
    sigma = eta * ((1 - ab_s) / (1 - ab_t)).sqrt() * (1 - ab_t / ab_s).sqrt()
    torch.testing.assert_close(one - none, sigma.expand_as(x), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_eta_outside_0_to_1_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match=f"got {eta}; take 0 to 1"):
        DDIM(10, eta=eta)


def test_inversion_and_decoding_return_to_the_image_with_order_one() -> None:
    model, x_0 = oracle(WORLD, FINE), images(8)
    errors = []
    for steps in STEPS:
        sampler = DDIM(steps, clip=False)
        errors.append((sampler(model, sampler.invert(model, x_0)) - x_0).abs().max().item())
    assert -1.1 < slope(STEPS, errors) < -0.9
    assert errors[-1] < 0.03


def test_inversion_follows_the_flow_upwards_with_order_one() -> None:
    model, x = oracle(WORLD, FINE), images(8)
    exact = WORLD.flow(x, FINE.alpha_bar[1], FINE.alpha_bar[1000])
    errors = [(DDIM(steps, clip=False).invert(model, x) - exact).abs().max().item() for steps in STEPS]
    assert -1.1 < slope(STEPS, errors) < -0.88


def test_inversion_is_the_line_of_the_estimate_towards_more_noise() -> None:
    """x_s = sqrt(ab_s) x_0 + sqrt(1 - ab_s) eps with s > t, from the walk's first timestep to its last."""
    process = Process(cosine(40))
    model, x, y = mixer(process, Epsilon(), FixedSmall()), randn(3, 2, 2, 2), torch.arange(3)
    sampler = DDIM(7)
    chosen = sampler.times(model.process)
    xs = [x, *(x_s for _, x_s in sampler.walk_up(model, x, y))]
    assert len(xs) == 7
    for t, s, before, after in zip(chosen[:-1], chosen[1:], xs[:-1], xs[1:], strict=True):
        estimate = model.estimate(before, full(3, t), y, clip=True)
        torch.testing.assert_close(after, process.diffuse(estimate.x_0, full(3, s), estimate.noise))
    assert torch.equal(sampler.invert(model, x, y), xs[-1])
