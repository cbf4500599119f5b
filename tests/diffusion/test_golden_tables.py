"""Schedules and posterior tables against the public code, to 1e-12 relative."""

import pytest
import torch
from torch import Tensor

from ddpm_lab.diffusion import schedules
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import constant, jsd, linear, quadratic, warmup
from tests.golden import Golden
from tests.golden.replay import SCHEDULES

GOLDEN = Golden("schedules.npz")
SPACED = Golden("respacing.npz")


def same(value: Tensor, reference: Tensor, rtol: float = 1e-12) -> None:
    torch.testing.assert_close(value, reference, rtol=rtol, atol=1e-300)


@pytest.mark.parametrize("T", [50, 200, 1000, 4000])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_betas(schedule: str, T: int) -> None:
    same(SCHEDULES[schedule](T), GOLDEN[f"{schedule}_T{T}/betas"])


@pytest.mark.parametrize(("T", "ends"), [(1000, (1e-4, 0.02)), (200, (0.0002, 0.015))])
def test_betas_of_ho(T: int, ends: tuple[float, float]) -> None:
    same(linear(T, *ends, rescale=False), GOLDEN[f"ho_linear_T{T}/betas"])
    same(quadratic(T, *ends), GOLDEN[f"ho_quad_T{T}/betas"])
    same(constant(T, *ends), GOLDEN[f"ho_const_T{T}/betas"])
    same(warmup(T, *ends), GOLDEN[f"ho_warmup10_T{T}/betas"])
    same(warmup(T, *ends, fraction=0.5), GOLDEN[f"ho_warmup50_T{T}/betas"])
    same(jsd(T), GOLDEN[f"ho_jsd_T{T}/betas"])


@pytest.mark.parametrize("T", [50, 200, 1000])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_posterior_tables(schedule: str, T: int) -> None:
    process = Process(getattr(schedules, schedule)(T))
    key = f"{schedule}_T{T}"
    t = torch.arange(1, T + 1)
    same(process.alpha_bar[1:], GOLDEN[f"{key}/alphas_cumprod"])
    same(process.alpha_bar[:-1], GOLDEN[f"{key}/alphas_cumprod_prev"])
    step = process.transition(t, t - 1)
    same(step.of_x_0, GOLDEN[f"{key}/posterior_mean_coef1"])
    same(step.of_x_t, GOLDEN[f"{key}/posterior_mean_coef2"])
    lower, upper = process.log_variance_bounds(t, t - 1)
    same(lower, GOLDEN[f"{key}/posterior_log_variance_clipped"])
    same(upper, GOLDEN[f"{key}/betas"].log())
    same(torch.where(t == 1, lower, upper), GOLDEN[f"{key}/fixed_large_log_variance"])
    same(process.at(t).snr, GOLDEN[f"{key}/sqrt_recipm1_alphas_cumprod"] ** -2, rtol=1e-10)


@pytest.mark.parametrize("i", range(4))
def test_pairs_equal_the_respaced_chain(i: int) -> None:
    config = SPACED.text(f"spaced{i}/config")
    process = Process(SCHEDULES[config["schedule"]](config["num_timesteps"]))
    kept = SPACED[f"spaced{i}/timestep_map"] + 1
    t, s = kept, torch.cat([torch.zeros(1, dtype=torch.int64), kept[:-1]])
    above = torch.cat([kept[1:], kept[-1:]])
    step = process.transition(t, s)
    same(step.beta, SPACED[f"spaced{i}/betas"], rtol=1e-11)
    same(step.of_x_0, SPACED[f"spaced{i}/posterior_mean_coef1"], rtol=1e-11)
    # Its last entries rest on 1 - beta near 0, where the respaced chain itself has lost digits.
    torch.testing.assert_close(step.of_x_t, SPACED[f"spaced{i}/posterior_mean_coef2"], rtol=1e-9, atol=1e-12)
    lower, _ = process.log_variance_bounds(t, s, above)
    same(lower, SPACED[f"spaced{i}/posterior_log_variance_clipped"], rtol=1e-11)
