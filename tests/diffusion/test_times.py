"""Times: integers are the table's, reals lie between them, one of a whole batch is each image's; and paths without a table."""

import pytest
import torch
from torch import Tensor, nn

from ddpm_lab.diffusion.coefficients import append_dims, levels_of, reciprocal, transitions_of
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.predictions import Prediction
from ddpm_lab.diffusion.process import LOG_SIGNAL, LOG_SNR, Between, GaussianPath, Process
from ddpm_lab.diffusion.schedules import cosine, linear
from ddpm_lab.diffusion.variances import Variance
from tests.worlds import PREDICTIONS, SCHEDULES, VARIANCES, full, name, randn

TRIPLES = [(25, 24, None), (12, 7, 20), (3, 0, 12), (1, 0, 2), (25, 0, None)]


def real(*times: float) -> Tensor:
    return torch.tensor(times, dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_whole_numbers_are_looked_up_bit_for_bit_whatever_their_type(schedule: str) -> None:
    process = Process(SCHEDULES[schedule](25))
    t = torch.arange(26)
    for of_integers, of_reals in zip(process.at(t), process.at(t.double()), strict=True):
        assert torch.equal(of_integers.double(), of_reals)
    assert torch.equal(process.at(t).alpha_bar, process.alpha_bar)


@pytest.mark.parametrize(
    ("between", "line"),
    [(LOG_SNR, lambda level: 2 * level.half_log_snr), (LOG_SIGNAL, lambda level: level.signal.log())],
)
def test_what_lies_between_two_timesteps_is_a_line_in_what_the_process_says(between: Between, line) -> None:
    process = Process(linear(25), between)
    low, high, quarter = (line(process.at(real(t))).item() for t in (7, 8, 7.25))
    assert quarter == pytest.approx(0.75 * low + 0.25 * high, rel=1e-12)
    t = real(1, 1.5, 7.25, 24.999, 25)
    torch.testing.assert_close(process.time_at(2 * process.at(t).half_log_snr), t, rtol=1e-9, atol=1e-9)
    assert process.time_at(real(-100, 100)).tolist() == [25, 1]


def test_times_that_there_are_not_are_refused() -> None:
    process = Process(cosine(25))
    for t in (0.5, 25.5, -0.5, 26, -1):
        with pytest.raises(
            ValueError, match=rf"t={t} is no time of this process: there are 0 and those from 1 to T=25"
        ):
            process.at(real(3, t))
    pure = Process(torch.tensor([0.1, 0.2, 1.0]))
    assert pure.at(real(2)).alpha_bar.item() == pytest.approx(0.72)
    assert pure.at(real(3)).alpha_bar.item() == 0
    with pytest.raises(ValueError, match="ends in pure noise, and between T - 1 and T=3"):
        pure.at(real(2.5))


def test_two_forward_steps_are_one() -> None:
    """q(x_t | x_0) is q(x_t | x_s) of q(x_s | x_0), at reals too."""
    process = Process(cosine(25))
    s, t = real(3.7), real(11.2)
    beta = process.transition(t, s).beta
    torch.testing.assert_close((1 - beta) * process.at(s).alpha_bar, process.at(t).alpha_bar)
    torch.testing.assert_close(
        (1 - beta) * process.at(s).noise ** 2 + beta, process.at(t).noise ** 2, rtol=1e-12, atol=1e-12
    )


class StraightLine(GaussianPath):
    """x_t = (1 - t) x_0 + t eps, divided by the root of (1 - t)^2 + t^2 (Lipman et al. 2023, arXiv 2210.02747)."""

    T = 1.0

    def log_alpha_bar_at(self, t: Tensor) -> Tensor:
        return 2 * torch.log1p(-t) - torch.log((1 - t) ** 2 + t**2)

    def time_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


def test_a_path_without_a_table_has_the_same_laws() -> None:
    path, t, s = StraightLine(), real(0.8), real(0.3)
    scale = [((1 - u) ** 2 + u**2).sqrt() for u in (t, s)]
    # By the rules of Gaussians, from x_t = (a_t x_0 + sigma_t eps) / c_t: x_s given x_t and x_0.
    a_t, a_s, sigma_t, sigma_s = ((1 - t) / scale[0], (1 - s) / scale[1], t / scale[0], s / scale[1])
    ratio = a_t / a_s
    noise = sigma_t**2 - ratio**2 * sigma_s**2
    gain = ratio * sigma_s**2 / sigma_t**2
    x_0, x_t = randn(1, 1, 2, 2), randn(1, 1, 2, 2, seed=1)
    posterior = path.posterior(x_0, x_t, t, s)
    torch.testing.assert_close(posterior.mean, a_s.item() * x_0 + gain.item() * (x_t - a_t.item() * x_0))
    torch.testing.assert_close(posterior.log_variance.exp().mean().item(), (noise * sigma_s**2 / sigma_t**2).item())
    torch.testing.assert_close(path.time_at(2 * path.at(t).half_log_snr), t)
    assert path.same_as(StraightLine())
    assert not path.same_as(Process(cosine(5)))


class Linear(nn.Module):
    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        assert t.shape == (len(x),)
        return torch.cat([0.3 * x + t.view(-1, 1, 1, 1) / 100, 0.1 * x], dim=1)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
@pytest.mark.parametrize("variance", VARIANCES, ids=name)
@pytest.mark.parametrize("schedule", ["cosine", "jsd"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_one_time_for_all_is_that_of_each(
    prediction: Prediction, variance: Variance, schedule: str, dtype: torch.dtype, tolerance: float
) -> None:
    network = Linear()
    if variance.heads == 1:
        network.register_forward_hook(lambda module, arguments, output: output[:, :3])
    process = Process(SCHEDULES[schedule](25))
    denoiser = Denoiser(network, process, prediction, variance, time_scale=1000 / 300)
    x = randn(4, 3, 2, 2).to(dtype)
    for t, s, previous in TRIPLES:
        before = None if previous is None else full(1, previous)
        (step,) = transitions_of(process.transition(full(1, t), full(1, s), before))
        one = denoiser.estimate(x, step.t, clip=True)
        each = denoiser.estimate(x, full(4, t), clip=True)
        for a, b in zip(one[:3], each[:3], strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
        p = denoiser.reverse(one, x, step)
        q = denoiser.step(each, x, full(4, t), full(4, s), None if previous is None else full(4, previous))
        for a, b in zip(p, q, strict=True):
            torch.testing.assert_close(a.to(dtype).expand_as(x), b, rtol=tolerance, atol=tolerance)
        wide = process.transition(full(4, t), full(4, s), None if before is None else full(4, previous))
        found, wanted = (variance.variance(one.raw_variance, of, x).to(dtype).expand_as(x) for of in (step, wide))
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def test_coefficients_of_a_batch_and_of_one_time() -> None:
    process, x = Process(cosine(25)), randn(3, 1, 2, 2)
    level = process.at(torch.tensor([3, 4, 5]))
    assert append_dims(level.signal, x.float()).shape == (3, 1, 1, 1)
    assert append_dims(level.signal, x.float()).dtype == torch.float32
    first = levels_of(level)[0]
    assert first.signal.shape == ()
    assert (first.signal * x.float()).dtype == torch.float32
    assert torch.equal(reciprocal(torch.tensor([0.0, 4.0])), torch.tensor([0.0, 0.25]))
