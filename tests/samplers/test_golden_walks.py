"""Single steps and whole walks against the public code."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ddpm_lab.checkpoints import openai
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.process import Process
from ddpm_lab.samplers.ancestral import Ancestral
from ddpm_lab.samplers.ddim import DDIM
from ddpm_lab.samplers.sampler import Sampler
from tests.golden import Golden
from tests.golden.replay import SCHEDULES, NoiseOf, denoiser

GOLDEN = Golden("sampling.npz")
PMV = sorted(key.removesuffix("/mean") for key in GOLDEN.names() if key.startswith("pmv/") and key.endswith("/mean"))


def model_of(key: str, *outputs: Tensor) -> Denoiser:
    _, schedule, variance, prediction, _ = key.split("/")
    return denoiser(Process(SCHEDULES[schedule](1000)), variance, prediction, *outputs)[0]


@pytest.mark.parametrize("key", PMV)
def test_mean_and_variance(key: str) -> None:
    model, clip = model_of(key, GOLDEN["pmv/model_output"]), key.endswith("1")
    x_t, t = GOLDEN["pmv/x_t"], GOLDEN["pmv/t"] + 1
    estimate = model.estimate(x_t, t, clip=clip)
    GOLDEN.close(estimate.x_0, f"{key}/pred_xstart")
    p = model.step(estimate, x_t, t, t - 1)
    if "PREVIOUS_X" in key and clip:
        # The public code clips its x_0 here but keeps the unclipped mean; ours follows from the clipped x_0.
        clipped = GOLDEN[f"{key}/pred_xstart"]
        torch.testing.assert_close(p.mean, model.process.posterior(clipped, x_t, t, t - 1).mean, rtol=1e-5, atol=1e-5)
    else:
        GOLDEN.close(p.mean, f"{key}/mean")
    log_variance = p.log_variance if "LEARNED" in key else p.log_variance[:, 0, 0, 0]
    GOLDEN.close(log_variance, f"{key}/log_variance")
    # At its first timestep their fixed-small variance is 0 where its log-variance is not.
    where = torch.ones_like(log_variance, dtype=torch.bool)
    where[t == 1] = "FIXED_SMALL" not in key
    GOLDEN.close(log_variance.exp(), f"{key}/variance", where)
    if f"{key}/p_sample" in GOLDEN.names():
        noise = GOLDEN["pmv/noise"] * (t > 1)[:, None, None, None]
        GOLDEN.close(p.sample(noise), f"{key}/p_sample")


@pytest.mark.parametrize("key", [key for key in PMV if f"{key}/ddim_reverse_sample" in GOLDEN.names()])
def test_one_ddim_step(key: str) -> None:
    """Each image is at another timestep, so each takes its own step of a walk through all timesteps."""
    clip = key.endswith("1")
    t = GOLDEN["pmv/t"] + 1
    for i, now in enumerate(t.tolist()):
        model = model_of(key, GOLDEN["pmv/model_output"][i : i + 1])
        x_t = GOLDEN["pmv/x_t"][i : i + 1]
        for eta, name in [(0.0, "ddim_sample_eta0"), (0.6, "ddim_sample_eta0.6")]:
            walk = DDIM(None, eta, lambda T, steps, now=now: list(range(1, now + 1)), clip).walk(
                model, x_t, randn_like=NoiseOf(GOLDEN["pmv/noise"][i : i + 1, None])
            )
            stored = GOLDEN[f"{key}/{name}"][i : i + 1]
            torch.testing.assert_close(
                next(iter(walk))[1], stored, rtol=1e-5, atol=10 * GOLDEN.spread(f"{key}/{name}") + 1e-7
            )
        if now < 1000:  # their last one goes on to alpha_bar = 0, past the end of the process
            up = DDIM(None, 0.0, lambda T, steps, now=now: list(range(now, T + 1)), clip).walk_up(model, x_t)
            stored = GOLDEN[f"{key}/ddim_reverse_sample"][i : i + 1]
            torch.testing.assert_close(
                next(iter(up))[1], stored, rtol=1e-5, atol=10 * GOLDEN.spread(f"{key}/ddim_reverse_sample") + 1e-7
            )


def loop(schedule: str, variance: str, prediction: str, outputs: list[Tensor]):
    config = GOLDEN.text(f"loop/{schedule}/config")
    scale = 1000 / config["num_timesteps"] if config["rescale_timesteps"] else 1.0
    process = Process(SCHEDULES[config["schedule"]](config["num_timesteps"]))
    return config, *denoiser(process, variance, prediction, *outputs, time_scale=scale)


WALKS = {"p_clip1": lambda counts: Ancestral(None, counts), "ddim_eta0.5": lambda counts: DDIM(None, 0.5, counts)}


@pytest.mark.parametrize("run", list(WALKS))
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_walk_with_stored_outputs(schedule: str, run: str) -> None:
    key = f"loop/{schedule}/{run}"
    config, model, network = loop(schedule, "LEARNED_RANGE", "EPSILON", list(GOLDEN[f"{key}/model_output"]))
    sampler: Sampler = WALKS[run](config["section_counts"])
    assert [t - 1 for t in sampler.times(model.process)] == GOLDEN[f"loop/{schedule}/timestep_map"].tolist()
    walk = list(sampler.walk(model, GOLDEN["loop/start_noise"], randn_like=NoiseOf(GOLDEN["loop/step_noise"])))
    GOLDEN.close(torch.stack([x for _, x in walk]), f"{key}/sample")
    if run == "p_clip1":
        torch.testing.assert_close(torch.stack(network.times), GOLDEN[f"loop/{schedule}/model_t"])


RUNS: dict[str, tuple[str, str, Callable[[str], Sampler]]] = {
    "p_clip1": ("LEARNED_RANGE", "EPSILON", lambda counts: Ancestral(None, counts)),
    "p_clip0": ("LEARNED_RANGE", "EPSILON", lambda counts: Ancestral(None, counts, clip=False)),
    "p_fixed_small": ("FIXED_SMALL", "EPSILON", lambda counts: Ancestral(None, counts)),
    "p_fixed_large": ("FIXED_LARGE", "EPSILON", lambda counts: Ancestral(None, counts)),
    "p_startx": ("LEARNED_RANGE", "START_X", lambda counts: Ancestral(None, counts)),
    "ddim_eta0": ("LEARNED_RANGE", "EPSILON", lambda counts: DDIM(None, 0.0, counts)),
    "ddim_eta0.5": ("LEARNED_RANGE", "EPSILON", lambda counts: DDIM(None, 0.5, counts)),
    "ddim_eta1": ("LEARNED_RANGE", "EPSILON", lambda counts: DDIM(None, 1.0, counts)),
    "ddim_eta0_clip0": ("LEARNED_RANGE", "EPSILON", lambda counts: DDIM(None, 0.0, counts, clip=False)),
    "ddim10_eta0": ("LEARNED_RANGE", "EPSILON", lambda counts: DDIM(10, 0.0, "ddim")),
    "ddim_startx_eta0.5": ("LEARNED_RANGE", "START_X", lambda counts: DDIM(None, 0.5, counts)),
}


class FirstHead(nn.Module):
    """A network of which only the first three output channels are used."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.network(x, t)[:, :3]


