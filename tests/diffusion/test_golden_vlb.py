"""The variational bound against the public code."""

import pytest
import torch

from ddpm_lab.diffusion.gaussian import Gaussian, standard_normal
from ddpm_lab.diffusion.likelihood import bits_per_dim, prior_term, vlb_term
from ddpm_lab.diffusion.process import Process
from ddpm_lab.samplers.spacings import timesteps
from tests.golden import Golden
from tests.golden.replay import SCHEDULES, NoiseOf, denoiser

GOLDEN = Golden("vlb.npz")


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("variance", ["LEARNED_RANGE", "LEARNED", "FIXED_SMALL", "FIXED_LARGE"])
@pytest.mark.parametrize("terms", ["terms", "terms_near"])
def test_terms(terms: str, variance: str, clip: int) -> None:
    key = f"{terms}/{variance}/clip{clip}"
    if f"{key}/vb_bits" not in GOLDEN.names():
        assert (terms, variance) == ("terms_near", "LEARNED")
        return
    process = Process(SCHEDULES["cosine"](50))
    model, _ = denoiser(process, variance, "EPSILON", GOLDEN[f"{terms}/model_output"])
    x_0, x_t, t = GOLDEN["terms/x_start"], GOLDEN["terms/x_t"], GOLDEN["terms/t"] + 1
    estimate = model.estimate(x_t, t, clip=bool(clip))
    # The decoder of a random network lies in float32's quantised tail in the public code; near a trained one it does not.
    where = t > 1 if terms == "terms" else None
    GOLDEN.close(vlb_term(model, estimate, x_0, x_t, t), f"{key}/vb_bits", where)
    if terms == "terms":
        GOLDEN.close(estimate.x_0, f"{key}/pred_xstart")


@pytest.mark.parametrize("process_name", ["cosine_T50", "linear_T50", "cosine_T1000", "linear_T1000"])
def test_prior(process_name: str) -> None:
    schedule, T = process_name.split("_T")
    GOLDEN.close(prior_term(Process(SCHEDULES[schedule](int(T))), GOLDEN["terms/x_start"]), f"prior_bpd/{process_name}")


def test_decoder() -> None:
    x, means, log_scales = (GOLDEN[f"dgll/{name}"] for name in ("x", "means", "log_scales"))
    stable = GOLDEN["dgll/stable"]
    gaussian = Gaussian(means[None, :, None], 2 * log_scales[None, None])
    in_double = Gaussian(*(part.double() for part in gaussian)).discretized_log_prob(x[:, None, None].double())
    reference = GOLDEN["dgll/log_prob_f64"]
    torch.testing.assert_close(in_double[stable], reference[stable], rtol=1e-9, atol=1e-9)
    # Elsewhere even their float64 has lost digits to cancellation.
    torch.testing.assert_close(in_double, reference, rtol=1e-5, atol=1e-12)
    in_single = gaussian.discretized_log_prob(x[:, None, None]).double()
    torch.testing.assert_close(in_single[stable], reference[stable], rtol=1e-5, atol=1e-4)


def test_kl() -> None:
    one, two = (Gaussian(GOLDEN[f"normal_kl/mean{i}"], GOLDEN[f"normal_kl/logvar{i}"]) for i in (1, 2))
    GOLDEN.close(one.kl(two), "normal_kl/kl")
    GOLDEN.close(one.kl(standard_normal(one.mean)), "normal_kl/kl_to_standard")


@pytest.mark.parametrize("pairs", [1, 7, 1000])
@pytest.mark.parametrize(
    ("run", "schedule", "steps", "scale"), [("bpd_loop", "cosine", 50, 20.0), ("bpd_loop_spaced", "linear", 10, 1.0)]
)
def test_whole_bound(run: str, schedule: str, steps: int, scale: float, pairs: int) -> None:
    process = Process(SCHEDULES[schedule](50))
    outputs = GOLDEN[f"{run}/model_output"]
    width = max(1, pairs // 2)
    model, network = denoiser(
        process,
        "LEARNED_RANGE",
        "EPSILON",
        *(chunk.flatten(0, 1) for chunk in outputs.split(width)),
        time_scale=scale,
    )
    chain = timesteps(50, steps, "uniform")
    noise = NoiseOf(GOLDEN[f"{run}/noise"])
    result = bits_per_dim(model, GOLDEN[f"{run}/x_start"], timesteps=chain, randn_like=noise, pairs=pairs)
    torch.testing.assert_close(torch.cat(network.times).view(steps, 2), GOLDEN[f"{run}/model_t"])
    # Their columns run from the last timestep to the first.
    GOLDEN.close(result.vlb.flip(1), f"{run}/vb")
    GOLDEN.close(result.x_0_mse.flip(1), f"{run}/xstart_mse")
    GOLDEN.close(result.noise_mse.flip(1), f"{run}/mse")
    GOLDEN.close(result.prior, f"{run}/prior_bpd")
    GOLDEN.close(result.total, f"{run}/total_bpd")
