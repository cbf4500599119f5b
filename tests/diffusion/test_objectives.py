"""Objectives: what each minimises, what it leaves alone, and which variances it can train."""

import pytest
import torch
from torch import Tensor

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.likelihood import bits_per_dim, mse, vlb_term
from ddpm_lab.diffusion.objectives import Hybrid, Objective, Simple, Vlb
from ddpm_lab.diffusion.predictions import Epsilon, Prediction
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import cosine, linear
from ddpm_lab.diffusion.variances import FixedLarge, FixedSmall, Learned, LearnedRange, Variance
from ddpm_lab.diffusion.weightings import min_snr
from tests.worlds import PREDICTIONS, SCHEDULES, VARIANCES, Replay, mixer, name, randn

FIXED, LEARNED = [FixedSmall(), FixedLarge()], [Learned(), LearnedRange()]
VALID: list[tuple[Objective, Variance]] = [
    *((Simple(), variance) for variance in FIXED),
    *((Vlb(), variance) for variance in VARIANCES),
    *((Hybrid(), variance) for variance in LEARNED),
]
each_prediction = pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)


def batch(T: int = 25) -> tuple[Tensor, Tensor, Tensor]:
    """(x_0 in [-1, 1], t from 1 to T, noise)."""
    t = torch.tensor([1, 2, T // 2, T - 1, T])
    return randn(5, 2, 3, 3, seed=7).clamp(-1, 1), t, randn(5, 2, 3, 3, seed=8)


def gradients(model: Denoiser, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.network.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for name, parameter, gradient in zip(names, parameters, found, strict=True)
    }


@each_prediction
def test_simple_is_the_error_of_the_output(prediction: Prediction) -> None:
    process = Process(cosine(25))
    model, (x_0, t, noise) = mixer(process, prediction, FixedSmall()), batch()
    losses = Simple()(model, x_0, t, noise=noise)
    ab = process.alpha_bar[t].view(-1, 1, 1, 1)
    x_t = ab.sqrt() * x_0 + (1 - ab).sqrt() * noise
    output = model.network(x_t, (t - 1).double())
    expected = ((output - prediction.target(process, x_0, noise, process.at(t))) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(losses["loss"], expected)
    torch.testing.assert_close(losses["mse"], expected)


@pytest.mark.parametrize("variance", LEARNED, ids=name)
@each_prediction
def test_hybrid_is_simple_plus_the_weighted_bound(prediction: Prediction, variance: Variance) -> None:
    process = Process(cosine(25))
    model, (x_0, t, noise) = mixer(process, prediction, variance), batch()
    hybrid = Hybrid(0.01, min_snr)(model, x_0, t, noise=noise)
    whole = Vlb()(model, x_0, t, noise=noise)
    torch.testing.assert_close(hybrid["vlb"], whole["vlb"])
    torch.testing.assert_close(25 * whole["vlb"], whole["loss"])
    # The same mean head alone, under simple.
    fixed = mixer(process, prediction, FixedSmall())
    simple = Simple(min_snr)(fixed, x_0, t, noise=noise)
    torch.testing.assert_close(hybrid["mse"], simple["mse"])
    torch.testing.assert_close(hybrid["loss"], simple["loss"] + 0.01 * 25 * hybrid["vlb"])


@pytest.mark.parametrize("variance", LEARNED, ids=name)
@each_prediction
def test_hybrid_moves_the_mean_by_the_error_alone_and_the_variance_by_the_bound_alone(
    prediction: Prediction, variance: Variance
) -> None:
    model, (x_0, t, noise) = mixer(Process(cosine(25)), prediction, variance), batch()
    hybrid = gradients(model, Hybrid(0.001)(model, x_0, t, noise=noise)["loss"].sum())
    bound = gradients(model, Vlb()(model, x_0, t, noise=noise)["loss"].sum())
    x_t = model.process.diffuse(x_0, t, noise)
    error = mse(
        model.estimate(x_t, t, clip=False).output, prediction.target(model.process, x_0, noise, model.process.at(t))
    )
    torch.testing.assert_close(hybrid["mean"], gradients(model, error.sum())["mean"])
    torch.testing.assert_close(hybrid["raw"], 0.001 * bound["raw"])
    assert bound["mean"].abs().max() > 0
    assert hybrid["raw"].abs().max() > 0


@pytest.mark.parametrize("variance", VARIANCES, ids=name)
@pytest.mark.parametrize("T", [1, 25])
def test_the_bound_averaged_over_all_timesteps_is_the_bound_of_the_chain(variance: Variance, T: int) -> None:
    model, x_0 = mixer(Process(cosine(T)), Epsilon(), variance), randn(3, 2, 2, 2, seed=1).clamp(-1, 1)
    noises = [randn(3, 2, 2, 2, seed=10 + t) for t in range(T + 1)]
    averaged = torch.stack(
        [Vlb()(model, x_0, torch.full((3,), t), noise=noises[t])["loss"] for t in range(1, T + 1)]
    ).mean(0)
    whole = bits_per_dim(model, x_0, clip=False, randn_like=Replay(noises[:0:-1]))
    torch.testing.assert_close(averaged + whole.prior, whole.total)


@pytest.mark.parametrize("variance", LEARNED, ids=name)
def test_simple_refuses_a_variance_it_cannot_train(variance: Variance) -> None:
    message = f"{name(variance)}.*set variance=fixed_large or fixed_small, or objective=hybrid"
    x_0, t, noise = batch()
    with pytest.raises(ValueError, match=message):
        Simple().check(variance)
    with pytest.raises(ValueError, match=message):
        Simple()(mixer(Process(cosine(25)), Epsilon(), variance), x_0, t, noise=noise)


@pytest.mark.parametrize("variance", FIXED, ids=name)
def test_hybrid_refuses_a_variance_that_has_nothing_to_train(variance: Variance) -> None:
    message = f"{name(variance)} has none to train; set variance=learned_range or learned, or objective=simple"
    x_0, t, noise = batch()
    with pytest.raises(ValueError, match=message):
        Hybrid().check(variance)
    with pytest.raises(ValueError, match=message):
        Hybrid()(mixer(Process(cosine(25)), Epsilon(), variance), x_0, t, noise=noise)


@pytest.mark.parametrize(("objective", "variance"), VALID, ids=[f"{name(o)}-{name(v)}" for o, v in VALID])
def test_losses_come_per_image_and_only_what_is_minimised_has_a_gradient(
    objective: Objective, variance: Variance
) -> None:
    objective.check(variance)
    model, (x_0, t, noise) = mixer(Process(linear(25)), Epsilon(), variance), batch()
    losses = objective(model, x_0, t, noise=noise)
    assert set(losses) == {"loss", "mse"} | (set() if isinstance(objective, Simple) else {"vlb"})
    assert all(loss.shape == (5,) for loss in losses.values())
    assert {key for key, loss in losses.items() if loss.requires_grad} == {"loss"}
    # Each image's loss is its own: alone in the batch it is the same.
    alone = objective(model, x_0[2:3], t[2:3], noise=noise[2:3])
    for key, loss in losses.items():
        torch.testing.assert_close(loss[2:3], alone[key])


@pytest.mark.parametrize(("objective", "variance"), VALID, ids=[f"{name(o)}-{name(v)}" for o, v in VALID])
def test_a_loss_takes_its_labels_and_draws_its_noise(objective: Objective, variance: Variance) -> None:
    model, (x_0, t, noise) = mixer(Process(linear(25)), Epsilon(), variance), batch()
    y = torch.arange(5)
    assert not torch.allclose(
        objective(model, x_0, t, y, noise)["loss"][1:], objective(model, x_0, t, None, noise)["loss"][1:]
    )
    torch.manual_seed(0)
    drawn = objective(model, x_0, t, y)["loss"]
    torch.manual_seed(0)
    torch.testing.assert_close(drawn, objective(model, x_0, t, y, torch.randn_like(x_0))["loss"])


@pytest.mark.parametrize("T", [25, 1000])
@pytest.mark.parametrize("schedule", SCHEDULES)
@each_prediction
def test_every_combination_is_finite_at_both_ends(prediction: Prediction, schedule: str, T: int) -> None:
    process = Process(SCHEDULES[schedule](T))
    x_0, t, noise = (part if part.dtype == torch.int64 else part.float() for part in batch(T))
    for objective, variance in VALID:
        model = mixer(process, prediction, variance, dtype=torch.float32)
        losses = objective(model, x_0, t, noise=noise)
        losses["loss"].sum().backward()
        finite = [bool(torch.isfinite(loss).all()) for loss in losses.values()]
        finite += [bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None]
        assert all(finite), (name(objective), name(variance), losses)


def test_the_bound_of_a_perfect_single_image_is_zero_above_its_decoder() -> None:
    """All data one point, and its posterior known: p(x_s | x_t) with beta~ is q(x_s | x_t, x_0) itself."""
    process = Process(linear(25))
    x_0, t, noise = batch()
    model = mixer(process, Epsilon(), FixedSmall())
    x_t = process.diffuse(x_0, t, noise)
    perfect = model.estimate(x_t, t, clip=False)._replace(x_0=x_0)
    terms = vlb_term(model, perfect, x_0, x_t, t)
    torch.testing.assert_close(terms[1:], torch.zeros(4, dtype=torch.float64))
    assert terms[0] > 0
