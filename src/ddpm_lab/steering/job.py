"""What every task of sample.py is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.process import GaussianPath
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.generation import Samples
from ddpm_lab.pictures import FRAME, captioned, grid
from ddpm_lab.samplers.sampler import Sampler, check_guidance, check_start
from ddpm_lab.seeds import ImageNoise
from ddpm_lab.wording import counted

ROUNDING = 1e-3  # an eighth of a grey level
Sources = Callable[[int], tuple[Tensor, Tensor | None]]  # n -> images [n, C, H, W] in [-1, 1], labels [n] or None


class Outcome(NamedTuple):
    """What a task has made.

    images: [m, C, H, W], row by row as in the picture. labels: [m] or None. sheet: the picture. told: one line for people.
    numbers: for the .json. arrays: more for the .npz, images among them in [-1, 1]. draw_error: writes a figure of errors.
    protocol: where it is another than the sampler's.
    """

    images: Tensor
    labels: Tensor | None
    sheet: Image.Image
    told: str
    numbers: Mapping[str, Any] = {}
    arrays: Mapping[str, Tensor] = {}
    draw_error: Callable[[Path], None] | None = None
    protocol: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Job:
    """n: how many, of what the task counts. labels_given: whether labels=… was, and not those of the sources are meant.

    about: guidance, seed and step, for captions.
    """

    samples: Samples
    n: int
    batch_size: int
    sources: Sources
    labels_given: bool
    null_label: int | None
    about: str
    bar: tqdm = field(default_factory=lambda: tqdm(desc="sampling", unit="image", disable=None))
    told: set[str] = field(default_factory=set)

    @property
    def process(self) -> GaussianPath:
        """The model's."""
        return self.samples.denoiser.process

    @property
    def T(self) -> int:  # noqa: N802
        """Timesteps of the process."""
        return int(self.process.T)

    @property
    def caption(self) -> str:
        """How the images come about."""
        return f"{type(self.sampler).__name__}, {counted(self.samples.steps, 'step')}, {self.about}"

    @property
    def sampler(self) -> Sampler:
        """The sampler of the command line."""
        return self.samples.sampler

    def class_name(self, label: int) -> str:
        """What a label is called in captions."""
        return "no class" if label == self.null_label else self.samples.class_name(label)

    def labels_of(self, count: int, of_sources: Tensor | None) -> Tensor | None:
        """For `count` images: the labels asked for, in turn; those of their sources; or none, where the model knows that.

        Raises ValueError where the model needs some and there are none.
        """
        if self.samples.chosen is None:
            return None
        if self.labels_given:
            return self.samples.labels(range(count))
        if of_sources is not None:
            return of_sources
        if self.null_label is None:
            raise UserError("this model needs labels, and these images have none of their own: add labels=…")
        if self.samples.guidance["guidance"] is not None:
            print(
                "note: without labels guidance has nothing to guide towards, and the unconditional model is walked; add "
                "labels=… to guide",
                flush=True,
            )
        return torch.full((count,), self.null_label)

    def noise(self, *numbers: int) -> Tensor:
        """The first noise of these images of the seed, [len(numbers), C, H, W]."""
        return ImageNoise(self.samples.seed, numbers, self.samples.device).normal(*self.samples.shape).cpu()

    def tell_start(self, sampler: Sampler | None = None) -> None:
        """Say once if walks of the sampler, the command line's if None, do not start in noise or meet no guidance."""
        self._tell(check_start(sampler or self.sampler, self.process))
        self._tell(check_guidance(sampler or self.sampler, self.samples.denoiser))

    def _tell(self, sentence: str | None) -> None:
        if sentence is not None and sentence not in self.told:
            self.told.add(sentence)
            print(f"warning: {sentence}", flush=True)

    @torch.no_grad()
    def draws_noise(self, sampler: Sampler) -> bool:
        """Whether two walks of the sampler from one x_T part, by more than rounding."""
        if sampler.deterministic:
            return False
        x = self.noise(0).expand(2, *self.samples.shape).contiguous().to(self.samples.device)
        y = self.samples.labels([0, 0])
        noise = ImageNoise(self.samples.seed, [0, 1], self.samples.device)
        for _, x_s in sampler.walk(self.samples.denoiser, x, None if y is None else y.to(x.device), noise):
            if not (x_s[0] - x_s[1]).abs().max() <= ROUNDING:
                return True
        return False

    @torch.no_grad()
    def walk(
        self,
        x: Tensor,
        y: Tensor | None,
        numbers: Sequence[int] | None = None,
        *,
        sampler: Sampler | None = None,
        start: float | None = None,
        around: Callable[[Denoiser, slice], Denoiser] = lambda denoiser, rows: denoiser,
    ) -> Tensor:
        """The images that walks end with, [m, C, H, W] on the CPU, batch by batch.

        x: [m, C, H, W], standard normal, or x_start where start is given (0: the images themselves). numbers: image k's noise
        is that of the seed's image numbers[k], after its first; k if None. around: puts a guidance around some rows' denoiser.
        Raises ValueError for a sampler that sets out from elsewhere than start.
        """
        if start == 0:
            self.bar.update(len(x))
            return x.clone()
        sampler = sampler or self.sampler
        if start is None:
            self.tell_start(sampler)
        else:
            self._tell(check_guidance(sampler, self.samples.denoiser, start))
        numbers = range(len(x)) if numbers is None else numbers
        device, done = self.samples.device, []
        for first in range(0, len(x), self.batch_size):
            rows = slice(first, first + self.batch_size)
            noise = ImageNoise(self.samples.seed, numbers[rows], device)
            noise(x[rows].to(device))  # its first is what images start from
            labels = None if y is None else y[rows].to(device)
            denoiser, image = around(self.samples.denoiser, rows), x[rows].to(device)
            for s, image in sampler.walk(denoiser, image, labels, noise, start=start):  # noqa: B007, B020 (keeps one x alive)
                if start is not None and s >= start:
                    raise UserError(
                        f"a walk of {type(sampler).__name__} was to set out from t={start:g} and came to t={s:g}: this task "
                        "needs a sampler that starts where it is told, such as ddim or ancestral"
                    )
            done.append(image.cpu())
            self.bar.update(len(image))
        return torch.cat(done)

    def expect(self, images: int) -> None:
        """Tell the progress bar how many images will be walked to."""
        self.bar.reset(images)


