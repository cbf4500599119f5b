"""Images from images: at a strength, through their latents, from one latent in few or many steps, from one x_t."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ddpm_lab.samplers.ddim import DDIM
from ddpm_lab.seeds import ImageNoise
from ddpm_lab.steering.interpolation import encode
from ddpm_lab.steering.job import Job, Outcome, error_curve, rmse, sheet, whole


class Edit:
    """SDEdit (Meng et al. 2022): diffuse an image to t = strength * T, denoise it from there.

    strengths: in 0..1, each moved to the nearest stage of the sampler's walk: 0 keeps the image, 1 keeps nothing. With
    labels=… the image is drawn towards another class.
    """

    name = "edit"

    def __init__(self, strengths: Sequence[float]) -> None:
        self.strengths = list(strengths)
        if not self.strengths or any(
            isinstance(s, bool) or not isinstance(s, (int, float)) or not 0 <= s <= 1 for s in self.strengths
        ):
            raise ValueError(
                f"task.strengths={self.strengths} must be numbers from 0 (keep the image) to 1 (keep nothing)"
            )

    def __call__(self, job: Job) -> Outcome:
        """A row for each image: itself, then each strength."""
        sources, of_sources = job.sources(job.n)
        y = job.labels_of(job.n, of_sources)
        noise = job.noise(*range(job.n))
        job.expect(len(self.strengths) * job.n)
        columns, errors, stages = [sources], [], []
        for strength in self.strengths:
            stage = job.sampler.nearest(job.T, strength * job.T)
            x = job.samples.denoiser.process.diffuse(sources, torch.full((job.n,), stage), noise)
            columns.append(job.walk(x, y, start=stage))
            errors.append(rmse(columns[-1], sources))
            stages.append(stage)
        names = ["image", *(f"t = {stage}" for stage in stages)]
        images = torch.stack(columns, 1).flatten(0, 1)
        labels = None if y is None else y.repeat_interleave(len(columns))
        means = [error.mean().item() for error in errors]
        return Outcome(
            images,
            labels,
            sheet(images, f"image to image from depth t: {job.about}", names, _rows(y if job.labels_given else None)),
            f"{job.n} images at {len(stages)} strengths; difference from the image (RMSE, grey levels): "
            + ", ".join(f"t = {stage}: {mean:.1f}" for stage, mean in zip(stages, means, strict=True)),
            {"t": stages, "rmse": means},
            {"source": sources},
            error_curve(
                stages, errors, xlabel="depth t", ylabel="RMSE (grey levels)", title="difference from the image"
            ),
        )


class Invert:
    """Encode images and decode them again, by DDIM without noise (Song et al. 2021, section 5.4 and table 2).

    steps: of both walks. Spacing and clipping are the sampler's, but for counts of sections.
    """

    name = "invert"

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = list(steps)

    def __call__(self, job: Job) -> Outcome:
        """A row for each number of steps, under the images."""
        samplers = _ladder(job, self.steps)
        sources, of_sources = job.sources(job.n)
        y = job.labels_of(job.n, of_sources)
        job.expect(len(samplers) * job.n)
        decoded = [job.walk(encode(job, sampler, sources, y), y, sampler=sampler) for sampler in samplers]
        errors = [rmse(images, sources) for images in decoded]
        means = [error.mean().item() for error in errors]
        rows = ["image", *(f"S = {s}, RMSE {mean:.1f}" for s, mean in zip(self.steps, means, strict=True))]
        images = torch.cat([sources, *decoded])
        return Outcome(
            images,
            None if y is None else y.repeat(len(rows)),
            sheet(images, f"encoded and decoded in S steps each: {job.about}", [""] * job.n, rows),
            f"{job.n} images; reconstruction error (RMSE, grey levels): "
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
        )


class Consistency:
    """The same latents decoded in few and in many steps, by DDIM without noise (Song et al. 2021, section 5.2, figure 5).

    steps: ascending; the last is what the others are compared with.
    """

    name = "consistency"

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = list(steps)

    def __call__(self, job: Job) -> Outcome:
        """A row for each number of steps."""
        samplers = _ladder(job, self.steps)
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
            f"{job.n} latents; difference from S = {self.steps[-1]} (RMSE, grey levels): "
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
        )


class Vary:
    """Several images that share one x_t (Ho et al. 2020, section 4.3 and figure 7): the later it is, the more they share.

    t: where they part, in timesteps, moved to the nearest stage of the walk, or null: T, 3/4, 1/2 and 1/4 of it.
    variations: from each x_t. Needs a sampler that draws noise, such as ancestral.
    """

    name = "vary"

    def __init__(self, t: Sequence[float] | None, variations: int) -> None:
        self.t = t
        self.variations = whole("task.variations", variations, 2)

    def __call__(self, job: Job) -> Outcome:
        """For each of n starts, a row for each t: x_t, and the images."""
        if isinstance(job.sampler, DDIM) and job.sampler.eta == 0:
            raise ValueError(
                "task=vary needs a sampler that draws noise, and DDIM with eta=0 does not: take sampler=ancestral"
            )
        wanted = [job.T * k / 4 for k in (4, 3, 2, 1)] if self.t is None else list(self.t)
        if not wanted or any(
            isinstance(t, bool) or not isinstance(t, (int, float)) or not 0 < t <= job.T for t in wanted
        ):
            raise ValueError(f"task.t={wanted} must be timesteps from 1 to T={job.T}")
        all_stages = job.sampler.timesteps(job.T)
        stages = sorted({max(all_stages[0], job.sampler.nearest(job.T, t)) for t in wanted}, reverse=True)
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
                f"images that share x_t: {job.about}",
                ["x_t", *["image"] * self.variations],
                [f"t = {stage}" for stage in stages] * job.n,
            ),
            f"{self.variations} images from each x_t; their standard deviation (grey levels): "
            + ", ".join(f"t = {stage}: {mean:.1f}" for stage, mean in zip(stages, means, strict=True)),
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

    def _on_the_way(self, job: Job, stages: list[int], y: Tensor | None) -> list[Tensor]:
        """x_t of the n starts at every stage, descending."""
        device = job.samples.device
        noise = ImageNoise(job.samples.seed, range(job.n), device)
        x = noise.normal(*job.samples.shape)
        places = [0, *job.sampler.timesteps(job.T)][::-1]
        found = [x.cpu()] if places[0] in stages else []
        walk = job.sampler.walk(job.samples.denoiser, x, None if y is None else y.to(device), noise)
        for place, x in zip(places[1:], walk, strict=True):
            if place in stages:
                found.append(x.cpu())
            if place <= stages[-1]:
                break
        return found


def _ladder(job: Job, steps: list[int]) -> list[DDIM]:
    """DDIM without noise for every number of steps. Raises ValueError for one that the process has not."""
    spacing = job.sampler.spacing if job.sampler.spacing in ("uniform", "ddim", "quadratic") else "uniform"
    if not steps or any(isinstance(s, bool) or not isinstance(s, int) or not 1 <= s <= job.T for s in steps):
        raise ValueError(f"task.steps={steps} must be numbers of steps from 1 to T={job.T}")
    samplers = [DDIM(s, 0.0, spacing, job.sampler.clip) for s in steps]
    for sampler in samplers:
        sampler.timesteps(job.T)
    return samplers


def _rows(y: Tensor | None) -> list[str]:
    return [] if y is None else [f"to class {label}" for label in y.tolist()]
