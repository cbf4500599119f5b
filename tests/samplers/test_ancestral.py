"""Ancestral sampling, and what holds for every sampler that walks."""

import pytest
import torch

from ddpm_lab.diffusion.predictions import Epsilon, Prediction, Start, Velocity
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import cosine, linear
from ddpm_lab.diffusion.variances import FixedLarge, FixedSmall, Learned, LearnedRange, Variance
from ddpm_lab.samplers.ancestral import Ancestral
from ddpm_lab.samplers.ddim import DDIM
from ddpm_lab.samplers.sampler import Sampler
from ddpm_lab.samplers.spacings import Spacing
from tests.worlds import (
    PREDICTIONS,
    SCHEDULES,
    VARIANCES,
    GaussianWorld,
    Replay,
    full,
    law_of,
    mixer,
    name,
    oracle,
    randn,
    slope,
    start_variance,
)

SPACINGS: list[Spacing] = ["uniform", "quadratic", [5, 2]]
SAMPLERS: dict[str, Sampler] = {
    "ancestral": Ancestral(7),
    "ancestral, unclipped": Ancestral(7, clip=False),
    "ddim": DDIM(7),
    "ddim, eta 1": DDIM(7, eta=1.0),
}
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


def noises(count: int, *shape: int) -> list[torch.Tensor]:
    return [randn(*shape, seed=100 + k) for k in range(count)]


@each_sampler
def test_a_walk_yields_every_step_and_a_call_returns_the_last(sampler: Sampler) -> None:
    model, x = mixer(Process(cosine(40)), Epsilon(), FixedSmall()), randn(3, 2, 2, 2)
    walk = list(sampler.walk(model, x, randn_like=Replay(noises(7, 3, 2, 2, 2))))
    assert len(walk) == 7
    assert all(step.shape == x.shape for _, step in walk)
    assert [s for s, _ in walk] == [*reversed(sampler.times(model.process)[:-1]), 0]
    assert torch.equal(sampler(model, x, randn_like=Replay(noises(7, 3, 2, 2, 2))), walk[-1][1])


@pytest.mark.parametrize(
    ("sampler", "draws"),
    [
        (Ancestral(7), 6),
        (Ancestral(1), 0),
        (Ancestral(), 39),
        (DDIM(7), 0),
        (DDIM(7, eta=0.3), 6),
        (DDIM(1, eta=1.0), 0),
    ],
)
def test_noise_is_drawn_where_it_is_used_and_never_at_the_last_step(sampler: Sampler, draws: int) -> None:
    model, replay = mixer(Process(cosine(40)), Epsilon(), FixedSmall()), Replay(noises(40, 1, 2, 1, 1))
    sampler(model, randn(1, 2, 1, 1), randn_like=replay)
    assert replay.calls == draws


@each_sampler
def test_an_image_is_the_same_whatever_else_is_in_the_batch(sampler: Sampler) -> None:
    model, x, y = mixer(Process(cosine(40)), Epsilon(), LearnedRange()), randn(4, 2, 2, 2), torch.arange(4)
    together = sampler(model, x, y, Replay(noises(7, 4, 2, 2, 2)))
    alone = sampler(model, x[2:3], y[2:3], Replay([noise[2:3] for noise in noises(7, 4, 2, 2, 2)]))
    torch.testing.assert_close(together[2:3], alone)
    other_label = sampler(model, x[2:3], y[1:2], Replay([noise[2:3] for noise in noises(7, 4, 2, 2, 2)]))
    assert not torch.allclose(other_label, alone)


@each_sampler
def test_a_clipped_walk_ends_within_the_range_of_images_and_leaves_x_as_it_was(sampler: Sampler) -> None:
    model, x = mixer(Process(cosine(40)), Epsilon(), FixedSmall()), 5 * randn(3, 2, 2, 2)
    before = x.clone()
    image = sampler(model, x, randn_like=Replay(noises(7, 3, 2, 2, 2)))
    assert torch.equal(x, before)
    assert not image.requires_grad
    assert (image.abs().max() <= 1) == sampler.clip


@each_sampler
def test_more_steps_than_the_process_has_are_refused(sampler: Sampler) -> None:
    model = mixer(Process(cosine(5)), Epsilon(), FixedSmall())
    with pytest.raises(ValueError, match="steps=7 does not fit a process of T=5"):
        sampler(model, randn(1, 2, 1, 1))


@each_sampler
def test_the_walk_does_not_depend_on_what_the_network_predicts(sampler: Sampler) -> None:
    """Four perfect networks that say the same thing in four ways lead every x the same way."""
    world, process, x = GaussianWorld.correlated(), Process(linear(40)), randn(4, 1, 1, 3)
    walks = [
        torch.stack(
            [x_s for _, x_s in sampler.walk(oracle(world, process, p), x, randn_like=Replay(noises(7, 4, 1, 1, 3)))]
        )
        for p in PREDICTIONS
    ]
    for walk in walks[1:]:
        torch.testing.assert_close(walk, walks[0], rtol=1e-8, atol=1e-8)


