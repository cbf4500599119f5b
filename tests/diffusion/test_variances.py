"""The variance of p(x_s | x_t): fixed at a bound, learned freely, or learned between the bounds."""

import pytest
import torch

from ddpm_lab.diffusion.likelihood import vlb_term
from ddpm_lab.diffusion.predictions import Epsilon
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.variances import FixedLarge, FixedSmall, Learned, LearnedRange, Variance
from tests.worlds import SCHEDULES, VARIANCES, full, mixer, name, randn

each_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


@pytest.mark.parametrize("strided", [False, True])
@each_schedule
def test_learned_range_ends_at_the_fixed_variances(schedule: str, strided: bool) -> None:
    process = Process(SCHEDULES[schedule](25))
    t = torch.arange(2, 26)
    s = t // 2 if strided else t - 1
    x_t, step = randn(24, 2, 1, 1), process.transition(t, s)
    for raw, fixed in ((-1.0, FixedSmall()), (1.0, FixedLarge())):
        ours = LearnedRange().log_variance(torch.full_like(x_t, raw), step, x_t)
        torch.testing.assert_close(ours, fixed.log_variance(None, step, x_t).expand_as(x_t))


@each_schedule
def test_at_the_image_learned_range_still_spans_both_bounds_and_fixed_ones_take_the_clipped(schedule: str) -> None:
    process = Process(SCHEDULES[schedule](25))
    t, s, above, x_t = full(1, 3), full(1, 0), full(1, 9), randn(1, 1, 1, 1)
    lower, upper = (bound.item() for bound in process.log_variance_bounds(t, s, above))

    def at(variance: Variance, raw: float | None = None) -> float:
        head = None if raw is None else torch.full_like(x_t, raw)
        return variance.log_variance(head, process.transition(t, s, above), x_t).item()

    assert [at(LearnedRange(), -1), at(LearnedRange(), 1)] == pytest.approx([lower, upper])
    assert [at(FixedSmall()), at(FixedLarge())] == pytest.approx([lower, lower])
    assert at(LearnedRange(), 0.5) == pytest.approx(0.25 * lower + 0.75 * upper)


@pytest.mark.parametrize(("raw", "fixed"), [(-1.0, FixedSmall()), (1.0, FixedLarge())], ids=["small", "large"])
@each_schedule
def test_the_bound_at_the_ends_of_the_range_is_that_of_the_fixed_variances(
    schedule: str, raw: float, fixed: Variance
) -> None:
    process = Process(SCHEDULES[schedule](25))
    t = torch.arange(2, 26)
    x_0, x_t = randn(24, 2, 2, 2, seed=1), randn(24, 2, 2, 2, seed=2)
    model = mixer(process, Epsilon(), fixed)
    estimate = model.estimate(x_t, t, clip=True)
    expected = vlb_term(model, estimate, x_0, x_t, t)
    learned = mixer(process, Epsilon(), LearnedRange())
    learned_estimate = estimate._replace(raw_variance=torch.full_like(x_t, raw))
    torch.testing.assert_close(vlb_term(learned, learned_estimate, x_0, x_t, t), expected)


def test_learned_is_the_raw_head_itself() -> None:
    raw = randn(2, 1, 2, 2)
    step = Process(SCHEDULES["cosine"](9)).transition(full(2, 4), full(2, 1))
    assert Learned().log_variance(raw, step, raw) is raw


@pytest.mark.parametrize("variance", VARIANCES, ids=name)
def test_a_network_needs_a_second_head_exactly_for_learned_variances(variance: Variance) -> None:
    x_t, step = randn(1, 1, 2, 2), Process(SCHEDULES["cosine"](9)).transition(full(1, 4), full(1, 1))
    assert variance.heads in (1, 2)
    if variance.heads == 1:
        assert variance.log_variance(None, step, x_t).shape == (1, 1, 1, 1)
    else:
        with pytest.raises(ValueError, match=f"{name(variance)} needs the network's second head of raw variances"):
            variance.log_variance(None, step, x_t)
