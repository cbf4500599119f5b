"""What is said of a user's own part that is not what its contract asks for."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.objectives import Simple, per_image
from ddpm_lab.diffusion.predictions import Epsilon
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import linear
from ddpm_lab.diffusion.timesteps import Uniform
from ddpm_lab.diffusion.variances import FixedLarge
from ddpm_lab.errors import brief
from ddpm_lab.tasks import contracts

T = 50


def config(**changes: object) -> DictConfig:
    parts = {
        "prediction": {"_target_": "ddpm_lab.diffusion.predictions.Epsilon"},
        "variance": {"_target_": "ddpm_lab.diffusion.variances.FixedLarge"},
        "objective": {"_target_": "ddpm_lab.diffusion.objectives.Simple"},
        "sampler": {"_target_": "ddpm_lab.samplers.ddim.DDIM"},
    }
    return OmegaConf.create({**parts, **{name: {"_target_": f"{__name__}.{value}"} for name, value in changes.items()}})


class Half:
    heads = 1
    target = walk = None


class Objective:
    """Without `check`."""

    def __call__(self, denoiser: Denoiser, x_0: Tensor, t: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        return {"loss": x_0.flatten(1).mean(1)}


class NoObjective:
    def __call__(self, denoiser: Denoiser, x_0: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError


def test_parts_that_lack_a_method_are_named() -> None:
    contracts.check_parts(config())
    contracts.check_parts(config(objective="Objective"))
    for changes, told in (
        ({"prediction": "Half"}, "prediction: Half has no x_0, scale; .* diffusion/predictions.py"),
        ({"variance": "Half"}, "variance: Half has no log_variance, variance;"),
        ({"sampler": "Half"}, "sampler: Half has no times, calls, deterministic;"),
        (
            {"objective": "NoObjective"},
            r"objective: NoObjective takes \(.*x_0.*\) .* and is called with \(denoiser, x_0 ",
        ),
        ({"objective": "Half"}, "objective: Half cannot be called"),
    ):
        with pytest.raises(ValueError, match=told.replace(" diffusion/", "src/ddpm_lab/diffusion/")):
            contracts.check_parts(config(**changes))


class Network(nn.Module):
    def __init__(self, answer: Callable[[Tensor], object] = lambda x: x, **kwargs: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> object:
        return self.answer(x)


class Unlabelled(nn.Module):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return x


def denoiser(network: nn.Module) -> Denoiser:
    return Denoiser(network, Process(linear(T)), Epsilon(), FixedLarge())


def test_networks_are_called_as_they_can_be() -> None:
    assert contracts.takes(OmegaConf.create({"network": {"_target_": f"{__name__}.Network"}})) == {"answer", "**"}
    contracts.check_network(denoiser(Network()))
    with pytest.raises(
        ValueError, match=r"network: Unlabelled takes \(x.*, time.*\) .* called with \(x .*, y \[B\] or None\)"
    ):
        contracts.check_network(denoiser(Unlabelled()))
    x, t = torch.zeros(2, 3, 4, 4), torch.tensor([1, 2])
    for answer, came in (
        (lambda x: x[:, :, 1:], r"\[2, 3, 3, 4\]"),
        (lambda x: (x,), "a tuple"),
        (lambda x: x.mean((1, 2, 3)), r"\[2\]"),
        (lambda x: SimpleNamespace(sample=x), "a SimpleNamespace"),
    ):
        with pytest.raises(ValueError, match=rf"Network must return a tensor .* \[2, 3, 4, 4\], and returned {came}"):
            denoiser(Network(answer)).outputs(x, t)


class Drawn(Uniform):
    def __init__(self, drawn: Callable[[int], object]) -> None:
        super().__init__(T)
        self.drawn = drawn

    def draw(self, batch: int) -> object:  # type: ignore[override]
        return self.drawn(batch)


def test_timestep_samplers_draw_timesteps() -> None:
    before = torch.get_rng_state()
    contracts.check_timesteps(Uniform(T), T)
    assert torch.equal(torch.get_rng_state(), before)
    for drawn, told in (
        (lambda n: (torch.randint(0, T, (n,)), torch.ones(n)), "must draw t of 1..T = 1..50, and drew 0..49"),
        (lambda n: torch.randint(1, T, (n,)), "must return .t, weight., two tensors"),
        (lambda n: (torch.randint(1, T, (n,)), torch.ones(())), r"and returned \[4096\] of torch.int64 and \[\]"),
        (lambda n: (torch.rand(n), torch.ones(n)), "t of int64, and returned .* of torch.float32"),
    ):
        with pytest.raises(ValueError, match=told):
            contracts.check_timesteps(Drawn(drawn), T)
    with pytest.raises(ValueError, match="timestep_sampler: Half has no draw, update, probabilities;"):
        contracts.check_timesteps(Half(), T)


def test_losses_and_weights_are_one_an_image() -> None:
    losses = {"loss": torch.zeros(2), "mse": torch.zeros(2)}
    assert per_image(losses, 2) is losses
    for wrong, told in (
        ({"loss": torch.zeros(())}, r'its "loss" came as \[\]: leave the mean'),
        ({"loss": torch.zeros(2), "mse": torch.zeros(2, 2)}, r'its "mse" came as \[2, 2\]'),
        ({"mse": torch.zeros(2)}, r"and returned a dict of \['mse'\]"),
        (torch.zeros(2), r'a dict that has "loss", one number for each image, and returned \[2\]'),
    ):
        with pytest.raises(ValueError, match=told):
            per_image(wrong, 2)
    objective = Simple(weighting=lambda snr, scale: snr.mean())
    with pytest.raises(ValueError, match=r"a weighting must return a tensor \[B\] = \[2\], and returned \[\]"):
        objective(denoiser(Network()), torch.zeros(2, 3, 4, 4), torch.tensor([1, 2]))


def test_bad_betas_are_told_by_the_first_of_them() -> None:
    betas = torch.full((1000,), 0.5)
    betas[[6, 9]] = torch.tensor([float("nan"), 2.0])
    for wrong, told in (
        (betas, "2 of T=1000 do not: the first is beta_7 = nan"),
        (torch.tensor([1.0, 0.5]), "1 of T=2 do not: the first is beta_1 = 1$"),
        (None, "must be numbers .T., and came as NoneType"),
        (torch.zeros(2, 2), r"got shape \(2, 2\)"),
        ([], r"got shape \(0,\)"),
    ):
        with pytest.raises(ValueError, match=told) as caught:
            Process(wrong)
        assert len(str(caught.value)) < 150
    assert brief(range(1000)) == "[0, 1, 2, 3, 4, 5, … (1000 of them)]"
    assert brief([1, 2]) == "[1, 2]"
