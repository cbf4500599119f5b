"""Images of a seed: as they come, a row for each class, or along their walk."""

from __future__ import annotations

import torch

from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.progressive import progressive
from ddpm_lab.pictures import captioned, grid
from ddpm_lab.steering.job import Job, Outcome, sheet, whole
from ddpm_lab.wording import counted

SHOWN = 256


class Generate:
    """n images; of a model with labels, all classes in turn or those of labels=…."""

    name = "samples"

    def __call__(self, job: Job) -> Outcome:
        """Image k is that of number k of the seed."""
        y = job.samples.labels(range(job.n))
        job.expect(job.n)
        images = job.walk(job.noise(*range(job.n)), y)
        scale = max(1, round(40 / images.shape[-1]))
        picture = captioned(grid(images[:SHOWN], min(16, job.n), scale), job.caption, [])
        return Outcome(images, y, picture, counted(job.n, "image"))


class Classes:
    """n images of each class, those of a column from the same noise."""

    name = "classes"

    def __call__(self, job: Job) -> Outcome:
        """A row for each class of labels=…, all without. Raises ValueError for a model without labels."""
        if job.samples.chosen is None:
            raise UserError("task=classes needs a model with classes: a class-conditional run, or guidance=classifier")
        classes = list(dict.fromkeys(job.samples.chosen))
        y = torch.tensor(classes).repeat_interleave(job.n)
        numbers = list(range(job.n)) * len(classes)
        job.expect(len(y))
        images = job.walk(job.noise(*numbers), y, numbers)
        picture = sheet(
            images,
            job.caption,
            [""] * job.n,
            [job.class_name(label) for label in classes],
        )
        return Outcome(images, y, picture, f"{counted(job.n, 'image')} of each of {counted(len(classes), 'class')}")


class Progressive:
    """What the sampler believes n images to be, at every stage of its walk, from coarse to fine (Ho et al. 2020, figure 6).

    columns: stages that are shown, evenly spaced over the walk.
    """

    name = "progressive"

    def __init__(self, columns: int) -> None:
        self.columns = whole("task.columns", columns, 2)

    def __call__(self, job: Job) -> Outcome:
        """A row for each image."""
        job.expect(job.n)
        parts: list[tuple[torch.Tensor, list[float]]] = []
        job.tell_start()
        for first in range(0, job.n, job.batch_size):
            rows = range(first, min(first + job.batch_size, job.n))
            parts.append(progressive(job.samples, rows, self.columns))
            job.bar.update(len(rows))
        timesteps = parts[0][1]
        if any(others != timesteps for _, others in parts):
            raise UserError(
                f"the walks of {type(job.sampler).__name__} visit other timesteps for other images, and no column has one for "
                f"all: take n of at most batch_size={job.batch_size}"
            )
        estimates = torch.cat([estimates for estimates, _ in parts])
        y = job.samples.labels(range(job.n))
        names = [f"t = {t:g}" if t else "image" for t in timesteps]
        picture = sheet(estimates.flatten(0, 1), job.caption, names, [])
        labels = None if y is None else y.repeat_interleave(len(timesteps))
        return Outcome(
            estimates.flatten(0, 1), labels, picture, f"{counted(job.n, 'image')} at {counted(len(timesteps), 'stage')}"
        )
