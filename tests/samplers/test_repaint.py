"""RePaint in a world of three correlated numbers, one of which is known."""

import itertools

import pytest
import torch
from torch import Tensor

from ddpm_lab.diffusion.guidance import Inpainted
from ddpm_lab.diffusion.predictions import Epsilon
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import cosine
from ddpm_lab.diffusion.variances import FixedSmall
from ddpm_lab.samplers.ancestral import Ancestral
from ddpm_lab.samplers.ddim import DDIM
from ddpm_lab.samplers.repaint import RePaint
from ddpm_lab.samplers.sampler import Sampler
from tests.worlds import GaussianWorld, Replay, mixer, name, oracle, randn

WORLD = GaussianWorld.correlated()
PROCESS = Process(cosine(100))
MASK = torch.tensor([True, False, False]).view(1, 1, 1, 3)
KNOWN = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).view(1, 1, 1, 3)


def conditional_mean() -> Tensor:
    """E[x_2, x_3 | x_1]: the regression on what is known."""
    S, mean = WORLD.covariance, WORLD.mean.flatten()
    return mean[1:] + S[1:, 0] / S[0, 0] * (KNOWN[0, 0, 0, 0] - mean[0])


def mean_of_result(sampler: Sampler) -> Tensor:
    """Exactly: the walk is affine in its noises, so that without them it ends at the mean."""
    model = Inpainted(oracle(WORLD, PROCESS), KNOWN, MASK)
    x = torch.zeros(1, 1, 1, 3, dtype=torch.float64)
    image = sampler(model, x, randn_like=torch.zeros_like).flatten()
    assert image[0] == 1.0
    return image[1:]


@pytest.mark.parametrize("sampler", [Ancestral(clip=False), DDIM(clip=False)], ids=name)
def test_resampling_finds_the_conditional_mean_that_plain_replacement_misses(sampler: Sampler) -> None:
    """Plain replacement goes half the way from the unconditional mean at best; resampling each step, all of it."""
    target = conditional_mean()
    whole = (target - WORLD.mean.flatten()[1:]).abs()
    errors = {r: ((mean_of_result(RePaint(sampler, 1, r)) - target).abs() / whole).max().item() for r in (1, 5, 40)}
    assert errors[1] > 0.5
    assert errors[1] > 1.5 * errors[5] > 3 * errors[40]
    assert errors[40] < 0.08


def test_longer_jumps_need_no_more_calls_but_leave_the_last_stretch_alone() -> None:
    """At jump length j about the last j steps are walked once: their error stays, whatever the number of resamples."""
    target = conditional_mean()
    calls = {j: sum(b < a for a, b in itertools.pairwise(RePaint(Ancestral(), j, 20).places(100))) for j in (1, 10)}
    assert calls == {1: 100 + 19 * 99, 10: 100 + 19 * 9 * 10}
    errors = {j: (mean_of_result(RePaint(Ancestral(clip=False), j, 40)) - target).abs().max() for j in (1, 10)}
    assert errors[1] < errors[10] < 0.2 * (target - WORLD.mean.flatten()[1:]).abs().max()


@pytest.mark.parametrize("sampler", [Ancestral(10), DDIM(10), DDIM(10, 0.5)], ids=["ancestral", "ddim", "eta"])
def test_one_walk_of_each_stretch_is_the_sampler_itself(sampler: Sampler) -> None:
    model, x = mixer(PROCESS, Epsilon(), FixedSmall()), randn(2, 2, 4, 4)
    noises = list(randn(10, 2, 2, 4, 4, seed=3))
    repainted = RePaint(sampler, 5, 1)(model, x, randn_like=Replay(noises))
    assert torch.equal(repainted, sampler(model, x, randn_like=Replay(noises)))


def test_the_order_of_the_public_code() -> None:
    """get_schedule_jump(t_T=8, jump_length=2, jump_n_sample=2), whose -1 is the image and whose t counts from 0."""
    expected = [7, 6, 5, 4, 5, 6, 5, 4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, -1]
    places = RePaint(Ancestral(), 2, 2).places(8)
    walked = [places[0] - 1]
    for here, there in itertools.pairwise(places):
        walked += range(here, there, 1) if there > here else [there - 1]
    assert walked == expected


def test_the_number_of_network_calls() -> None:
    """Jumps of ten from 24 places, nine times each, beside 250 steps: the paper's setting."""
    places = RePaint(Ancestral(), 10, 10).places(250)
    assert sum(b < a for a, b in itertools.pairwise(places)) == 250 + 24 * 9 * 10
    assert places[-1] == 0
    assert min(places[:-1]) == 1


def test_up_and_down_keep_the_marginal() -> None:
    """Diffusing an image to s and from there to t is diffusing it to t."""
    t, s, x_0 = torch.tensor([70]), torch.tensor([30]), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    zero, one = torch.zeros_like(x_0), torch.ones_like(x_0)
    step = PROCESS.transition(t, s)
    mean = PROCESS.forward_step(PROCESS.diffuse(x_0, s, zero), step, zero)
    of_s = PROCESS.forward_step(PROCESS.diffuse(x_0, s, one), step, zero) - mean
    of_t = PROCESS.forward_step(PROCESS.diffuse(x_0, s, zero), step, one) - mean
    q = PROCESS.marginal(x_0, t)
    torch.testing.assert_close(mean, q.mean)
    torch.testing.assert_close(of_s**2 + of_t**2, q.log_variance.exp())


def test_a_walk_too_short_for_its_jumps_is_refused() -> None:
    with pytest.raises(ValueError, match="a walk of 5 steps has no room for jumps of jump_length=5"):
        RePaint(Ancestral(), 5, 2).places(5)
    assert RePaint(Ancestral(), 5, 1).places(5) == [5, 4, 3, 2, 1, 0]
    assert RePaint(Ancestral(), 4, 2).places(5) == [5, 4, 3, 2, 1, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("bad", [{"jump_length": 0}, {"resamples": 0}])
def test_numbers_that_make_no_sense_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="both must be at least 1"):
        RePaint(Ancestral(), **bad)


def test_a_walk_may_set_out_from_any_of_its_stages() -> None:
    model, x = mixer(PROCESS, Epsilon(), FixedSmall()), randn(2, 2, 4, 4)
    sampler = DDIM(10)
    whole = [x_s for _, x_s in sampler.walk(model, x)]
    assert sampler.times(model.process)[-4] == sampler.nearest(model.process, 65) == 67
    assert torch.equal(sampler(model, whole[2], start=67), whole[-1])
    assert sampler.nearest(model.process, 0) == 0
    with pytest.raises(ValueError, match="none that starts at t=66; near it: 67"):
        sampler(model, x, start=66)
