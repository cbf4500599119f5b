"""Sampling beside each peer: a DDIM and an ancestral step with the network, and the loop alone."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from benchmarks.models import NETWORKS, SHAPES, awake, ours
from benchmarks.paired import Row, compared, take_turns
from torch import Tensor, nn

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.predictions import Epsilon
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import linear
from ddpm_lab.diffusion.variances import FixedSmall
from ddpm_lab.samplers.ancestral import Ancestral
from ddpm_lab.samplers.ddim import DDIM
from ddpm_lab.tasks.building import to_draw

Walk = Callable[[], Any]
T, STEPS = 1000, 10  # the loops are linear in their steps
SHAPE = SHAPES["demo16"]


class Nothing(nn.Module):
    """A network that costs nothing, so that what is timed is the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.output = torch.zeros(16, 3, SHAPE.size, SHAPE.size)

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return self.output[: len(x)]


def our_walk(
    network: nn.Module,
    batch: int,
    sampler: DDIM | Ancestral,
    bf16: bool = False,
    *,
    compile: bool = False,
    forget: bool = False,
) -> Walk:
    """A walk of ten steps. compile: of a copy of the network. forget: each walk computes its coefficients anew."""
    network = copy.deepcopy(network) if compile else network
    denoiser = Denoiser(network.eval(), Process(linear(T)), Epsilon(), FixedSmall())
    denoiser = to_draw(denoiser, "bf16" if bf16 else "fp32", compile)
    x = noise(batch)

    @torch.inference_mode()  # as samplers/generate.py
    def walk() -> None:
        if forget:
            denoiser.process.numbers.clear()
        sampler(denoiser, x)

    return walk


def noise(batch: int) -> Tensor:
    """What a walk begins with."""
    return torch.randn(batch, 3, SHAPE.size, SHAPE.size, generator=torch.Generator().manual_seed(0))


def diffusers_walk(network: nn.Module, batch: int, ancestral: bool) -> Walk:
    """scheduler.step in a loop, without the pipeline's progress bar."""
    from diffusers import DDIMScheduler, DDPMScheduler

    scheduler = DDPMScheduler(T) if ancestral else DDIMScheduler(T)
    start = noise(batch)
    network.eval()

    @torch.no_grad()
    def walk() -> None:
        scheduler.set_timesteps(STEPS)
        x = start
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t), t, x).prev_sample

    return walk


def lucidrains_walk(network: nn.Module, batch: int, ancestral: bool) -> Walk:
    """p_sample, or ddim_sample's loop by its own code, in ten steps."""
    from denoising_diffusion_pytorch import GaussianDiffusion, denoising_diffusion_pytorch

    denoising_diffusion_pytorch.tqdm = lambda steps, **options: steps  # nobody's progress bar is timed
    if isinstance(network, Nothing):
        network.channels, network.out_dim, network.self_condition, network.random_or_learned_sinusoidal_cond = (
            3,
            3,
            False,
            False,
        )
    diffusion = GaussianDiffusion(
        network,
        image_size=SHAPE.size,
        timesteps=T,
        sampling_timesteps=STEPS,
        objective="pred_noise",
        beta_schedule="linear",
    )
    start = noise(batch)

    @torch.inference_mode()
    def walk() -> None:
        if not ancestral:
            diffusion.ddim_sample((batch, 3, SHAPE.size, SHAPE.size))
            return
        x = start
        for t in range(STEPS - 1, -1, -1):
            x, _ = diffusion.p_sample(x, t)

    return walk


def improved_walk(network: nn.Module, batch: int, ancestral: bool) -> Walk:
    """p_sample_loop and ddim_sample_loop of a process respaced to ten steps."""
    from improved_diffusion import gaussian_diffusion as gd
    from improved_diffusion.respace import SpacedDiffusion, space_timesteps

    diffusion = SpacedDiffusion(
        use_timesteps=space_timesteps(T, str(STEPS)),
        betas=gd.get_named_beta_schedule("linear", T),
        model_mean_type=gd.ModelMeanType.EPSILON,
        model_var_type=gd.ModelVarType.FIXED_SMALL,
        loss_type=gd.LossType.MSE,
    )
    loop = diffusion.p_sample_loop if ancestral else diffusion.ddim_sample_loop
    start = noise(batch)
    network.eval()
    return lambda: loop(network, start.shape, noise=start, device="cpu")


WALKS = {"improved-diffusion": improved_walk, "diffusers": diffusers_walk, "lucidrains": lucidrains_walk}


def rows(rounds: int) -> Iterator[Row]:
    """With the network: by step."""
    network = awake(ours(SHAPE))
    networks = {peer: awake(make(SHAPE)) for peer, make in NETWORKS.items()}
    for kind, batch, sampler, bars in (
        ("DDIM", 16, DDIM(STEPS), (1.12, 1.3, 1.4, 1.6)),
        ("ancestral", 16, Ancestral(STEPS), (1.12, 1.3, 1.4, 1.6)),
        ("DDIM", 1, DDIM(STEPS), (1.4, 1.7, None, None)),
    ):
        sides = {bf16: our_walk(network, batch, sampler, bf16 == "bf16") for bf16 in ("fp32", "bf16")}
        sides |= {peer: WALKS[peer](networks[peer], batch, kind == "ancestral") for peer in NETWORKS}
        seconds = take_turns(sides, rounds)
        for number, (bar, aim) in zip(("fp32", "bf16"), (bars[:2], bars[2:]), strict=True):
            name = f"{kind}, batch {batch}, {number}{' beside their fp32' if number == 'bf16' else ''}, a step"
            yield from compared(
                seconds, number, NETWORKS, part="sampling", name=name, scale=1e3 / STEPS, bar=bar, aim=aim
            )


def compiled_rows(rounds: int) -> Iterator[Row]:
    """DDIM with compile=true beside eager peers, in fp32. Their Python is slower here: see PARTS in run.py."""
    network = awake(ours(SHAPE))
    networks = {peer: awake(make(SHAPE)) for peer, make in NETWORKS.items()}
    for batch in (16, 1):
        sides = {"ours": our_walk(network, batch, DDIM(STEPS), compile=True)}
        sides |= {peer: WALKS[peer](networks[peer], batch, ancestral=False) for peer in NETWORKS}
        name = f"DDIM, batch {batch}, fp32 compiled beside theirs eager, a step"
        seconds = take_turns(sides, rounds)
        yield from compared(seconds, "ours", NETWORKS, part="sampling", name=name, scale=1e3 / STEPS)


def loop_rows(rounds: int) -> Iterator[Row]:
    """The loop alone, by step: of walks after the first, whose coefficients are there, and of the first."""
    for kind, sampler, bar, aim in (("DDIM", DDIM(STEPS), 0.05, 0.03), ("ancestral", Ancestral(STEPS), 0.15, 0.1)):
        sides = {"ours": our_walk(Nothing(), 16, sampler)}
        sides |= {peer: WALKS[peer](Nothing(), 16, kind == "ancestral") for peer in NETWORKS}
        seconds = take_turns(sides, rounds, repeat=20)
        name = f"loop without the network, {kind}, 16x3x16x16, a step"
        yield from compared(seconds, "ours", NETWORKS, part="sampling", name=name, scale=1e3 / STEPS)
        yield Row("sampling", name, "", "ms", 1e3 / STEPS * statistics.median(seconds["ours"]), bar=bar, aim=aim)
        first = our_walk(Nothing(), 16, sampler, forget=True)
        seconds = take_turns({"first": first}, rounds, repeat=20)
        yield Row("sampling", f"{name}, first walk", "", "ms", 1e3 / STEPS * statistics.median(seconds["first"]))
