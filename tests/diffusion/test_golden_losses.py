"""Training losses and their gradients against the public code."""

import pytest
import torch

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.objectives import Hybrid, Simple, Vlb
from ddpm_lab.diffusion.process import Process
from ddpm_lab.pixels import to_float
from tests.golden import Golden
from tests.golden.replay import PREDICTIONS, SCHEDULES, VARIANCES, Replay

GOLDEN = Golden("losses.npz")


def objective(loss: str, learned: bool, T: int):
    """The public code's loss types in our terms."""
    if loss in ("KL", "RESCALED_KL"):
        return Vlb(), 1 / T if loss == "KL" else 1.0
    if not learned:
        return Simple(), 1.0
    return Hybrid(vlb_weight=0.001 if loss == "RESCALED_MSE" else 1 / T), 1.0


def cases() -> list[tuple[str, str, str, str]]:
    kept = []
    for key in GOLDEN.names():
        parts = key.split("/")
        if parts[-1] == "loss":
            kept.append((parts[0], parts[1], parts[2], parts[3]))
    return kept


@pytest.mark.parametrize(("process_name", "variance", "prediction", "loss"), cases())
def test_losses(process_name: str, variance: str, prediction: str, loss: str) -> None:
    schedule, _, T = process_name.rpartition("_T")
    kind = VARIANCES[variance]()
    source = "model_output" if prediction == "EPSILON" else f"model_output_{prediction}"
    output = GOLDEN[f"{process_name}/{source}"][:, : GOLDEN["x_start"].shape[1] * kind.heads].requires_grad_()
    denoiser = Denoiser(
        Replay(output), Process(SCHEDULES[schedule](int(T))), PREDICTIONS[prediction](), kind, time_scale=1000 / int(T)
    )
    x_0, noise, t = GOLDEN["x_start"], GOLDEN["noise"], GOLDEN[f"{process_name}/t"] + 1
    criterion, factor = objective(loss, kind.heads == 2, int(T))
    losses = criterion(denoiser, x_0, t, noise=noise)
    key = f"{process_name}/{variance}/{prediction}/{loss}"
    GOLDEN.close(factor * losses["loss"], f"{key}/loss")
    if f"{key}/mse" in GOLDEN.names():
        GOLDEN.close(losses["mse"], f"{key}/mse")
    if f"{key}/vb" in GOLDEN.names():
        scale = int(T) / 1000 if loss == "RESCALED_MSE" else 1.0
        GOLDEN.close(scale * losses["vlb"], f"{key}/vb")
    if f"{key}/grad" in GOLDEN.names():
        (grad,) = torch.autograd.grad(factor * losses["loss"].sum(), output)
        GOLDEN.close(grad, f"{key}/grad")


def test_images_are_scaled_as_there() -> None:
    assert torch.equal(to_float(GOLDEN["x_start_uint8"]), GOLDEN["x_start"])


@pytest.mark.parametrize("process_name", GOLDEN.groups("*/x_t"))
def test_diffuse_and_posterior_mean(process_name: str) -> None:
    schedule, _, T = process_name.rpartition("_T")
    process = Process(SCHEDULES[schedule](int(T)))
    t = GOLDEN[f"{process_name}/t"] + 1
    x_t = process.diffuse(GOLDEN["x_start"], t, GOLDEN["noise"])
    GOLDEN.close(x_t, f"{process_name}/x_t")
    GOLDEN.close(process.posterior(GOLDEN["x_start"], x_t, t, t - 1).mean, f"{process_name}/posterior_mean")
