from pathlib import Path

import pytest
import torch
from PIL import Image

from ddpm_lab.evaluation.generation import Samples
from ddpm_lab.evaluation.progressive import progressive, progressive_strip
from ddpm_lab.pixels import to_uint8
from ddpm_lab.samplers.ancestral import Ancestral
from ddpm_lab.samplers.ddim import DDIM
from ddpm_lab.samplers.heun import Heun
from ddpm_lab.samplers.repaint import RePaint
from ddpm_lab.samplers.sampler import Sampler
from ddpm_lab.seeds import ImageNoise
from tests.evaluation.toy import toy_denoiser
from tests.samplers.strange import Own

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
        torch.testing.assert_close(estimates[:, 0], denoiser.estimate(x_T, torch.full((4,), 40), clip=True).x_0)


def test_a_middle_column_is_the_estimate_at_its_timestep() -> None:
    denoiser, sampler = toy_denoiser(), DDIM(4)
    estimates, timesteps = progressive(
        Samples(denoiser, sampler, (1, 8, 8), 0, None, CPU), indices=range(2), columns=100
    )
    assert timesteps == [40, 27, 14, 1, 0]  # a short walk shows every stage
    *_, x_1, image = (x for _, x in sampler.walk(denoiser, ImageNoise(0, range(2)).normal(1, 8, 8)))
    assert torch.equal(estimates[:, 4], image)
    torch.testing.assert_close(estimates[:, 3], denoiser.estimate(x_1, torch.tensor(1), clip=True).x_0)


@pytest.mark.parametrize(
    ("sampler", "times"),
    [
        (Own(5), [40, 28, 19, 10]),  # of 14 steps: 0, 4, 7, 10
        (Heun(4, spacing="uniform"), [40, 27, 14, 1]),
        (RePaint(DDIM(4), 1, 2), [40, 27, 14, 1]),  # of 40, 27, 27, 14, 14, 1, 1: 0, 2, 4, 5
    ],
    ids=["own", "heun", "repaint"],
)
def test_a_column_is_named_by_where_the_walk_stands(sampler: Sampler, times: list[int]) -> None:
    denoiser = toy_denoiser()
    estimates, timesteps = progressive(Samples(denoiser, sampler, (1, 8, 8), 0, None, CPU), indices=range(2), columns=5)
    assert timesteps == [*times, 0]
    noise = ImageNoise(0, range(2))
    x = noise.normal(1, 8, 8)
    torch.testing.assert_close(estimates[:, 0], denoiser.estimate(x, torch.tensor(40), clip=True).x_0)
    assert torch.equal(estimates[:, 4], sampler(denoiser, x, randn_like=noise))


def test_a_strip_of_a_conditional_model_is_drawn(tmp_path: Path) -> None:
    samples = Samples(toy_denoiser(num_classes=3), DDIM(6), (1, 8, 8), 0, range(3), CPU)
    progressive_strip(samples, "a caption", tmp_path / "strip.png", images=3, columns=4)
    with Image.open(tmp_path / "strip.png") as picture:
        assert picture.width > 4 * 56
        assert picture.height > 3 * 56