@each_sampler
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_data_of_a_single_point_is_sampled_exactly_in_any_number_of_steps(schedule: str, sampler: Sampler) -> None:
    world = GaussianWorld.isotropic(0.4, 0.0, (1, 2, 2))
    model = oracle(world, Process(SCHEDULES[schedule](40)), Velocity())
    image = sampler(model, randn(2, 1, 2, 2), randn_like=Replay(noises(7, 2, 1, 2, 2)))
    torch.testing.assert_close(image, torch.full_like(image, 0.4))


@pytest.mark.parametrize("variance", VARIANCES, ids=name)
def test_a_step_is_a_draw_of_the_denoisers_gaussian(variance: Variance) -> None:
    model, x = mixer(Process(cosine(40)), Epsilon(), variance), randn(3, 2, 2, 2)
    walk = [x, *(x_s for _, x_s in Ancestral(7).walk(model, x, randn_like=Replay(noises(7, 3, 2, 2, 2))))]
    chosen = [0, *Ancestral(7).times(model.process)]
    for k, noise in zip(range(7), noises(7, 3, 2, 2, 2), strict=True):
        t, s = full(3, chosen[7 - k]), full(3, chosen[6 - k])
        p = model.step(model.estimate(walk[k], t, clip=True), walk[k], t, s)
        torch.testing.assert_close(walk[k + 1], p.sample(noise) if k < 6 else p.mean)


@pytest.mark.parametrize("spacing", SPACINGS, ids=["uniform", "quadratic", "sections"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_fixed_large_is_exact_for_standard_normal_data(schedule: str, spacing: Spacing) -> None:
    """Every x_s is then standard normal, and the last mean, sqrt(alpha_bar) x, has the variance alpha_bar."""
    process = Process(SCHEDULES[schedule](40))
    model = oracle(GaussianWorld.isotropic(0.0, 1.0), process, Start(), FixedLarge())
    sampler = Ancestral(7, spacing, clip=False)
    mean, covariance = law_of(sampler, model, (1, 1, 1))
    assert mean.abs().item() < 1e-12
    torch.testing.assert_close(covariance.squeeze(), process.alpha_bar[sampler.times(process)[0]])


@pytest.mark.parametrize("spacing", SPACINGS, ids=["uniform", "quadratic", "sections"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_true_reverse_variance_is_exact_in_any_number_of_steps(schedule: str, spacing: Spacing) -> None:
    """x_t1 then has its true law, and the last step takes E[x_0 | x_t1], which lacks Var(x_0 | x_t1)."""
    process, sampler = Process(SCHEDULES[schedule](40)), Ancestral(7, spacing, clip=False)
    chain, variance = sampler.times(process), torch.tensor(0.09, dtype=torch.float64)
    model = oracle(GaussianWorld.isotropic(0.0, 0.3), process, Start(), Learned(), chain)
    ab = process.alpha_bar[chain[-1]]
    _, covariance = law_of(sampler, model, (1, 1, 1), start_std=float(ab * variance + 1 - ab) ** 0.5)
    missing = start_variance(process.alpha_bar, torch.tensor(chain[0]), variance)
    torch.testing.assert_close(covariance.squeeze(), variance - missing, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("variance", [FixedSmall(), FixedLarge()], ids=name)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_mean_is_that_of_the_data_and_the_covariance_tends_to_it_with_order_one(
    schedule: str, variance: Variance
) -> None:
    world, lengths = GaussianWorld.correlated(), [50, 100, 200, 400]
    errors = []
    for T in lengths:
        model = oracle(world, Process(SCHEDULES[schedule](T)), Epsilon(), variance)
        mean, covariance = law_of(Ancestral(clip=False), model, (1, 1, 3))
        # What x_T = 0 lacks of the mean has decayed by then.
        torch.testing.assert_close(mean, world.mean.flatten(), rtol=0, atol=1e-5)
        errors.append((covariance - world.covariance).abs().max().item())
    assert errors[-1] < 0.04 * world.covariance.max()
    assert -1.15 < slope(lengths, errors) < -0.85


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
def test_samples_have_the_moments_of_the_data(prediction: Prediction) -> None:
    """The same in single precision and with real draws, within five standard errors and the bias measured above."""
    world, N = GaussianWorld.isotropic(0.2, 0.5, (1, 4, 4)), 500
    model = oracle(world, Process(cosine(100)), prediction, FixedSmall())
    torch.manual_seed(0)
    images = Ancestral(clip=False)(model, torch.randn(N, 1, 4, 4))
    count = N * 16
    assert images.dtype == torch.float32
    assert abs(images.mean().item() - 0.2) < 5 * 0.5 / count**0.5
    assert abs(images.var().item() - 0.25) < 5 * 0.25 * (2 / count) ** 0.5 + 0.02
