"""A whole training step beside each peer's own: noise, forward, loss, backward, gradient norm, optimizer, average."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.models import NETWORKS, SHAPES, Shape, awake, ours
from benchmarks.paired import Row, compared, take_turns
from torch import Tensor, nn

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.objectives import Simple
from ddpm_lab.diffusion.predictions import Epsilon
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import linear
from ddpm_lab.diffusion.timesteps import Uniform
from ddpm_lab.diffusion.variances import FixedLarge
from ddpm_lab.seeds import mix, reseed
from ddpm_lab.training.ema import EMA
from ddpm_lab.training.means import Means

Step = Callable[[], Any]
T = 1000


def our_step(shape: Shape, *, bf16: bool = False, compile: bool = False, channels_last: bool = False) -> Step:
    """What training/diffusion.py does in a step, without Lightning, whose overhead is a row of its own."""
    network = awake(ours(shape))
    ema = EMA(network, 0.9999)
    if channels_last:
        network.to(memory_format=torch.channels_last)
    if compile:
        network.compile()
    denoiser = Denoiser(network, Process(linear(T)), Epsilon(), FixedLarge())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    objective, timesteps, means = Simple(), Uniform(T), Means()
    x = images(shape)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)

    def step() -> None:
        reseed(mix(0, 0, 1), x.device)
        with autocast(bf16):
            t, weight = timesteps.draw(len(x))
            losses = objective(denoiser, x, t)
            loss = (weight * losses["loss"]).mean()
        means.add(losses, 4 * (t - 1) // T)
        loss.backward()
        update(list(network.parameters()), optimizer, ema, network)
        optimizer.zero_grad()

    return step


def update(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, ema: EMA, network: nn.Module) -> None:
    """Gradient norm, clipping where it is needed, optimizer, average."""
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    if norm > 1.0:
        nn.utils.clip_grads_with_norm_(parameters, 1.0, norm)
    optimizer.step()
    ema.update(network)


def images(shape: Shape) -> Tensor:
    """One batch, the same for all."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape.batch, 3, shape.size, shape.size, generator=generator) * 2 - 1


def autocast(bf16: bool) -> Any:
    """bfloat16 where it pays, or nothing."""
    return torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()


def diffusers_step(shape: Shape, bf16: bool = False) -> Step:
    """As diffusers' train_unconditional.py: DDPMScheduler, AdamW, clipping, EMAModel."""
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    network = awake(NETWORKS["diffusers"](shape))
    scheduler = DDPMScheduler(T)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True)
    x = images(shape)

    def step() -> None:
        noise = torch.randn_like(x)
        t = torch.randint(0, T, (len(x),))
        with autocast(bf16):
            loss = F.mse_loss(network(scheduler.add_noise(x, noise, t), t).float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(network.parameters())

    return step


def lucidrains_step(shape: Shape) -> Step:
    """As denoising-diffusion-pytorch's Trainer: GaussianDiffusion, clipping, Adam, EMA every tenth step."""
    import ema_pytorch
    from denoising_diffusion_pytorch import GaussianDiffusion

    network = NETWORKS["lucidrains"](shape)
    diffusion = GaussianDiffusion(
        network, image_size=shape.size, timesteps=T, objective="pred_noise", beta_schedule="linear"
    )
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-4)
    average = ema_pytorch.EMA(diffusion, beta=0.995, update_every=10)
    x = (images(shape) + 1) / 2

    def step() -> None:
        loss = diffusion(x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()

    return step


def improved_step(shape: Shape) -> Step:
    """As improved-diffusion's TrainLoop: its own losses, sampler, gradient norm by parameter, AdamW and average."""
    from improved_diffusion import gaussian_diffusion as gd
    from improved_diffusion.nn import update_ema
    from improved_diffusion.resample import UniformSampler
    from improved_diffusion.respace import SpacedDiffusion, space_timesteps

    network = awake(NETWORKS["improved-diffusion"](shape))
    diffusion = SpacedDiffusion(
        use_timesteps=space_timesteps(T, [T]),
        betas=gd.get_named_beta_schedule("linear", T),
        model_mean_type=gd.ModelMeanType.EPSILON,
        model_var_type=gd.ModelVarType.FIXED_LARGE,
        loss_type=gd.LossType.MSE,
    )
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)
    average, sampler, x = copy.deepcopy(parameters), UniformSampler(diffusion), images(shape)

    def step() -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.detach_()
                parameter.grad.zero_()
        t, weights = sampler.sample(len(x), torch.device("cpu"))
        loss = (diffusion.training_losses(network, x, t)["loss"] * weights).mean()
        loss.backward()
        sum((parameter.grad**2).sum().item() for parameter in parameters)
        optimizer.step()
        update_ema(average, parameters, rate=0.9999)

    return step


