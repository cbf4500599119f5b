from pathlib import Path

import torch
from PIL import Image

from ddpm_lab.evaluation.generation import Samples
from ddpm_lab.evaluation.progressive import progressive, progressive_strip
from ddpm_lab.pixels import to_uint8
from ddpm_lab.samplers.ancestral import Ancestral
from ddpm_lab.samplers.ddim import DDIM
from ddpm_lab.seeds import ImageNoise
from tests.evaluation.toy import toy_denoiser

CPU = torch.device("cpu")


def test_the_last_column_is_the_sample_and_the_first_an_estimate_from_noise() -> None:
    denoiser = toy_denoiser()
    for sampler in (DDIM(10), Ancestral(10), DDIM(10, eta=1.0)):
        samples = Samples(denoiser, sampler, (1, 8, 8), 3, None, CPU)
        estimates, timesteps = progressive(samples, indices=range(4), columns=5)
        assert estimates.shape == (4, 5, 1, 8, 8)
        assert timesteps[0] == 40
        assert timesteps[-1] == 0
        assert timesteps == sorted(timesteps, reverse=True)
        assert (to_uint8(estimates[:, -1]).int() - samples([0, 1, 2, 3]).int()).abs().max() <= 1
        x_T = ImageNoise(3, range(4)).normal(1, 8, 8)
        assert torch.equal(estimates[:, 0], denoiser.estimate(x_T, torch.full((4,), 40), clip=True).x_0)


def test_a_middle_column_is_the_estimate_at_its_timestep() -> None:
    denoiser, sampler = toy_denoiser(), DDIM(4)
    estimates, timesteps = progressive(
        Samples(denoiser, sampler, (1, 8, 8), 0, None, CPU), indices=range(2), columns=100
    )
    assert timesteps == [40, 27, 14, 1, 0]  # a short walk shows every stage
    *_, x_1, image = sampler.walk(denoiser, ImageNoise(0, range(2)).normal(1, 8, 8))
    assert torch.equal(estimates[:, 4], image)
    assert torch.equal(estimates[:, 3], denoiser.estimate(x_1, torch.ones(2, dtype=torch.int64), clip=True).x_0)


def test_a_strip_of_a_conditional_model_is_drawn(tmp_path: Path) -> None:
    samples = Samples(toy_denoiser(num_classes=3), DDIM(6), (1, 8, 8), 0, range(3), CPU)
    progressive_strip(samples, "a caption", tmp_path / "strip.png", images=3, columns=4)
    with Image.open(tmp_path / "strip.png") as picture:
        assert picture.width > 4 * 56
        assert picture.height > 3 * 56
