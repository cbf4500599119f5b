"""Schedules and posterior tables against the public code, to 1e-12 relative."""

import pytest
import torch
from torch import Tensor

from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import constant, jsd, linear, quadratic, warmup
from tests.golden import Golden
from tests.golden.replay import SCHEDULES

GOLDEN = Golden("schedules.npz")
SPACED = Golden("respacing.npz")


def same(value: Tensor, reference: Tensor, rtol: float = 1e-12) -> None:
    torch.testing.assert_close(value, reference, rtol=rtol, atol=1e-300)


HO = {
    "linear": lambda T, start, end: linear(T, start, end, rescale=False),
    "quad": quadratic,
    "const": constant,
    "warmup10": warmup,
    "warmup50": lambda T, start, end: warmup(T, start, end, fraction=0.5),
    "jsd": lambda T, start, end: jsd(T),
}


@pytest.mark.parametrize("key", GOLDEN.groups("*/betas"))
def test_betas(key: str) -> None:
    name, _, T = key.rpartition("_T")
    if not name.startswith("ho_"):
        same(SCHEDULES[name](int(T)), GOLDEN[f"{key}/betas"])
        return
    ends = GOLDEN[f"ho_linear_T{T}/betas"][[0, -1]].tolist()  # which they all share
    same(HO[name.removeprefix("ho_")](int(T), *ends), GOLDEN[f"{key}/betas"])


def tables(process: Process, t: Tensor, s: Tensor, previous: Tensor) -> dict[str, Tensor]:
    """What the public code tabulates, of the steps from t to s."""
    level, step = process.at(t), process.transition(t, s, previous)
    large = torch.where(s == 0, step.log_beta_tilde, step.log_beta)
    return {
        "betas": step.beta,
        "alphas_cumprod": level.alpha_bar,
        "alphas_cumprod_prev": process.at(s).alpha_bar,
        "alphas_cumprod_next": torch.cat([level.alpha_bar[1:], torch.zeros(1).double()]),
        "sqrt_alphas_cumprod": level.signal,
        "sqrt_one_minus_alphas_cumprod": level.noise,
        "log_one_minus_alphas_cumprod": torch.log1p(-level.alpha_bar),
        "sqrt_recip_alphas_cumprod": 1 / level.signal,
        "sqrt_recipm1_alphas_cumprod": level.snr**-0.5,
        "posterior_variance": torch.where(s == 0, 0.0, step.log_beta_tilde.exp()),
        "posterior_log_variance_clipped": step.log_beta_tilde,
        "posterior_mean_coef1": step.of_x_0,
        "posterior_mean_coef2": step.of_x_t,
        "fixed_large_variance": large.exp(),
        "fixed_large_log_variance": large,
    }


@pytest.mark.parametrize("key", GOLDEN.groups("*/alphas_cumprod"))
def test_tables(key: str) -> None:
    name, _, T = key.rpartition("_T")
    t = torch.arange(1, int(T) + 1)
    found = tables(Process(SCHEDULES[name](int(T))), t, t - 1, t + 1)
    for array in GOLDEN.names(f"{key}/*"):
        torch.testing.assert_close(found[array.removeprefix(f"{key}/")], GOLDEN[array], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("key", SPACED.groups("*/config"))
def test_pairs_equal_the_respaced_chain(key: str) -> None:
    config = SPACED.text(f"{key}/config")
    t = SPACED[f"{key}/timestep_map"] + 1
    s, previous = torch.cat([torch.zeros(1, dtype=torch.int64), t[:-1]]), torch.cat([t[1:], t[-1:]])
    found = tables(Process(SCHEDULES[config["schedule"]](config["num_timesteps"])), t, s, previous)
    for array in SPACED.names(f"{key}/*"):
        table = array.removeprefix(f"{key}/")
        if table not in ("config", "timestep_map"):
            # The last entries of one rest on 1 - beta near 0, where the respaced chain itself has lost digits.
            torch.testing.assert_close(found[table], SPACED[array], rtol=1e-9, atol=1e-12)