def toy_denoiser(schedule: str, variance: str, prediction: str) -> tuple[dict, Denoiser]:
    toy = Golden("toy_model.npz")
    prefix = "idm_uncond/state/"
    state = {key.removeprefix(prefix): toy[key] for key in toy.names() if key.startswith(prefix)}
    network = openai.load(state, **toy.text("idm_uncond/config"))
    config, model, _ = loop(schedule, variance, prediction, [])
    return config, model.with_network(network if model.variance.heads == 2 else FirstHead(network))


@pytest.mark.parametrize("run", list(RUNS))
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_whole_walk_with_the_network(schedule: str, run: str) -> None:
    variance, prediction, make = RUNS[run]
    config, model = toy_denoiser(schedule, variance, prediction)
    walk = make(config["section_counts"]).walk(
        model, GOLDEN["loop/start_noise"], randn_like=NoiseOf(GOLDEN["loop/step_noise"])
    )
    GOLDEN.close(torch.stack([x for _, x in walk]), f"loop/{schedule}/{run}/sample")


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_inversion_with_the_network(schedule: str, clip: int) -> None:
    config, model = toy_denoiser(schedule, "LEARNED_RANGE", "EPSILON")
    ddim = DDIM(None, 0.0, config["section_counts"], clip=bool(clip))
    walk = [x for _, x in ddim.walk_up(model, GOLDEN["loop/reverse_start"])]
    GOLDEN.close(torch.stack(walk[:7]), f"loop/{schedule}/ddim_reverse_clip{clip}/sample")
    assert torch.equal(ddim.invert(model, GOLDEN["loop/reverse_start"]), walk[-1])