STEPS = {"improved-diffusion": improved_step, "diffusers": diffusers_step, "lucidrains": lucidrains_step}
BARS = {"demo16": (1.15, 1.3), "demo28": (1.0, 1.15), "cifar": (1.0, 1.15)}
BARS_BF16 = {"demo16": (1.3, 1.75), "demo28": (1.55, 1.75), "cifar": (1.55, 1.75)}


def rows(rounds: int, compile: bool) -> Iterator[Row]:
    """fp32 and bf16 beside every peer's fp32 step, at each configuration."""
    for name, shape in SHAPES.items():
        sides = {"fp32": our_step(shape), "bf16": our_step(shape, bf16=True)}
        if compile and name == "demo16":
            sides["bf16 + compile"] = our_step(shape, bf16=True, compile=True, channels_last=True)
        sides |= {peer: STEPS[peer](shape) for peer in NETWORKS}
        sides["diffusers in bf16"] = diffusers_step(shape, bf16=True)
        seconds = take_turns(sides, rounds, repeat={"demo16": 3, "demo28": 2}.get(name, 1))
        bars = {"fp32": BARS[name], "bf16": BARS_BF16[name], "bf16 + compile": (1.55, 2.0)}
        for kind, (bar, aim) in bars.items():
            if kind in sides:
                title = f"{name}, {kind}" + ("" if kind == "fp32" else " beside their fp32")
                yield from compared(seconds, kind, NETWORKS, part="training step", name=title, bar=bar, aim=aim)
        both = f"{name}, both in bf16"
        yield from compared(seconds, "bf16", ["diffusers in bf16"], part="training step", name=both)


def update_rows(rounds: int) -> Iterator[Row]:
    """Optimizer, average and gradient norm alone, at 35.7M parameters."""
    shape = SHAPES["cifar"]

    def with_gradients(network: nn.Module) -> list[nn.Parameter]:
        for parameter in network.parameters():
            parameter.grad = 1e-5 * torch.randn_like(parameter)  # of a norm below 1, as most steps have after the first
        return list(network.parameters())

    network = awake(ours(shape))
    parameters, ema = with_gradients(network), EMA(network, 0.9999)
    optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True)

    from diffusers.training_utils import EMAModel

    theirs = with_gradients(awake(NETWORKS["diffusers"](shape)))
    their_optimizer, average = torch.optim.AdamW(theirs, lr=1e-4), EMAModel(theirs, decay=0.9999, use_ema_warmup=True)

    def their_update() -> None:
        nn.utils.clip_grad_norm_(theirs, 1.0)
        their_optimizer.step()
        average.step(theirs)

    seconds = take_turns(
        {"ours": lambda: update(parameters, optimizer, ema, network), "diffusers": their_update}, rounds, repeat=2
    )
    (row,) = compared(
        seconds, "ours", ["diffusers"], part="training step", name="optimizer + average + norm, 35.7M parameters"
    )
    yield row._replace(ratio=None, bar=60.0, aim=45.0)
