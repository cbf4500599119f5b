"""Every schedule gives betas in (0, 1] that destroy the image step by step; each keeps its paper's formula."""

import math
from collections.abc import Callable

import pytest
import torch

from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import constant, cosine, jsd, linear, quadratic, sigmoid, warmup
from tests.worlds import SCHEDULES


@pytest.mark.parametrize("T", [21, 100, 1000, 4000])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_betas_are_probabilities_in_double_precision(schedule: str, T: int) -> None:
    betas = SCHEDULES[schedule](T)
    assert betas.shape == (T,)
    assert betas.dtype == torch.float64
    assert bool(((betas > 0) & (betas <= 1)).all())
    alpha_bar = Process(betas).alpha_bar
    assert alpha_bar[0] == 1
    assert bool((alpha_bar.diff() < 0).all())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("T", [0, -3])
def test_no_timesteps_are_refused(schedule: str, T: int) -> None:
    with pytest.raises(ValueError, match="at least one timestep"):
        SCHEDULES[schedule](T)


@pytest.mark.parametrize("T", [1, 2, 10, 1000, 4000])
def test_cosine_alpha_bar_is_the_squared_cosine_but_for_the_last_beta(T: int) -> None:
    t = torch.arange(T + 1, dtype=torch.float64)
    f = torch.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = cosine(T)
    torch.testing.assert_close(Process(betas).alpha_bar[:T], (f / f[0])[:T], rtol=1e-10, atol=0)
    assert betas[-1] == 0.999
    assert bool((betas[:-1] < 0.999).all())


@pytest.mark.parametrize("T", [50, 100, 4000])
def test_linear_rescaled_destroys_as_much_at_any_length(T: int) -> None:
    """The sum of betas, which is minus log alpha_bar_T to first order, does not depend on T."""
    betas = linear(T)
    torch.testing.assert_close(betas.sum(), linear(1000).sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(betas.diff(), betas.diff()[:1].expand(T - 1), rtol=1e-8, atol=0)
    torch.testing.assert_close(betas[[0, -1]], torch.tensor([0.1, 20.0], dtype=torch.float64) / T, rtol=1e-12, atol=0)


def test_linear_of_ho_keeps_its_ends_at_any_length() -> None:
    for T in (1000, 10):
        torch.testing.assert_close(linear(T, rescale=False)[[0, -1]], torch.tensor([1e-4, 0.02], dtype=torch.float64))


@pytest.mark.parametrize("T", [1, 5, 20])
def test_linear_rescaled_to_twenty_steps_or_fewer_is_refused(T: int) -> None:
    with pytest.raises(ValueError, match="take T > 20, a smaller beta_end, or schedule=cosine"):
        linear(T)


def test_the_roots_of_quadratic_betas_are_evenly_spaced() -> None:
    betas = quadratic(100)
    torch.testing.assert_close(betas[[0, -1]], torch.tensor([1e-4, 0.02], dtype=torch.float64))
    roots = betas.sqrt().diff()
    torch.testing.assert_close(roots, roots[:1].expand(99), rtol=1e-10, atol=0)


def test_constant_betas_are_all_the_last() -> None:
    assert constant(7, beta_end=0.3).unique().tolist() == [0.3]


@pytest.mark.parametrize(("T", "fraction", "rising"), [(100, 0.1, 10), (1000, 0.5, 500), (25, 0.1, 2), (5, 0.1, 0)])
def test_warmup_rises_for_its_fraction_and_stays(T: int, fraction: float, rising: int) -> None:
    betas = warmup(T, fraction=fraction)
    assert bool((betas[rising:] == 0.02).all())
    assert bool((betas[: max(rising - 1, 0)] < 0.02).all())
    if rising:
        torch.testing.assert_close(betas[0].item(), 1e-4)
        assert bool((betas[:rising].diff() > 0).all())


@pytest.mark.parametrize("fraction", [-0.1, 1.5])
def test_a_warmup_longer_than_the_chain_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"fraction must lie in \[0, 1\]"):
        warmup(10, fraction=fraction)


@pytest.mark.parametrize("T", [1, 2, 25, 1000])
def test_jsd_removes_an_equal_share_of_the_signal_each_step_and_ends_in_pure_noise(T: int) -> None:
    betas = jsd(T)
    assert betas[-1] == 1
    alpha_bar = Process(betas).alpha_bar
    assert alpha_bar[-1] == 0
    torch.testing.assert_close(alpha_bar, torch.linspace(1, 0, T + 1, dtype=torch.float64), rtol=1e-10, atol=1e-14)


def test_sigmoid_is_a_logistic_curve_symmetric_about_its_middle() -> None:
    betas = sigmoid(101, beta_start=0.1, beta_end=0.5, steepness=4.0)
    torch.testing.assert_close(betas + betas.flip(0), torch.full_like(betas, 0.6))
    share = (betas - 0.1) / 0.4
    torch.testing.assert_close((share / (1 - share)).log(), torch.linspace(-4, 4, 101, dtype=torch.float64))


@pytest.mark.parametrize(
    "bad", [lambda: constant(10, beta_end=1.5), lambda: sigmoid(10, beta_start=-0.5), lambda: quadratic(10, beta_end=2)]
)
def test_betas_outside_the_unit_interval_are_refused(bad: Callable[[], torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=r"every beta must lie in \(0, 1\].*T=10.*change T, beta_start or beta_end"):
        bad()
