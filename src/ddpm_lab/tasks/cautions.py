"""What is said before a model is trained or drawn from: where noise is not the noise that it is taken for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.likelihood import check_schedule
from ddpm_lab.parts import part
from ddpm_lab.pixels import to_float
from ddpm_lab.samplers.sampler import Sampler, check_guidance, check_start

if TYPE_CHECKING:
    from ddpm_lab.data.datamodule import DataModule

IMAGES = 64  # whose prior term is told


def of_training(model: object, data: DataModule, callbacks: Iterable[Any]) -> list[str]:
    """Of a denoiser's schedule, by the prior term of some training images, and of every sampler that a callback has."""
    if not isinstance(model, Denoiser):
        return []
    found = []
    if check_schedule(model.process) is not None:  # before images are read
        images = data.images("train")
        x_0 = to_float(images.__getitems__(part(len(images), IMAGES, seed=0))[0])
        advice = "take a greater schedule.T or schedule.beta_end, or schedule=cosine"
        found.append(f"{check_schedule(model.process, x_0)}: {advice}")
    samplers = [part for callback in callbacks for part in vars(callback).values() if isinstance(part, Sampler)]
    return [*found, *of_walks(model, samplers)]


def of_drawing(denoiser: Denoiser, samplers: Sequence[Sampler] = ()) -> list[str]:
    """Of the schedule of a model that is drawn from, and of the samplers."""
    schedule = check_schedule(denoiser.process)
    return [*([] if schedule is None else [schedule]), *of_walks(denoiser, samplers)]


def of_walks(denoiser: Denoiser, samplers: Sequence[Sampler]) -> list[str]:
    """Of every sampler whose walks do not start in noise, or meet no guidance, each sentence once."""
    starts = [check_start(sampler, denoiser.process) for sampler in samplers]
    return list(dict.fromkeys(filter(None, [*starts, *(check_guidance(sampler, denoiser) for sampler in samplers)])))
