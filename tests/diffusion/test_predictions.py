"""What the network's output means: targets and the x_0 they stand for are each other's inverses."""

import pytest
import torch
from torch import Tensor

from ddpm_lab.diffusion.predictions import Epsilon, Prediction, PreviousMean, Start, Velocity
from ddpm_lab.diffusion.process import Process
from tests.worlds import PREDICTIONS, SCHEDULES, full, name, randn

each_prediction = pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def every_t(process: Process) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    t = torch.arange(1, process.T + 1)
    x_0, noise = randn(process.T, 1, 2, 2, seed=1), randn(process.T, 1, 2, 2, seed=2)
    return t, x_0, noise, process.diffuse(x_0, t, noise)


@pytest.mark.parametrize("T", [25, 1000])
@each_schedule
@each_prediction
def test_the_target_stands_for_x_0_at_every_t(prediction: Prediction, schedule: str, T: int) -> None:
    process = Process(SCHEDULES[schedule](T))
    t, x_0, noise, x_t = every_t(process)
    back = prediction.x_0(process, prediction.target(process, x_0, noise, process.at(t)), x_t, process.at(t))
    if schedule == "jsd" and isinstance(prediction, Epsilon):
        back, x_0 = back[:-1], x_0[:-1]  # pure noise says nothing of x_0
    torch.testing.assert_close(back, x_0, rtol=1e-8, atol=1e-8)


def test_noise_predicted_from_pure_noise_stands_for_the_centre_of_the_data() -> None:
    process = Process(SCHEDULES["jsd"](25))
    x_t = randn(1, 1, 2, 2)
    assert Epsilon().x_0(process, randn(1, 1, 2, 2, seed=1), x_t, process.at(full(1, 25))).abs().max() == 0


@each_schedule
@each_prediction
def test_scale_is_the_ratio_of_the_errors(prediction: Prediction, schedule: str) -> None:
    """An output off by d stands for an x_0 off by some e, and mse(d) = scale mse(e)."""
    process = Process(SCHEDULES[schedule](25))
    t, x_0, noise, x_t = every_t(process)
    target, off = prediction.target(process, x_0, noise, process.at(t)), randn(25, 1, 2, 2, seed=3)
    error = prediction.x_0(process, target + off, x_t, process.at(t)) - prediction.x_0(
        process, target, x_t, process.at(t)
    )
    ratio = (off**2).flatten(1).mean(1) / (error**2).flatten(1).mean(1)
    scale = prediction.scale(process, process.at(t))
    assert scale.shape == (25,)
    if schedule == "jsd" and isinstance(prediction, Epsilon):
        ratio, scale = ratio[:-1], scale[:-1]  # any noise stands for the same x_0 there
    torch.testing.assert_close(scale, ratio, rtol=1e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("T", [1, 2, 1000])
@each_prediction
def test_a_schedule_that_ends_in_pure_noise_has_finite_numbers(
    prediction: Prediction, T: int, dtype: torch.dtype
) -> None:
    process = Process(SCHEDULES["jsd"](T))
    t = full(2, T)
    x_0, noise, output = (randn(2, 1, 2, 2, seed=seed, dtype=dtype) for seed in range(3))
    output.requires_grad_()
    x_t = process.diffuse(x_0, t, noise)
    guess = prediction.x_0(process, output, x_t, process.at(t))
    guess.sum().backward()
    numbers = [
        prediction.target(process, x_0, noise, process.at(t)),
        guess,
        output.grad,
        prediction.scale(process, process.at(t)),
    ]
    assert all(bool(torch.isfinite(number).all()) for number in numbers)


def test_each_target_is_what_its_paper_says() -> None:
    """At a t where alpha_bar is 9/25, so that the roots are 3/5 and 4/5."""
    process = Process(torch.tensor([0.36, 1 - 0.36 / 0.64], dtype=torch.float64))
    x_0, noise = torch.full((1, 1, 1, 1), 2.0).double(), torch.full((1, 1, 1, 1), 10.0).double()
    targets = [p.target(process, x_0, noise, process.at(full(1, 2))).item() for p in (Epsilon(), Start(), Velocity())]
    assert targets == pytest.approx([10.0, 2.0, 0.6 * 10 - 0.8 * 2])
    # sqrt(ab_1) beta_2 / (1 - ab_2) x_0 + sqrt(alpha_2) (1 - ab_1) / (1 - ab_2) x_t, with x_t = 0.6 * 2 + 0.8 * 10
    of_x_0, of_x_t = 0.8 * 0.4375 / 0.64, 0.75 * 0.36 / 0.64
    previous = PreviousMean().target(process, x_0, noise, process.at(full(1, 2))).item()
    assert previous == pytest.approx(of_x_0 * 2 + of_x_t * 9.2)
