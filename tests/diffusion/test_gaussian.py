"""Gaussians against torch.distributions and the exact normal distribution."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ddpm_lab.diffusion.gaussian import BIN_WIDTH, LOWEST_LOG_PROB, Gaussian, standard_normal
from tests.worlds import randn

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def exact_log_prob(mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
    normal = Normal(mean, std)
    above = torch.where(x > 0.999, 1.0, normal.cdf(x + BIN_WIDTH / 2))
    below = torch.where(x < -0.999, 0.0, normal.cdf(x - BIN_WIDTH / 2))
    return (above - below).log()


def bins(mean: float, std: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """log-probabilities of all 256 levels."""
    return Gaussian(
        torch.full((256,), mean, dtype=dtype), torch.full((256,), 2 * math.log(std), dtype=dtype)
    ).discretized_log_prob(LEVELS.to(dtype))


def test_sample_has_the_mean_and_the_variance() -> None:
    mean, log_variance = randn(1, 3, 1, 1, seed=1), randn(1, 3, 1, 1, seed=2)
    noise = torch.tensor([1.0, -1.0], dtype=torch.float64).view(2, 1, 1, 1)  # of mean 0 and variance 1, exactly
    x = Gaussian(mean.expand(2, 3, 1, 1), log_variance).sample(noise.expand(2, 3, 1, 1))
    torch.testing.assert_close(x.mean(0, keepdim=True), mean)
    torch.testing.assert_close(x.var(0, unbiased=False, keepdim=True), log_variance.exp())


def test_kl_is_that_of_torch_and_never_negative() -> None:
    p = Gaussian(randn(4, 3, 2, 2, seed=1), 2 * randn(4, 3, 2, 2, seed=2))
    q = Gaussian(randn(4, 3, 2, 2, seed=3), 2 * randn(4, 3, 2, 2, seed=4))
    theirs = kl_divergence(*(Normal(g.mean, (0.5 * g.log_variance).exp()) for g in (p, q)))
    torch.testing.assert_close(p.kl(q), theirs)
    assert bool((p.kl(q) > 0).all())
    torch.testing.assert_close(p.kl(p), torch.zeros_like(p.mean))


def test_kl_to_the_standard_normal_is_zero_only_there() -> None:
    x = torch.zeros(2, 1, 1, 1)
    p = Gaussian(torch.tensor([0.0, 0.5]).view(2, 1, 1, 1), torch.zeros(2, 1, 1, 1))
    assert p.kl(standard_normal(x)).flatten().tolist() == [0.0, 0.125]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mean", [-1.0, -0.31, 0.0, 0.8, 3.0])
@pytest.mark.parametrize("std", [0.002, 0.01, 0.1, 1.0, 10.0])
def test_the_bins_of_all_levels_share_out_the_probability(mean: float, std: float, dtype: torch.dtype) -> None:
    assert bins(mean, std, dtype).exp().sum().item() == pytest.approx(1, abs=1e-5 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("std", [0.01, 0.05, 0.3])
def test_inner_bins_are_less_likely_the_farther_from_the_mean(std: float) -> None:
    log_prob = bins(0.0, std)[1:-1]
    middle = len(log_prob) // 2
    assert bool((log_prob[:middle].diff() >= 0).all())
    assert bool((log_prob[middle:].diff() <= 0).all())
    # The floor is reached only where it is due, so the order is strict inside it.
    alive = log_prob[:middle][log_prob[:middle] > LOWEST_LOG_PROB]
    assert bool((alive.diff() > 0).all())


@pytest.mark.parametrize("mean", [-1.2, -0.31, 0.0, 0.8])
@pytest.mark.parametrize("std", [0.003, 0.01, 0.1, 0.5])
def test_bins_agree_with_the_normal_distribution(mean: float, std: float) -> None:
    """The tanh approximation of the CDF errs by 2e-4 at most, and its density by 1% within two deviations."""
    exact = exact_log_prob(torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64), LEVELS)
    torch.testing.assert_close(bins(mean, std).exp(), exact.exp(), rtol=0, atol=4e-4)
    near = (LEVELS - mean).abs() < 2 * std
    torch.testing.assert_close(bins(mean, std)[near], exact[near], rtol=0, atol=0.02)


def test_a_bin_of_a_wide_gaussian_has_the_density_times_its_width() -> None:
    """In single precision too, where the difference of two CDFs would have two digits left."""
    log_prob = bins(0.0, 100.0, torch.float32)[1:-1]
    density = Normal(0.0, 100.0).log_prob(LEVELS[1:-1]) + math.log(BIN_WIDTH)
    torch.testing.assert_close(log_prob, density.float(), rtol=0, atol=2e-3)


def test_far_tails_rest_on_the_floor() -> None:
    log_prob = bins(5.0, 0.1)
    assert log_prob[:-1].unique().tolist() == [LOWEST_LOG_PROB]
    assert log_prob[-1].item() == pytest.approx(0, abs=1e-9)
    assert math.exp(LOWEST_LOG_PROB) == pytest.approx(1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_variance", [-200.0, -100.0, -60.0, -20.0, 0.0, 20.0, 60.0, 100.0, 200.0])
def test_log_prob_and_its_gradient_are_finite_for_any_mean_and_variance(
    log_variance: float, dtype: torch.dtype
) -> None:
    """The decoder is evaluated at every t, and one nan in a branch not taken would spoil the gradient."""
    x = torch.tensor([-1.0, -0.5, 1 / 255, 0.5, 1.0], dtype=dtype).view(5, 1)
    mean = torch.tensor([0.0, 1e-3, -0.7, 1.0, -1e4, 1e6, 1e10], dtype=dtype).repeat(5, 1).requires_grad_()
    raw = torch.full((5, 7), log_variance, dtype=dtype, requires_grad=True)
    log_prob = Gaussian(mean, raw).discretized_log_prob(x)
    log_prob.sum().backward()
    assert mean.grad is not None
    assert raw.grad is not None
    for numbers in (log_prob, mean.grad, raw.grad):
        assert bool(torch.isfinite(numbers).all())
    assert bool((log_prob <= 0).all())


def test_the_gradient_of_log_prob_is_that_of_the_density() -> None:
    """d log p / d mean = (x - mean) / variance where a bin is narrow beside the deviation."""
    x, std = LEVELS[64:192:8], 0.4
    mean = torch.zeros_like(x).requires_grad_()
    raw = torch.full_like(x, 2 * math.log(std)).requires_grad_()
    Gaussian(mean, raw).discretized_log_prob(x).sum().backward()
    torch.testing.assert_close(mean.grad, x / std**2, rtol=0.02, atol=0.02)
    torch.testing.assert_close(raw.grad, 0.5 * ((x / std) ** 2 - 1), rtol=0.02, atol=0.02)
