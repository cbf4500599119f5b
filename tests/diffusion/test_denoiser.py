"""The Denoiser calls its network as published checkpoints expect, and everything it says follows from one x_0."""

import pytest
import torch
from torch import Tensor, nn

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.predictions import Epsilon, Prediction, PreviousMean, Start
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import cosine, linear
from ddpm_lab.diffusion.variances import FixedLarge, FixedSmall, Learned, LearnedRange, Variance
from tests.worlds import PREDICTIONS, SCHEDULES, VARIANCES, full, mixer, name, randn

each_prediction = pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)


class Listening(nn.Module):
    """Remembers what it was called with, and returns `channels` channels of zeros in its own dtype."""

    def __init__(self, channels: int = 2, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.channels, self.dtype = channels, dtype
        self.heard: list[tuple] = []

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None) -> Tensor:
        self.heard.append((x, time, y))
        return torch.zeros(len(x), self.channels, *x.shape[2:], dtype=self.dtype)


@pytest.mark.parametrize("time_scale", [1.0, 2.5])
def test_the_network_is_called_once_with_time_from_zero_as_a_float(time_scale: float) -> None:
    network = Listening()
    model = Denoiser(network, Process(linear(400)), Epsilon(), FixedSmall(), time_scale)
    x_t, t, y = randn(3, 2, 2, 2, dtype=torch.float32), torch.tensor([1, 7, 400]), torch.tensor([4, 5, 6])
    model.estimate(x_t, t, y, clip=True)
    model.estimate(x_t, t, clip=False)
    (x, time, label), (_, _, no_label) = network.heard
    assert x is x_t
    assert time.is_floating_point()
    assert time.tolist() == [0, 6 * time_scale, 399 * time_scale]
    assert label is y
    assert no_label is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_network_tells_all_timesteps_apart_in_half_precision_too(dtype: torch.dtype) -> None:
    """bfloat16 holds the integers up to 256, float16 those up to 2048; an embedding must not get their roundings."""
    network = Listening(1)
    model = Denoiser(network, Process(linear(4000)), Epsilon(), FixedSmall())
    model.estimate(torch.zeros(4000, 1, 1, 1, dtype=dtype), torch.arange(1, 4001), clip=False)
    assert len(network.heard[0][1].unique()) == 4000


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("clip", [False, True])
@each_prediction
def test_the_estimated_noise_leads_from_x_0_to_x_t(prediction: Prediction, clip: bool, schedule: str) -> None:
    process = Process(SCHEDULES[schedule](25))
    t, x_t = torch.arange(1, 26), 2 * randn(25, 2, 2, 2)
    estimate = mixer(process, prediction, FixedSmall()).estimate(x_t, t, clip=clip)
    torch.testing.assert_close(process.diffuse(estimate.x_0, t, estimate.noise), x_t, rtol=1e-9, atol=1e-9)


@each_prediction
def test_without_clip_the_output_is_the_target_of_the_estimate(prediction: Prediction) -> None:
    process = Process(cosine(25))
    t, x_t = torch.arange(1, 26), randn(25, 2, 2, 2)
    estimate = mixer(process, prediction, FixedSmall()).estimate(x_t, t, clip=False)
    target = prediction.target(process, estimate.x_0, estimate.noise, process.at(t))
    torch.testing.assert_close(estimate.output, target, rtol=1e-8, atol=1e-8)


@each_prediction
def test_clip_clamps_x_0_and_the_mean_follows(prediction: Prediction) -> None:
    process = Process(linear(25))
    t, x_t = torch.arange(1, 26), 3 * randn(25, 2, 2, 2)
    model = mixer(process, prediction, FixedSmall())
    free, clipped = (model.estimate(x_t, t, clip=clip) for clip in (False, True))
    assert free.x_0.abs().max() > 1
    assert torch.equal(clipped.x_0, free.x_0.clamp(-1, 1))
    assert torch.equal(clipped.output, free.output)
    s = t // 2
    expected = process.posterior(free.x_0.clamp(-1, 1), x_t, t, s).mean
    torch.testing.assert_close(model.step(clipped, x_t, t, s).mean, expected)