class Task(Protocol):
    """One of conf/sample/task/: Job -> Outcome. Everything that cannot be is refused before the first walk."""

    name: str

    def __call__(self, job: Job) -> Outcome: ...  # noqa: D102


def sheet(images: Tensor, caption: str, columns: Sequence[str], rows: Sequence[str]) -> Image.Image:
    """A captioned grid of images [rows * columns, C, H, W], with a name above each column and beside each row."""
    scale = max(1, round(56 / images.shape[-1]))
    wide = images.shape[-1] * scale + FRAME
    names = [(k * wide + FRAME, name) for k, name in enumerate(columns)]
    return captioned(grid(images, len(columns), scale), caption, names, rows)


def whole(name: str, value: object, least: int) -> int:
    """The number itself. Raises ValueError, naming the option, unless it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name}={value} must be a whole number of at least {least}")
    return value


def numbers(name: str, value: object, least: float, most: float, kind: type = float) -> list[Any]:
    """One number or a list of them, as a list. Raises ValueError, naming the option, for others than least to most."""
    found = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    kinds = (int,) if kind is int else (int, float)
    if not found or any(isinstance(x, bool) or not isinstance(x, kinds) or not least <= x <= most for x in found):
        whole_ones = "whole numbers" if kind is int else "numbers"
        raise UserError(f"{name}={value} must be one of the {whole_ones} from {least} to {most}, or a list of them")
    return found


def rmse(a: Tensor, b: Tensor) -> Tensor:
    """Root of the mean squared difference of each image, in grey levels of 0..255; [n]."""
    return 127.5 * ((a.clamp(-1, 1) - b) ** 2).flatten(1).mean(1).sqrt()


def error_curve(
    x: Sequence[float], errors: Sequence[Tensor], *, xlabel: str, ylabel: str, title: str, log: bool = False
) -> Callable[[Path], None]:
    """Draws the mean of errors [n] at every x, and the range of half of the images around their median."""

    def draw(path: Path) -> None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.4, 3.6), layout="constrained")
        axes = figure.subplots()
        rows = np.stack([error.double().numpy() for error in errors])  # [len(x), n]
        axes.fill_between(x, *np.quantile(rows, (0.25, 0.75), axis=1), alpha=0.25, label="half of the images")
        axes.plot(x, rows.mean(1), marker="o", label=f"mean of {counted(rows.shape[1], 'image')}")
        if log:
            axes.set_xscale("log")
            axes.set_xticks(list(x), [f"{value:g}" for value in x])
            axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, dpi=110)

    return draw
