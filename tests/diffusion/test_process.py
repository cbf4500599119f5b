"""The forward process composes, its posteriors obey Bayes, and pairs of timesteps are chains of their own."""

import pytest
import torch
from torch import Tensor

from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import constant, cosine, jsd, linear
from tests.worlds import SCHEDULES, full, randn, respaced

PROCESSES = {f"{name}-{T}": Process(make(T)) for name, make in SCHEDULES.items() for T in (25, 1000)}
each_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def some_pairs(process: Process) -> tuple[Tensor, Tensor]:
    """(t, s) with 0 < s < t, adjacent, strided and up to the last."""
    T = process.T
    return torch.tensor([2, 3, T // 2, T // 2, T, T, T]), torch.tensor([1, 1, T // 2 - 1, 1, T - 1, T // 3, 1])


@each_process
def test_diffuse_draws_from_the_marginal(process: Process) -> None:
    t = torch.tensor([1, 2, process.T // 2, process.T])
    x_0, noise = randn(4, 2, 3, 3, seed=1), randn(4, 2, 3, 3, seed=2)
    torch.testing.assert_close(process.diffuse(x_0, t, noise), process.marginal(x_0, t).sample(noise))


def test_at_time_zero_nothing_is_diffused() -> None:
    x_0 = randn(2, 1, 2, 2)
    assert torch.equal(Process(cosine(10)).diffuse(x_0, full(2, 0), randn(2, 1, 2, 2, seed=1)), x_0)


@each_process
def test_two_steps_of_the_forward_process_compose_to_one(process: Process) -> None:
    """q(x_t | x_s) after q(x_s | x_0) is q(x_t | x_0)."""
    t, s = some_pairs(process)
    x_0 = randn(len(t), 1, 2, 2)
    at_s, at_t, beta = (
        process.marginal(x_0, s),
        process.marginal(x_0, t),
        process.transition(t, s).beta.view(-1, 1, 1, 1),
    )
    torch.testing.assert_close((1 - beta).sqrt() * at_s.mean, at_t.mean, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close((1 - beta) * at_s.log_variance.exp() + beta, at_t.log_variance.exp(), rtol=1e-10, atol=0)


@each_process
def test_the_posterior_is_bayes_rule(process: Process) -> None:
    """q(x_s | x_0) q(x_t | x_s) ~ q(x_s | x_t, x_0): precisions add, and so do precisions times means."""
    t, s = some_pairs(process)
    x_0, x_t = randn(len(t), 1, 2, 2, seed=1), randn(len(t), 1, 2, 2, seed=2)
    prior, beta = process.marginal(x_0, s), process.transition(t, s).beta.view(-1, 1, 1, 1)
    posterior = process.posterior(x_0, x_t, t, s)
    precision = (-prior.log_variance).exp() + (1 - beta) / beta
    torch.testing.assert_close((-posterior.log_variance).exp(), precision, rtol=1e-9, atol=0)
    weighed = (-prior.log_variance).exp() * prior.mean + (1 - beta).sqrt() / beta * x_t
    torch.testing.assert_close(posterior.mean, weighed / precision, rtol=1e-9, atol=1e-12)


@each_process
def test_the_posterior_at_the_image_is_the_image(process: Process) -> None:
    t = torch.tensor([1, process.T // 2, process.T])
    x_0, x_t = randn(3, 1, 2, 2, seed=1), randn(3, 1, 2, 2, seed=2)
    torch.testing.assert_close(process.posterior(x_0, x_t, t, full(3, 0)).mean, x_0, rtol=1e-12, atol=0)


@each_process
def test_pairs_are_the_steps_of_the_respaced_chain(process: Process) -> None:
    chosen = [1, 2, 5, process.T // 2, process.T - 1, process.T]
    chain, K = respaced(process, chosen), len(chosen)
    t, s = torch.tensor(chosen), torch.tensor([0, *chosen[:-1]])
    above = torch.tensor([*chosen[1:], process.T])
    k = torch.arange(1, K + 1)
    x_0, x_t = randn(K, 1, 2, 2, seed=1), randn(K, 1, 2, 2, seed=2)
    ours, theirs = process.posterior(x_0, x_t, t, s), chain.posterior(x_0, x_t, k, k - 1)
    torch.testing.assert_close(ours.mean, theirs.mean, rtol=1e-11, atol=1e-12)
    for bound, of_chain in zip(
        process.log_variance_bounds(t, s, above), chain.log_variance_bounds(k, k - 1), strict=True
    ):
        torch.testing.assert_close(bound, of_chain, rtol=1e-11, atol=1e-12)


@each_process
def test_the_lower_bound_is_below_the_upper(process: Process) -> None:
    t = torch.arange(2, process.T + 1)
    for s in (t - 1, t // 2, torch.ones_like(t)):
        lower, upper = process.log_variance_bounds(t, s)
        assert bool((lower <= upper).all())
        # beta~ is 0 only for s = 0 and beta only for s = T, and the difference is (1 - ab_s) / (1 - ab_t).
        share = (1 - process.alpha_bar[s]) / (1 - process.alpha_bar[t])
        torch.testing.assert_close(lower - upper, share.log(), rtol=1e-9, atol=1e-12)


def test_at_the_image_the_lower_bound_is_that_of_the_next_pair_up() -> None:
    process = Process(linear(100))
    t, zero = torch.tensor([1, 4, 7]), full(3, 0)
    next_up = process.log_variance_bounds(t + 1, t)[0]
    lower, upper = process.log_variance_bounds(t, zero)
    torch.testing.assert_close(lower, next_up)
    torch.testing.assert_close(upper, (1 - process.alpha_bar[t]).log())
    above = torch.tensor([3, 10, 100])
    torch.testing.assert_close(process.log_variance_bounds(t, zero, above)[0], process.log_variance_bounds(above, t)[0])


def test_above_matters_only_at_the_image() -> None:
    process = Process(cosine(50))
    t, s = torch.tensor([10, 50]), torch.tensor([3, 20])
    for with_above, without in zip(
        process.log_variance_bounds(t, s, torch.tensor([33, 50])), process.log_variance_bounds(t, s), strict=True
    ):
        assert torch.equal(with_above, without)


@pytest.mark.parametrize("betas", [[0.3], [1.0]])
def test_a_chain_of_one_step_has_finite_variances(betas: list[float]) -> None:
    process = Process(torch.tensor(betas))
    lower, upper = process.log_variance_bounds(full(1, 1), full(1, 0))
    assert lower.item() == upper.item() == pytest.approx(torch.tensor(betas).log().item())
    x = randn(1, 1, 1, 1)
    assert all(bool(torch.isfinite(field).all()) for field in process.posterior(x, x, full(1, 1), full(1, 0)))


@each_process
def test_everything_is_finite_at_both_ends(process: Process) -> None:
    t = torch.tensor([1, process.T, process.T])
    s = torch.tensor([0, process.T - 1, 0])
    x_0, x_t = randn(3, 1, 2, 2, seed=1, dtype=torch.float32), randn(3, 1, 2, 2, seed=2, dtype=torch.float32)
    numbers = [
        *process.marginal(x_0, t),
        *process.posterior(x_0, x_t, t, s),
        *process.log_variance_bounds(t, s),
        process.at(t).snr,
        process.diffuse(x_0, t, x_t),
    ]
    assert all(bool(torch.isfinite(number).all()) for number in numbers)


def test_beta_of_a_pair_keeps_its_digits_where_a_difference_would_lose_them() -> None:
    """alpha_bar differs from 1 by 1e-12: 1 - ab_t / ab_s has four digits left there, and the table keeps all."""
    process = Process(constant(10, beta_end=1e-12))
    torch.testing.assert_close(process.transition(full(1, 3), full(1, 1)).beta.item(), 2e-12, rtol=1e-9, atol=0)


def test_snr_is_signal_over_noise() -> None:
    process = Process(jsd(4))
    torch.testing.assert_close(
        process.at(torch.tensor([1, 2, 3])).snr, torch.tensor([3, 1, 1 / 3], dtype=torch.float64)
    )
    assert 0 < process.at(full(1, 4)).snr.item() < 1e-15


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_tables_stay_in_double_precision(dtype: torch.dtype) -> None:
    process = Process(cosine(100))
    before = process.alpha_bar.clone()
    holder = torch.nn.Sequential(process, torch.nn.Linear(1, 1)).to(dtype)
    assert holder[1].weight.dtype == dtype
    for table in (process.alpha_bar, process.log_alpha_bar):
        assert table.dtype == torch.float64
    assert torch.equal(process.alpha_bar, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_the_process_returns_has_the_images_precision(dtype: torch.dtype) -> None:
    process = Process(cosine(100))
    x, t = torch.zeros(2, 1, 2, 2, dtype=dtype), torch.tensor([1, 100])
    for result in (process.diffuse(x, t, x), *process.marginal(x, t), *process.posterior(x, x, t, t - 1)):
        assert result.dtype == dtype


def test_no_schedule_key_enters_a_checkpoint() -> None:
    assert Process(cosine(10)).state_dict() == {}


@pytest.mark.parametrize(
    "betas",
    [[], [0.1, 0.0], [-0.1, 0.2], [0.5, 1.5], [[0.1, 0.2]], [float("nan")], [0.5, 1.0, 0.5]],
    ids=["none", "zero", "negative", "above one", "matrix", "nan", "one before the last"],
)
def test_betas_that_make_no_process_are_refused(betas: list) -> None:
    with pytest.raises(ValueError, match=r"betas must (be|lie)"):
        Process(torch.tensor(betas))
