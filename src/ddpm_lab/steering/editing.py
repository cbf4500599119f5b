"""Images from images: at a strength, through their latents, from one latent in few or many steps, from one x_t."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from ddpm_lab.diffusion.coefficients import times_of
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.generation import settings
from ddpm_lab.samplers.sampler import Sampler
from ddpm_lab.seeds import ImageNoise
from ddpm_lab.steering.interpolation import check_deterministic, encode
from ddpm_lab.steering.job import Job, Outcome, error_curve, numbers, rmse, sheet, whole
from ddpm_lab.wording import counted


class Edit:
    """SDEdit (Meng et al. 2022): diffuse an image to t = strength * T, denoise it from there.

    strengths: in 0..1, each moved to the nearest stage of the sampler's walk: 0 keeps the image, 1 keeps nothing. With
    labels=… the image is drawn towards another class.
    """

    name = "edit"

    def __init__(self, strengths: Sequence[float] | float) -> None:
        self.strengths = numbers("task.strengths", strengths, 0, 1)

    def __call__(self, job: Job) -> Outcome:
        """A row for each image: itself, then each strength."""
        sources, of_sources = job.sources(job.n)
        y = job.labels_of(job.n, of_sources)
        noise = job.noise(*range(job.n))
        job.expect(len(self.strengths) * job.n)
        columns, errors, stages = [sources], [], []
        for strength in self.strengths:
            stage = job.sampler.nearest(job.process, strength * job.T)
            x = job.samples.denoiser.process.diffuse(sources, times_of([stage])[0], noise)
            columns.append(job.walk(x, y, start=stage))
            errors.append(rmse(columns[-1], sources))
            stages.append(stage)
        names = ["image", *(f"t = {stage:g}" for stage in stages)]
        images = torch.stack(columns, 1).flatten(0, 1)
        labels = None if y is None else y.repeat_interleave(len(columns))
        means = [error.mean().item() for error in errors]
        return Outcome(
            images,
            labels,
            sheet(
                images,
                f"image to image from depth t: {job.caption}",
                names,
                _rows(job, y if job.labels_given else None),
            ),
            f"{counted(job.n, 'image')} at {counted(len(stages), 'strength')}; difference from the image (RMSE, grey levels): "
            + ", ".join(f"t = {stage:g}: {mean:.1f}" for stage, mean in zip(stages, means, strict=True)),
            {"t": stages, "rmse": means},
            {"source": sources},
            error_curve(
                stages, errors, xlabel="depth t", ylabel="RMSE (grey levels)", title="difference from the image"
            ),
        )


class Invert:
    """Encode images and decode them again, by a sampler without noise (Song et al. 2021, section 5.4 and table 2).

    steps: of both walks. All else is the sampler's, which must draw no noise and have `invert`, as DDIM.
    """

    name = "invert"

    def __init__(self, steps: Sequence[int] | int) -> None:
        self.steps = numbers("task.steps", steps, 2, float("inf"), int)

    def __call__(self, job: Job) -> Outcome:
        """A row for each number of steps, under the images."""
        samplers = _ladder(job, self.steps, self.name, encodes=True)
        sources, of_sources = job.sources(job.n)
        y = job.labels_of(job.n, of_sources)
        job.expect(len(samplers) * job.n)
        decoded = [
            job.walk(encode(job, sampler, sources, y), y, sampler=sampler, start=sampler.times(job.process)[-1])
            for sampler in samplers
        ]
        errors = [rmse(images, sources) for images in decoded]
        means = [error.mean().item() for error in errors]
        rows = ["image", *(f"S = {s}, RMSE {mean:.1f}" for s, mean in zip(self.steps, means, strict=True))]
        images = torch.cat([sources, *decoded])
        return Outcome(
            images,
            None if y is None else y.repeat(len(rows)),
            sheet(images, f"encoded and decoded in S steps each: {job.about}", [""] * job.n, rows),
            f"{counted(job.n, 'image')}; reconstruction error (RMSE, grey levels): "
            + ", ".join(f"S = {s}: {mean:.2f}" for s, mean in zip(self.steps, means, strict=True)),
            {"steps": self.steps, "rmse": means},
            {},
            error_curve(
                self.steps,
                errors,
                xlabel="steps S of each walk",
                ylabel="RMSE (grey levels)",
                title="error of reconstruction",
                log=True,
            ),
            {"steps": self.steps},
        )


class Consistency:
    """The same latents decoded in few and in many steps, by a sampler without noise (Song et al. 2021, section 5.2, figure 5).

    steps: ascending; the last is what the others are compared with.
    """

    name = "consistency"

    def __init__(self, steps: Sequence[int] | int) -> None:
        self.steps = numbers("task.steps", steps, 2, float("inf"), int)

    def __call__(self, job: Job) -> Outcome:
        """A row for each number of steps."""
        samplers = _ladder(job, self.steps, self.name, encodes=False)
        y = job.samples.labels(range(job.n))
        job.expect(len(samplers) * job.n)
        latents = job.noise(*range(job.n))
        decoded = [job.walk(latents, y, sampler=sampler) for sampler in samplers]
        errors = [rmse(images, decoded[-1].clamp(-1, 1)) for images in decoded]
        means = [error.mean().item() for error in errors]
        rows = [f"S = {s}, RMSE {mean:.1f}" for s, mean in zip(self.steps, means, strict=True)]
        images = torch.cat(decoded)
        return Outcome(
            images,
            None if y is None else y.repeat(len(rows)),
            sheet(images, f"the same latents in S steps: {job.about}", [""] * job.n, rows),
            f"{counted(job.n, 'latent')}; difference from S = {self.steps[-1]} (RMSE, grey levels): "
            + ", ".join(f"S = {s}: {mean:.2f}" for s, mean in zip(self.steps[:-1], means, strict=False)),
            {"steps": self.steps, "rmse": means},
            {},
            error_curve(
                self.steps[:-1],
                errors[:-1],
                xlabel="steps S",
                ylabel="RMSE (grey levels)",
                title=f"difference from S = {self.steps[-1]}",
                log=True,
            )
            if len(self.steps) > 1
            else None,
            {"steps": self.steps},
        )


class Vary:
    """Several images that share one x_t (Ho et al. 2020, section 4.3 and figure 7): the later it is, the more they share.

    t: where they part, in timesteps, moved to the nearest stage of the walk, or null: T, 3/4, 1/2 and 1/4 of it.
    variations: from each x_t. Needs a sampler that draws noise, such as ancestral.
    """

    name = "vary"

    def __init__(self, t: Sequence[float] | float | None, variations: int) -> None:
        self.t = t
        self.variations = whole("task.variations", variations, 2)

    def __call__(self, job: Job) -> Outcome:
        """For each of n starts, a row for each t: x_t, and the images."""
        wanted = numbers("task.t", [job.T * k / 4 for k in (4, 3, 2, 1)] if self.t is None else self.t, 1, job.T)
        all_stages = job.sampler.times(job.process)
        stages = sorted({max(all_stages[0], job.sampler.nearest(job.process, t)) for t in wanted}, reverse=True)
        job.tell_start()
        if not job.draws_noise(job.sampler):
            raise UserError(
                f"task=vary needs a sampler that draws noise, and {type(job.sampler).__name__} with {_told(job.sampler)} draws "
                "none: take sampler=ancestral, or sampler.eta=1 of DDIM, in more steps than one"
            )
        y = job.samples.labels(range(job.n))
        job.expect(job.n * len(stages) * self.variations)
        rows, spreads = [], []
        for stage, x_t in zip(stages, self._on_the_way(job, stages, y), strict=True):
            x = x_t.repeat_interleave(self.variations, 0)
            labels = None if y is None else y.repeat_interleave(self.variations)
            # Noise that no start has used: numbers below n are the starts'.
            images = job.walk(x, labels, range(job.n, job.n + len(x)), start=stage).unflatten(0, (job.n, -1))
            rows.append(torch.cat([x_t[:, None], images], 1))  # [n, 1 + variations, C, H, W]
            spreads.append((127.5 * images.clamp(-1, 1).std(1)).flatten(1).mean(1))
        grid = torch.stack(rows, 1)  # [n, stages, 1 + variations, C, H, W]
        images = grid.flatten(0, 2)
        means = [spread.mean().item() for spread in spreads]
        return Outcome(
            images,
            None if y is None else y.repeat_interleave(len(stages) * (1 + self.variations)),
            sheet(
                images,
                f"images that share x_t: {job.caption}",
                ["x_t", *["image"] * self.variations],
                [f"t = {stage:g}" for stage in stages] * job.n,
            ),
            f"{self.variations} images from each x_t; their standard deviation (grey levels): "
            + ", ".join(f"t = {stage:g}: {mean:.1f}" for stage, mean in zip(stages, means, strict=True)),
            {"t": stages, "std": means},
            {},
            error_curve(
                stages[::-1],
                spreads[::-1],
                xlabel="timestep t of the shared x_t",
                ylabel="standard deviation (grey levels)",
                title="how much images that share x_t differ",
            ),
        )

    def _on_the_way(self, job: Job, stages: list[float], y: Tensor | None) -> list[Tensor]:
        """x_t of the n starts at every stage, descending. Raises ValueError for a walk that does not visit them."""
        device, whole = job.samples.device, job.sampler.times(job.process)[-1]
        found: dict[float, list[Tensor]] = {stage: [] for stage in stages}
        for first in range(0, job.n, job.batch_size):
            rows = slice(first, min(first + job.batch_size, job.n))
            noise = ImageNoise(job.samples.seed, range(job.n)[rows], device)
            x_T = noise.normal(*job.samples.shape)
            passed = {whole: x_T.cpu()} if whole in found else {}
            walk = job.sampler.walk(job.samples.denoiser, x_T, None if y is None else y[rows].to(device), noise)
            for s, x_s in walk if len(passed) < len(stages) else ():
                if s in found:
                    passed[s] = x_s.cpu()
                if len(passed) == len(stages):
                    break
            if len(passed) < len(stages):
                missed = ", ".join(f"t={stage:g}" for stage in stages if stage not in passed)
                raise UserError(
                    f"the walk of {type(job.sampler).__name__} never stood at {missed}, where images were to part"
                )
            for stage, x_t in passed.items():
                found[stage].append(x_t)
        return [torch.cat(found[stage]) for stage in stages]


def _ladder(job: Job, steps: list[int], task: str, encodes: bool) -> list[Sampler]:
    """The sampler at every number of steps. Raises ValueError for one that draws noise, or steps that there are not."""
    numbers("task.steps", steps, 2, job.T, int)
    name, spacing = type(job.sampler).__name__, job.sampler.spacing
    if not isinstance(spacing, str) and not callable(spacing):
        raise UserError(f"task={task} walks in many numbers of steps, and sampler.spacing={spacing} is for one")
    samplers = []
    for wanted in steps:
        sampler = copy.copy(job.sampler)
        sampler.steps = wanted
        found = len(sampler.times(job.process))
        if found != wanted:
            raise UserError(
                f"task={task} walks in many numbers of steps, and {name} takes {found} where {wanted} are asked for"
            )
        samplers.append(sampler)
    check_deterministic(job, samplers[0], task, encodes)
    return samplers


def _told(sampler: Sampler) -> str:
    """Its settings, for a sentence."""
    return ", ".join(f"{name}={value}" for name, value in settings(sampler).items())


def _rows(job: Job, y: Tensor | None) -> list[str]:
    return [] if y is None else [f"to {job.class_name(label)}" for label in y.tolist()]
