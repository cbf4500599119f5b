"""A walk starts in noise, or says how far from it."""

import pytest
import torch

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.guidance import ClassifierFree, ClassifierGuided, Inpainted
from ddpm_lab.diffusion.predictions import Epsilon
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import cosine, linear, quadratic
from ddpm_lab.diffusion.variances import FixedSmall
from ddpm_lab.samplers.ancestral import Ancestral
from ddpm_lab.samplers.ddim import DDIM
from ddpm_lab.samplers.sampler import Sampler, check_guidance, check_start, start_signal
from ddpm_lab.samplers.spacings import NAMED
from tests.worlds import GaussianWorld, mixer, name, oracle, randn


@pytest.mark.parametrize("make", [DDIM, Ancestral])
@pytest.mark.parametrize("spacing", NAMED)
def test_a_walk_of_one_step_goes_from_noise_to_the_image(make: type[Sampler], spacing: str) -> None:
    sampler, process = make(steps=1, spacing=spacing), Process(cosine(50))
    assert sampler.times(process) == [50]
    world = GaussianWorld.isotropic(0.4, 0.1)
    images = sampler(oracle(world, process), randn(500, 1, 1, 1))
    torch.testing.assert_close(images, torch.full_like(images, 0.4), rtol=0, atol=0.01)  # E[x_0], by a single question
    assert check_start(sampler, process) is None


@pytest.mark.parametrize(
    ("sampler", "t", "signal"),
    [
        (DDIM(spacing=[1]), 1, "1"),  # counts of sections are the public code's, which takes their firsts
        (DDIM(spacing="1,1,1"), 35, "0.45"),
        (Ancestral(spacing=[10, 1]), 26, "0.68"),
        (DDIM(2, spacing=lambda T, steps: [1, 5]), 5, "0.99"),
        (DDIM(10, spacing="quadratic"), 41, "0.28"),
    ],
    ids=["one", "three", "last", "function", "quadratic"],
)
def test_a_walk_that_starts_far_from_noise_says_so(sampler: Sampler, t: int, signal: str) -> None:
    process = Process(cosine(50))
    said = check_start(sampler, process)
    assert said is not None
    assert f"the walk of {name(sampler)} starts at t = {t} of T = 50, where sqrt(alpha_bar_t) = {signal} of" in said
    assert start_signal(sampler, process) == pytest.approx(process.alpha_bar[t].item() ** 0.5)


@pytest.mark.parametrize(
    ("sampler", "process"),
    [
        (DDIM(20), Process(cosine(1000))),
        (DDIM(50, spacing="ddim"), Process(cosine(1000))),  # t = 981, as in the public code
        (DDIM(10, spacing="ddim"), Process(linear(1000))),  # t = 901
        (DDIM(20, spacing="quadratic"), Process(linear(1000))),  # t = 801 of Song et al.
        (DDIM(50), Process(quadratic(50))),  # .83, which is the schedule's
        (DDIM(25, spacing="ddim"), Process(quadratic(50))),
    ],
    ids=["uniform", "ddim", "linear", "quadratic", "schedule", "both"],
)
def test_a_start_as_noisy_as_can_be_is_not_mentioned(sampler: Sampler, process: Process) -> None:
    assert check_start(sampler, process) is None


def test_a_walk_that_meets_no_guidance_says_so() -> None:
    inner = mixer(Process(cosine(100)), Epsilon(), FixedSmall())  # DDIM(4) visits 1, 34, 67, 100
    never = ClassifierFree(inner, 3, 2.0, interval=(40, 60))
    said = check_guidance(DDIM(4), never)
    assert said is not None
    assert said.startswith("ClassifierFree acts at none of the 4 times [1, 34, 67, 100] that a walk of DDIM visits")
    assert check_guidance(DDIM(5), never) is None  # 50 or 51
    assert check_guidance(DDIM(4), ClassifierFree(inner, 3, 2.0)) is None
    assert check_guidance(DDIM(4), inner) is None
    late = ClassifierFree(inner, 3, 2.0, interval=(90, 100))
    assert check_guidance(DDIM(4), late) is None
    assert "acts at none of the 2 times [1, 34]" in (check_guidance(DDIM(4), late, start=34) or "")
    faint = ClassifierGuided(never, lambda x, t, y: x.flatten(1).sum(1), 1.0, min_alpha_bar=0.99999)
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    outside: Denoiser = Inpainted(faint, randn(1, 2, 3, 3), mask)
    assert (check_guidance(DDIM(4), outside) or "").startswith("ClassifierGuided acts at none of")