def test_a_predicted_mean_is_the_mean_of_the_step() -> None:
    process = Process(linear(25))
    t, x_t = torch.arange(1, 26), randn(25, 2, 2, 2)
    model = mixer(process, PreviousMean(), FixedSmall())
    estimate = model.estimate(x_t, t, clip=False)
    torch.testing.assert_close(model.step(estimate, x_t, t, t - 1).mean, estimate.output)


@pytest.mark.parametrize("variance", VARIANCES, ids=name)
def test_a_step_has_the_mean_of_the_posterior_and_the_variance_of_the_variance(variance: Variance) -> None:
    process = Process(cosine(25))
    t, s, x_t = torch.tensor([25, 3, 2]), torch.tensor([6, 2, 0]), randn(3, 2, 2, 2)
    above = torch.tensor([25, 7, 11])
    model = mixer(process, Epsilon(), variance)
    estimate = model.estimate(x_t, t, clip=True)
    p = model.step(estimate, x_t, t, s, above)
    torch.testing.assert_close(p.mean, process.posterior(estimate.x_0, x_t, t, s).mean)
    log_variance = variance.log_variance(estimate.raw_variance, process.transition(t, s, above), x_t)
    assert p.log_variance.shape == x_t.shape
    torch.testing.assert_close(p.log_variance, log_variance.expand_as(x_t))


def test_the_second_head_is_the_raw_variance() -> None:
    process, x_t, t = Process(cosine(9)), randn(2, 3, 2, 2), full(2, 4)
    model = mixer(process, Start(), LearnedRange(), channels=3)
    both = model.network(x_t, (t - 1).double())
    estimate = model.estimate(x_t, t, clip=False)
    assert torch.equal(estimate.output, both[:, :3])
    assert estimate.raw_variance is not None
    assert torch.equal(estimate.raw_variance, both[:, 3:])
    assert mixer(process, Start(), FixedLarge()).estimate(x_t[:, :2], t, clip=False).raw_variance is None


@pytest.mark.parametrize(("variance", "returned"), [(FixedSmall(), 6), (Learned(), 3), (LearnedRange(), 5)], ids=name)
def test_a_network_of_other_channels_is_refused(variance: Variance, returned: int) -> None:
    model = Denoiser(Listening(returned), Process(cosine(9)), Epsilon(), variance)
    needed = 3 * variance.heads
    message = f"{name(variance)} needs a network with {needed} output channels for images of 3.*returned {returned};"
    with pytest.raises(ValueError, match=message):
        model.estimate(torch.zeros(1, 3, 2, 2), full(1, 4), clip=False)


@pytest.mark.parametrize("of_network", [torch.float16, torch.bfloat16])
def test_mixed_precision_ends_at_the_output(of_network: torch.dtype) -> None:
    process = Process(cosine(9))
    model = Denoiser(Listening(4, of_network), process, Epsilon(), LearnedRange())
    x_t, t = randn(2, 2, 2, 2, dtype=torch.float32), full(2, 4)
    estimate = model.estimate(x_t, t, clip=False)
    for field in (*estimate[:4], *model.step(estimate, x_t, t, t - 1)):
        assert field is not None
        assert field.dtype == torch.float32
    # eps = 0, so x_0 = x_t / sqrt(alpha_bar), which half precision would round.
    torch.testing.assert_close(estimate.x_0, x_t / process.alpha_bar[4].sqrt().float(), rtol=1e-6, atol=0)


def test_with_another_network_only_the_network_differs() -> None:
    network = Listening(4)
    model = Denoiser(nn.Identity(), Process(cosine(9)), Start(), LearnedRange(), time_scale=3.0).with_network(network)
    estimate = model.estimate(torch.ones(1, 2, 2, 2), full(1, 4), clip=False)
    assert network.heard[0][1].tolist() == [9.0]
    assert estimate.x_0.abs().max() == 0  # Start takes the output as it is
    assert estimate.raw_variance is not None
