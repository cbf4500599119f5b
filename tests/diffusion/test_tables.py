"""Timesteps as one integer for the whole batch, as samplers give them, are those of [B] all alike."""

import pytest
import torch
from torch import Tensor, nn

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.predictions import Prediction
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.tables import reciprocal
from ddpm_lab.diffusion.variances import Variance
from tests.worlds import PREDICTIONS, SCHEDULES, VARIANCES, full, name, randn

TRIPLES = [(25, 24, None), (12, 7, 20), (3, 0, 12), (1, 0, 2), (25, 0, None)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("t", "s", "above"), TRIPLES)
def test_coefficients_of_an_integer_are_numbers(schedule: str, t: int, s: int, above: int | None) -> None:
    process = Process(SCHEDULES[schedule](25))
    tensors = full(1, t), full(1, s)
    for method, numbers, given in (
        (process.alpha_bar_at, (t,), tensors[:1]),
        (process.scales, (t,), tensors[:1]),
        (process.beta, (t, s), tensors),
        (process.posterior_coefficients, (t, s), tensors),
        (process.log_variance_bounds, (t, s, above), (*tensors, None if above is None else full(1, above))),
    ):
        found, wanted = method(*numbers), method(*given)
        for number, tensor in zip(*((x if isinstance(x, tuple) else (x,)) for x in (found, wanted)), strict=True):
            assert isinstance(number, float)
            assert number == tensor.item() or number != number
        assert method(*numbers) is found or isinstance(found, float)  # kept


class Linear(nn.Module):
    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        assert t.shape == (len(x),)
        return torch.cat([0.3 * x + t.view(-1, 1, 1, 1) / 100, 0.1 * x], dim=1)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
@pytest.mark.parametrize("variance", VARIANCES, ids=name)
@pytest.mark.parametrize("schedule", ["cosine", "jsd"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_a_step_is_the_same(
    prediction: Prediction, variance: Variance, schedule: str, dtype: torch.dtype, tolerance: float
) -> None:
    network = Linear()
    if variance.heads == 1:
        network.register_forward_hook(lambda module, arguments, output: output[:, :3])
    denoiser = Denoiser(network, Process(SCHEDULES[schedule](25)), prediction, variance, time_scale=1000 / 300)
    x = randn(4, 3, 2, 2).to(dtype)
    for t, s, above in TRIPLES:
        one = denoiser.estimate(x, t, clip=True)
        each = denoiser.estimate(x, full(4, t), clip=True)
        for a, b in zip(one, each, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
        p = denoiser.step(one, x, t, s, above)
        q = denoiser.step(each, x, full(4, t), full(4, s), None if above is None else full(4, above))
        for a, b in zip(p, q, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(
            *(
                variance.variance(denoiser.process, one.raw_variance, x, *times).expand_as(x)
                for times in ((t, s, above), (full(4, t), full(4, s), None if above is None else full(4, above)))
            )
        )


def test_the_reciprocal_of_nothing_is_nothing() -> None:
    assert reciprocal(0.0) == 0.0
    assert reciprocal(4.0) == 0.25
    assert torch.equal(reciprocal(torch.tensor([0.0, 4.0])), torch.tensor([0.0, 0.25]))


def test_names_and_mixtures() -> None:
    process = Process(SCHEDULES["cosine"](25))
    assert process.beta(t=3, s=2) == process.beta(3, 2)
    assert process.log_variance_bounds(3, 0, above=5) == process.log_variance_bounds(3, 0, 5)
    with pytest.raises(ValueError, match="all of them the one or the other"):
        process.beta(5, full(2, 3))
    torch.testing.assert_close(
        *(process.posterior(randn(2, 1), randn(2, 1), *pair) for pair in ((5, 3), (full(2, 5), full(2, 3))))
    )
