"""Solvers of the probability-flow ODE where its solution is known: their orders, their memory, their times."""

import math

import pytest
import torch
from torch import Tensor, nn

from ddpm_lab.diffusion.coefficients import append_dims
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.predictions import Epsilon, Start
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import cosine, linear
from ddpm_lab.diffusion.variances import FixedSmall
from ddpm_lab.samplers.ancestral import Ancestral
from ddpm_lab.samplers.ddim import DDIM
from ddpm_lab.samplers.dpm_solver_pp import DPMSolverPP
from ddpm_lab.samplers.heun import Heun
from ddpm_lab.samplers.repaint import RePaint
from ddpm_lab.samplers.sampler import Sampler
from tests.worlds import GaussianWorld, mixer, name, oracle, randn, slope

STD = 0.5
PROCESS = Process(linear(1000))


class Exact(nn.Module):
    """E[x_0 | x_t] of x_0 ~ N(0, STD^2), at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        self.asked.append(time[0].item() + 1)
        level = PROCESS.at(time.double() + 1)
        return append_dims(level.signal * STD**2 / (level.alpha_bar * STD**2 + level.noise**2), x) * x


def exact(x: Tensor, start: float = 1000, end: float = 1) -> Tensor:
    """Where the ODE leads from x: of a Gaussian it keeps x / the standard deviation of x_t."""
    deviations = [
        (level.alpha_bar * STD**2 + level.noise**2).sqrt()
        for level in (PROCESS.at(torch.tensor(t)) for t in (start, end))
    ]
    return x * deviations[1] / deviations[0]


@pytest.mark.parametrize("spacing", ["log_snr", "karras"])
@pytest.mark.parametrize(("make", "order"), [(DDIM, 1), (Heun, 2), (DPMSolverPP, 2)])
def test_halving_the_steps_costs_what_the_order_says(make: type[Sampler], order: int, spacing: str) -> None:
    x, sizes, errors = randn(1, 1, 2, 2), [40, 80, 160], []
    for steps in sizes:
        model = Denoiser(Exact(), PROCESS, Start(), FixedSmall())
        walk = list(make(steps, spacing=spacing, clip=False).walk(model, x))
        assert walk[-2][0] == 1
        errors.append((walk[-2][1] - exact(x)).abs().max().item())
    assert slope([1 / n for n in sizes], errors) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(
    "sampler",
    [
        DDIM(8, clip=False),
        Heun(8, clip=False),
        DPMSolverPP(8, clip=False),
        Ancestral(8),
        RePaint(DDIM(8), 2, 3),
        RePaint(Heun(8), 2, 3),
    ],
    ids=name,
)
def test_calls_are_counted_and_the_deterministic_say_so(sampler: Sampler) -> None:
    network = Exact()
    model, x = Denoiser(network, PROCESS, Start(), FixedSmall()), randn(1, 1, 2, 2)
    images = [sampler(model, x) for _ in range(2)]
    assert len(network.asked) == 2 * sampler.calls(PROCESS)
    assert torch.equal(*images) == sampler.deterministic


def test_the_first_step_of_a_multistep_method_is_ddim_s_and_so_is_the_last() -> None:
    model, x = mixer(PROCESS, Epsilon(), FixedSmall()), randn(2, 2, 3, 3)
    walks = [[x_s for _, x_s in make(5, clip=False).walk(model, x)] for make in (DPMSolverPP, DDIM)]
    torch.testing.assert_close(walks[0][0], walks[1][0])
    assert not torch.allclose(walks[0][1], walks[1][1])
    estimate = model.estimate(walks[0][-2], torch.tensor(1), clip=False)
    torch.testing.assert_close(walks[0][-1], estimate.x_0)


def test_above_a_jump_a_multistep_method_remembers_nothing() -> None:
    """Each stretch of RePaint is that of a sampler that begins there."""
    model, x = mixer(PROCESS, Epsilon(), FixedSmall()), randn(1, 2, 3, 3)
    inner = DPMSolverPP(6, clip=False)
    noise = lambda like: torch.zeros_like(like)  # noqa: E731
    places = RePaint(inner, 3, 2).places(6)
    walk = list(RePaint(inner, 3, 2).walk(model, x, randn_like=noise))
    up = next(i for i in range(len(places) - 1) if places[i + 1] > places[i])
    times = [0, *inner.times(PROCESS)]
    low, high = times[places[up]], times[places[up + 1]]
    stretch = (1 - PROCESS.transition(torch.tensor(high), torch.tensor(low)).beta).sqrt()
    fresh = list(inner.walk(model, walk[up - 1][1] * stretch, start=high))
    torch.testing.assert_close(walk[up][1], fresh[0][1])
    assert walk[up][0] == fresh[0][0]


def test_pure_noise_at_the_end_of_a_schedule() -> None:
    """lambda is minus infinity there: the multistep method goes on from DDIM's step, Heun's has nowhere to start."""
    world, process = GaussianWorld.isotropic(0.4, 0.1), Process(torch.cat([linear(99), torch.ones(1).double()]))
    model, x = oracle(world, process, Start()), randn(4, 1, 1, 1)
    drawn = DPMSolverPP(20, spacing="uniform", clip=False)(model, x)
    torch.testing.assert_close(drawn, DDIM(100, clip=False)(model, x), rtol=0, atol=0.05)
    with pytest.raises(ValueError, match=r"sampler=heun follows .* take sampler=ddim or dpm_solver_pp"):
        Heun(20, spacing="uniform", clip=False)(model, x)
    with pytest.raises(ValueError, match=r"sampler\.spacing=karras starts at the noise of T=100, which is infinite"):
        DDIM(20, spacing="karras").times(process)


def test_times_by_noise_are_even_in_what_they_are_spaced_by() -> None:
    for process in (PROCESS, Process(cosine(1000))):
        for spacing, of in (("log_snr", lambda sigma: sigma.log()), ("karras", lambda sigma: sigma ** (1 / 7))):
            times = DDIM(9, spacing=spacing).times(process)
            assert (times[0], times[-1]) == (1.0, 1000.0)
            sigma = torch.exp(-process.at(torch.tensor(times, dtype=torch.float64)).half_log_snr)
            steps = of(sigma).diff()
            torch.testing.assert_close(steps, steps.mean().expand(8), rtol=1e-6, atol=0)


def test_times_may_be_told_one_by_one() -> None:
    network, x = Exact(), randn(1, 1, 2, 2)
    model = Denoiser(network, PROCESS, Start(), FixedSmall())
    walk = list(DDIM(50, clip=False, times=[1, 10.5, 300, 1000]).walk(model, x))
    assert network.asked == [1000, 300, 10.5, 1]
    assert [s for s, _ in walk] == [300, 10.5, 1, 0]
    for times, told in (
        ([3, 2], r"sampler\.times=\[3, 2\] must be ascending"),
        ([0.5, 2], "must be ascending, different numbers from 1 to T=1000"),
        ([1, 1001], "must be ascending"),
        ([1, math.nan], "must be ascending"),
        ([], "must be ascending"),
        (["late"], "must be ascending"),
    ):
        with pytest.raises(ValueError, match=told):
            DDIM(times=times).times(PROCESS)
    with pytest.raises(ValueError, match=r"sampler\.spacing=karras needs sampler\.steps"):
        DDIM(None, spacing="karras").times(PROCESS)
