"""Classifier guidance and classifier-free guidance against the public code and the paper's formula."""

import pytest
import torch
from torch import Tensor, nn

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.guidance import ClassifierFree, ClassifierGuided
from ddpm_lab.diffusion.predictions import Epsilon
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.variances import FixedSmall
from ddpm_lab.samplers.ddim import DDIM
from tests.golden import Golden
from tests.golden.replay import SCHEDULES, NoiseOf, denoiser
from tests.samplers.test_golden_walks import toy_denoiser, walk_of

GOLDEN = Golden("guidance.npz")
STEPS = sorted(name.removesuffix("/condition_mean") for name in GOLDEN.names() if name.endswith("/condition_mean"))
SCALE = GOLDEN["step/scale"].item()
ANY = torch.zeros(1000, dtype=torch.int64)  # labels, which these gradients do not look at


def towards(target: Tensor):
    """log p whose gradient is -s (x - c), with s = 1: the scale is the guidance's."""
    return lambda x, t, y: -0.5 * ((x - target) ** 2).flatten(1).sum(1)


def guided(key: str, rows: slice = slice(None)) -> ClassifierGuided:
    _, schedule, variance = key.split("/")
    T = int(GOLDEN["step/t"].max()) + 1  # the last timestep is among them
    model, _ = denoiser(Process(SCHEDULES[schedule](T)), variance, "EPSILON", GOLDEN["step/model_output"][rows])
    return ClassifierGuided(model, towards(GOLDEN["step/target"][rows]), SCALE)


@pytest.mark.parametrize("key", STEPS)
def test_a_step(key: str) -> None:
    model, x_t, t = guided(key), GOLDEN["step/x_t"], GOLDEN["step/t"] + 1
    estimate = model.estimate(x_t, t, ANY[: len(t)], clip=True)
    assert estimate.shift is not None
    GOLDEN.close(estimate.shift.x_0, f"{key}/unguided_pred_xstart")
    unguided = model.denoiser.estimate(x_t, t, clip=True)
    GOLDEN.close(model.denoiser.step(unguided, x_t, t, t - 1).mean, f"{key}/unguided_mean")
    step = model.process.transition(t, t - 1)
    variance = model.variance.variance(unguided.raw_variance, step, x_t)
    GOLDEN.close(variance.view_as(GOLDEN[f"{key}/unguided_variance"]).float(), f"{key}/unguided_variance")
    GOLDEN.close(estimate.x_0, f"{key}/condition_score_pred_xstart")
    GOLDEN.close(model.process.posterior(estimate.x_0, x_t, t, t - 1).mean, f"{key}/condition_score_mean")
    p = model.step(estimate, x_t, t, t - 1)
    GOLDEN.close(p.mean, f"{key}/condition_mean")
    GOLDEN.close(p.sample(GOLDEN["step/noise"] * (t > 1)[:, None, None, None]), f"{key}/p_sample")


@pytest.mark.parametrize("name", GOLDEN.names("step/*/ddim_sample_eta*"))
def test_a_ddim_step(name: str) -> None:
    key, _, kind = name.rpartition("/")
    eta = float(kind.removeprefix("ddim_sample_eta"))
    for i, now in enumerate((GOLDEN["step/t"] + 1).tolist()):
        row = slice(i, i + 1)
        sampler = DDIM(None, eta, lambda T, steps, now=now: list(range(1, now + 1)))
        _, x = next(
            sampler.walk(guided(key, row), GOLDEN["step/x_t"][row], ANY[:1], NoiseOf(GOLDEN["step/noise"][None, row]))
        )
        torch.testing.assert_close(x, GOLDEN[name][row], rtol=1e-5, atol=10 * GOLDEN.spread(name) + 1e-7)


@pytest.mark.parametrize("loop", GOLDEN.groups("loop/*/sample"))
def test_whole_walks(loop: str) -> None:
    _, schedule, run = loop.split("/")
    _, _, make = walk_of(run)
    config, inner = toy_denoiser(schedule, "LEARNED_RANGE", "EPSILON")
    for key in ("num_timesteps", "section_counts", "rescale_timesteps"):
        assert config[key] == GOLDEN.text(f"loop/{schedule}/config")[key]
    times: list[Tensor] = []

    def log_prob(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        times.append((t - 1).float() * inner.shown.time_scale)
        return towards(GOLDEN["loop/target"])(x, t, y) * (1 + times[-1] / 1000)

    walk = make(config).walk(
        ClassifierGuided(inner, log_prob, SCALE, labels=no_labels),
        GOLDEN["loop/start_noise"],
        ANY[: len(GOLDEN["loop/start_noise"])],
        NoiseOf(GOLDEN["loop/step_noise"]),
    )
    GOLDEN.close(torch.stack([x for _, x in walk]), f"loop/{schedule}/{run}/sample")
    if run == "p":
        torch.testing.assert_close(torch.stack(times), GOLDEN[f"loop/{schedule}/cond_t"], rtol=1e-6, atol=0)


def no_labels(y: Tensor) -> None:
    """For a network that has none."""


def test_classifier_free() -> None:
    class Halves(nn.Module):
        def forward(self, x: Tensor, time: Tensor, y: Tensor) -> Tensor:
            return torch.where(y[:, None, None, None] == 7, eps["uncond"][: len(y)], eps["cond"][: len(y)])

    w, (B, *shape) = GOLDEN["cfg/w"], GOLDEN["cfg/eps_cond"].shape
    eps = {half: GOLDEN[f"cfg/eps_{half}"].repeat(2, 1, 1, 1) for half in ("cond", "uncond")}
    for i, scale in enumerate(w.tolist()):
        inner = Denoiser(Halves(), Process(SCHEDULES["linear"](1000)), Epsilon(), FixedSmall())
        x = torch.zeros(B, *shape)
        estimate = ClassifierFree(inner, 7, scale).estimate(x, torch.full((B,), 500), ANY[:B], clip=False)
        torch.testing.assert_close(estimate.output, GOLDEN["cfg/eps"][i], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(estimate.noise, GOLDEN["cfg/eps"][i], rtol=1e-4, atol=1e-4)
