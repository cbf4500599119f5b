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
    T = int(GOLDEN["pmv/t"].max()) + 1  # the last timestep is among them
    return denoiser(Process(SCHEDULES[schedule](T)), variance, prediction, *outputs)[0]


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
    names = [name.rpartition("/")[2] for name in GOLDEN.names(f"{key}/ddim_sample_eta*")]
    for i, now in enumerate(t.tolist()):
        model = model_of(key, GOLDEN["pmv/model_output"][i : i + 1])
        x_t = GOLDEN["pmv/x_t"][i : i + 1]
        for name in names:
            eta = float(name.removeprefix("ddim_sample_eta"))
            walk = DDIM(None, eta, lambda T, steps, now=now: list(range(1, now + 1)), clip).walk(
                model, x_t, randn_like=NoiseOf(GOLDEN["pmv/noise"][i : i + 1, None])
            )
            stored = GOLDEN[f"{key}/{name}"][i : i + 1]
            torch.testing.assert_close(
                next(iter(walk))[1], stored, rtol=1e-5, atol=10 * GOLDEN.spread(f"{key}/{name}") + 1e-7
            )
        if now < model.process.T:  # their last one goes on to alpha_bar = 0, past the end of the process
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


def walk_of(run: str) -> tuple[str, str, Callable[[dict], Sampler]]:
    """Variance, prediction and sampler of a loop by its name, such as p_fixed_small or ddim_startx_eta0.5."""
    kind, *parts = run.split("_")
    clip, variance = "clip0" not in parts, "LEARNED_RANGE"
    if "fixed" in parts:
        variance = "_".join(parts[parts.index("fixed") :]).upper()
    prediction = "START_X" if "startx" in parts else "EPSILON"
    if kind == "p":
        return variance, prediction, lambda config: Ancestral(None, config["section_counts"], clip)
    (eta,) = (float(part.removeprefix("eta")) for part in parts if part.startswith("eta"))
    if kind == "ddim":
        return variance, prediction, lambda config: DDIM(None, eta, config["section_counts"], clip)
    steps = int(kind.removeprefix("ddim"))  # ddim10: in that spacing
    return variance, prediction, lambda config: DDIM(steps, eta, "ddim", clip)


@pytest.mark.parametrize("key", GOLDEN.groups("loop/*/model_output"))
def test_walk_with_stored_outputs(key: str) -> None:
    _, schedule, run = key.split("/")
    variance, prediction, make = walk_of(run)
    config, model, network = loop(schedule, variance, prediction, list(GOLDEN[f"{key}/model_output"]))
    sampler = make(config)
    chosen = torch.tensor(sampler.times(model.process))
    assert torch.equal(chosen - 1, GOLDEN[f"loop/{schedule}/timestep_map"])
    betas = model.process.transition(chosen, torch.cat([torch.zeros(1).long(), chosen[:-1]])).beta
    torch.testing.assert_close(betas, GOLDEN[f"loop/{schedule}/betas"], rtol=1e-9, atol=1e-12)
    walk = list(sampler.walk(model, GOLDEN["loop/start_noise"], randn_like=NoiseOf(GOLDEN["loop/step_noise"])))
    GOLDEN.close(torch.stack([x for _, x in walk]), f"{key}/sample")
    if run == "p_clip1":
        torch.testing.assert_close(torch.stack(network.times), GOLDEN[f"loop/{schedule}/model_t"])


class FirstHead(nn.Module):
    """A network of which only the first head is used."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.network(x, t)[:, : x.shape[1]]


def toy_denoiser(schedule: str, variance: str, prediction: str) -> tuple[dict, Denoiser]:
    toy = Golden("toy_model.npz")
    prefix = "idm_uncond/state/"
    state = {key.removeprefix(prefix): toy[key] for key in toy.names() if key.startswith(prefix)}
    network = openai.load(state, **toy.text("idm_uncond/config"))
    config, model, _ = loop(schedule, variance, prediction, [])
    return config, model.with_network(network if model.variance.heads == 2 else FirstHead(network))


LOOPS = [key for key in GOLDEN.groups("loop/*/sample") if "reverse" not in key]


@pytest.mark.parametrize("key", LOOPS)
def test_whole_walk_with_the_network(key: str) -> None:
    _, schedule, run = key.split("/")
    variance, prediction, make = walk_of(run)
    config, model = toy_denoiser(schedule, variance, prediction)
    walk = make(config).walk(model, GOLDEN["loop/start_noise"], randn_like=NoiseOf(GOLDEN["loop/step_noise"]))
    GOLDEN.close(torch.stack([x for _, x in walk]), f"{key}/sample")


@pytest.mark.parametrize("key", GOLDEN.groups("loop/*/ddim_reverse_clip*/sample"))
def test_inversion_with_the_network(key: str) -> None:
    _, schedule, run = key.split("/")
    config, model = toy_denoiser(schedule, "LEARNED_RANGE", "EPSILON")
    ddim = DDIM(None, 0.0, config["section_counts"], clip=run.endswith("1"))
    walk = [x for _, x in ddim.walk_up(model, GOLDEN["loop/reverse_start"])]
    GOLDEN.close(torch.stack(walk[: len(GOLDEN[f"{key}/sample"])]), f"{key}/sample")
    assert torch.equal(ddim.invert(model, GOLDEN["loop/reverse_start"]), walk[-1])
