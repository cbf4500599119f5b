"""Timestep samplers: whatever is drawn, the weighted loss stays unbiased, and what was learned is kept exactly."""

from collections import deque

import pytest
import torch
from torch import Tensor

from ddpm_lab.diffusion.timesteps import LossSecondMoment, Uniform
from tests.worlds import randn


def warmed(T: int = 6, history: int = 3, seed: int = 0, uniform_probability: float = 0.01) -> LossSecondMoment:
    sampler = LossSecondMoment(T, history, uniform_probability)
    losses = randn(history, T, seed=seed).exp()
    for row in losses:
        sampler.update(torch.arange(1, T + 1), row)
    return sampler


SAMPLERS = {
    "uniform": Uniform(6),
    "cold": LossSecondMoment(6),
    "warm": warmed(),
    "warm, mostly uniform": warmed(uniform_probability=0.9),
}
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


@each_sampler
def test_the_weights_average_to_one_and_keep_the_mean_loss(sampler: Uniform | LossSecondMoment) -> None:
    """Sum_t p(t) weight(t) loss(t) is the plain mean of loss over t, exactly; with a loss of 1, E[weight] = 1."""
    torch.manual_seed(0)
    t, weight = sampler.draw(4000)
    assert t.dtype == torch.int64
    assert t.shape == weight.shape == (4000,)
    weights = torch.zeros(6, dtype=torch.float64)
    weights[t - 1] = weight.double()
    assert bool((weights > 0).all()), "every t must come up in so many draws"
    p = sampler.probabilities()
    torch.testing.assert_close(p.sum().item(), 1.0)
    torch.testing.assert_close((p * weights).sum().item(), 1.0, rtol=1e-6, atol=0)
    loss = randn(6, seed=3)
    torch.testing.assert_close((p * weights * loss).sum(), loss.mean(), rtol=1e-5, atol=1e-7)


@each_sampler
def test_draws_follow_the_probabilities(sampler: Uniform | LossSecondMoment) -> None:
    torch.manual_seed(1)
    N = 100_000
    t, _ = sampler.draw(N)
    p = sampler.probabilities()
    frequency = torch.bincount(t, minlength=7)[1:].double() / N
    assert t.min() == 1
    assert t.max() == 6
    assert bool(((frequency - p).abs() < 5 * (p * (1 - p) / N).sqrt()).all())


def test_probabilities_are_the_root_of_the_second_moment() -> None:
    """Nichol & Dhariwal 2021, equation 18, mixed with uniform."""
    sampler = LossSecondMoment(2, history=2, uniform_probability=0.1)
    sampler.update(torch.tensor([1, 2, 1, 2]), torch.tensor([3.0, 1.0, 4.0, 7.0]))
    roots = torch.tensor([12.5, 25.0], dtype=torch.float64).sqrt()
    torch.testing.assert_close(sampler.probabilities(), 0.9 * roots / roots.sum() + 0.05)


@pytest.mark.parametrize("history", [1, 3, 10])
def test_the_history_is_a_queue_of_the_last_losses_of_each_timestep(history: int) -> None:
    """Against a plain deque per t, with many equal timesteps in one batch, more than `history` of them too."""
    T, generator = 4, torch.Generator().manual_seed(history)
    sampler, queues = LossSecondMoment(T, history), [deque[float](maxlen=history) for _ in range(T)]
    most = 0
    for _ in range(40):
        batch = int(torch.randint(0, 4 * history + 4, (), generator=generator))
        # Skewed, so that some t fill up within one batch while others wait.
        t = (torch.rand(batch, generator=generator) ** 3 * T).long() + 1
        loss = torch.rand(batch, generator=generator, dtype=torch.float64)
        most = max(most, int(torch.bincount(t, minlength=1).max())) if batch else most
        sampler.update(t, loss)
        for step, value in zip(t.tolist(), loss.tolist(), strict=True):
            queues[step - 1].append(value)
        for row, count, queue in zip(sampler.losses, sampler.counts.tolist(), queues, strict=True):
            kept = row[: min(count, history)].tolist()
            assert sorted(kept) == sorted(queue)
        if all(len(queue) == history for queue in queues):
            roots = torch.tensor([list(queue) for queue in queues]).double().square().mean(1).sqrt()
            expected = 0.999 * roots / roots.sum() + 0.001 / T
        else:
            expected = torch.full((T,), 1 / T, dtype=torch.float64)
        torch.testing.assert_close(sampler.probabilities(), expected, rtol=1e-6, atol=1e-8)
    assert most > history


def test_uniform_until_every_timestep_has_its_history() -> None:
    sampler = LossSecondMoment(3, history=2)
    losses = torch.tensor([1.0, 5.0, 9.0])
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    sampler.update(torch.tensor([1, 2, 3]), losses)
    sampler.update(torch.tensor([1, 2, 1]), losses)
    assert torch.equal(sampler.probabilities(), uniform)
    assert bool((sampler.draw(10)[1] == 1).all())
    sampler.update(torch.tensor([3]), losses[:1])
    roots = torch.tensor([41.0, 25.0, 41.0], dtype=torch.float64).sqrt()  # of (1, 9), (5, 5), (9, 1)
    torch.testing.assert_close(sampler.probabilities(), 0.999 * roots / roots.sum() + 0.001 / 3)


@pytest.mark.parametrize("losses", [[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]], ids=["zero", "nan", "inf"])
def test_losses_that_say_nothing_leave_it_uniform_and_pass(losses: list[float]) -> None:
    sampler = LossSecondMoment(2, history=1)
    sampler.update(torch.tensor([1, 2]), torch.tensor(losses))
    assert sampler.probabilities().tolist() == [0.5, 0.5]
    assert sampler.draw(3)[1].tolist() == [1.0] * 3
    sampler.update(torch.tensor([1, 2]), torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(
        sampler.probabilities(), 0.999 * torch.tensor([0.25, 0.75], dtype=torch.float64) + 0.0005
    )


def continued(sampler: LossSecondMoment) -> Tensor:
    sampler.update(torch.tensor([2, 2, 5]), torch.tensor([9.0, 0.1, 4.0]))
    return sampler.probabilities()


def test_what_was_learned_is_saved_and_restored() -> None:
    sampler, other = warmed(seed=1), warmed(seed=2)
    assert not torch.equal(other.probabilities(), sampler.probabilities())
    other.load_state_dict({key: value.clone() for key, value in sampler.state_dict().items()})
    assert torch.equal(other.probabilities(), sampler.probabilities())
    assert torch.equal(continued(other), continued(sampler))  # the place in the ring too


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_history_stays_in_double_precision(dtype: torch.dtype) -> None:
    for sampler in (warmed(), Uniform(6)):
        before = sampler.probabilities().clone()
        after = sampler.to(dtype).probabilities()
        assert after.dtype == torch.float64
        assert torch.equal(after, before)


def test_the_graph_of_a_loss_is_not_kept() -> None:
    """A caller who forgets to detach must not make the history grow a graph across all steps."""
    sampler = warmed()
    weight = torch.ones(2, requires_grad=True)
    sampler.update(torch.tensor([1, 2]), weight * torch.tensor([2.0, 3.0]))
    assert not sampler.losses.requires_grad
    assert not sampler.draw(4)[1].requires_grad
