"""Weights of the squared error against their papers, for every prediction."""

import pytest
import torch
from torch import Tensor

from ddpm_lab.diffusion.objectives import Simple, Weighting
from ddpm_lab.diffusion.predictions import Epsilon, Prediction, PreviousMean, Start, Velocity
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import cosine, jsd
from ddpm_lab.diffusion.variances import FixedSmall
from ddpm_lab.diffusion.weightings import min_snr, p2, snr, uniform
from tests.worlds import PREDICTIONS, mixer, name, randn

PROCESS = Process(cosine(50))
T = torch.arange(1, 51)
SNR = PROCESS.alpha_bar[T] / (1 - PROCESS.alpha_bar[T])


def weight(weighting: Weighting, prediction: Prediction, **options: float) -> Tensor:
    return weighting(PROCESS.at(T).snr, prediction.scale(PROCESS, PROCESS.at(T)), **options)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
def test_uniform_leaves_the_error_as_it_is(prediction: Prediction) -> None:
    assert weight(uniform, prediction).unique().tolist() == [1.0]


def test_snr_weighting_by_prediction() -> None:
    """Salimans & Ho 2022: the error of eps is snr times that of x_0, and that of v is snr + 1 times."""
    torch.testing.assert_close(weight(snr, Start()), SNR)
    torch.testing.assert_close(weight(snr, Epsilon()), torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(weight(snr, Velocity()), SNR / (SNR + 1))


def test_min_snr_by_prediction() -> None:
    """Hang et al. 2023, section 3.4: for x_0, eps and v."""
    clamped = torch.minimum(SNR, torch.tensor(5.0).double())
    assert bool((SNR > 5).any())
    assert bool((SNR < 5).any())
    torch.testing.assert_close(weight(min_snr, Start()), clamped)
    torch.testing.assert_close(weight(min_snr, Epsilon()), clamped / SNR)
    torch.testing.assert_close(weight(min_snr, Velocity()), clamped / (SNR + 1))
    torch.testing.assert_close(weight(min_snr, Start(), gamma=1.0), SNR.clamp(max=1))


def test_p2_by_prediction() -> None:
    """Choi et al. 2022: 1 / (k + snr)^gamma on the noise-error."""
    torch.testing.assert_close(weight(p2, Epsilon()), 1 / (1 + SNR))
    torch.testing.assert_close(weight(p2, Start(), k=2.0, gamma=0.5), SNR / (2 + SNR).sqrt())
    torch.testing.assert_close(weight(p2, Epsilon(), gamma=0.0), torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize("weighting", [snr, min_snr, p2], ids=name)
def test_a_weighting_of_x_0_weighs_every_prediction_alike(weighting: Weighting) -> None:
    """The same wrong x_0, said in four ways, costs the same."""
    x_0, noise, x_t_noise = randn(50, 2, 2, 2, seed=1), randn(50, 2, 2, 2, seed=2), randn(50, 2, 2, 2, seed=3)
    x_t = PROCESS.diffuse(x_0, T, noise)
    wrong = x_0 + 0.1 * x_t_noise
    wrong_noise = mixer(PROCESS, Start(), FixedSmall()).noise(wrong, x_t, T)
    losses = []
    for prediction in (Epsilon(), Start(), Velocity(), PreviousMean()):
        # Both targets from the one x_t: what the network should say, and what says the wrong x_0.
        right = prediction.target(PROCESS, x_0, noise, PROCESS.at(T))
        off = prediction.target(PROCESS, wrong, wrong_noise, PROCESS.at(T))
        losses.append(weight(weighting, prediction) * ((right - off) ** 2).flatten(1).mean(1))
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("weighting", [snr, min_snr, p2], ids=name)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
def test_weights_are_finite_and_positive_where_no_signal_is_left(prediction: Prediction, weighting: Weighting) -> None:
    process, t = Process(jsd(25)), torch.tensor([1, 25])
    weights = weighting(process.at(t).snr, prediction.scale(process, process.at(t)))
    assert bool((torch.isfinite(weights) & (weights > 0)).all())


def test_simple_multiplies_its_error_by_the_weight() -> None:
    model = mixer(PROCESS, Epsilon(), FixedSmall())
    x_0, noise = randn(50, 2, 2, 2, seed=1), randn(50, 2, 2, 2, seed=2)
    losses = Simple(min_snr)(model, x_0, T, noise=noise)
    torch.testing.assert_close(losses["loss"], SNR.clamp(max=5) / SNR * losses["mse"])
