"""Generated images judged in one pass: every metric, and beside every number how it was made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm_lab import ranks
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.collect import Clock, ImagesAt, collect
from ddpm_lab.metrics.features import Extractor
from ddpm_lab.metrics.scores import Metric, NotComputableError, Score
from ddpm_lab.metrics.statistics import Statistics
from ddpm_lab.parts import named
from ddpm_lab.pixels import WITH_ALPHA, to_uint8
from ddpm_lab.samplers.generate import generate
from ddpm_lab.samplers.sampler import Sampler, start_signal
from ddpm_lab.wording import counted

LONG = 60.0  # seconds; what takes longer says so before it starts


class Judged(NamedTuple):
    """What a pass found.

    n: images judged. scores: in the metrics' order. left_out: metric -> why. shown: 64 of them, spread over all, uint8.
    seconds: of each part.
    """

    n: int
    scores: list[Score]
    left_out: dict[str, str]
    shown: Tensor
    seconds: dict[str, float]


def judge(
    images_at: ImagesAt,
    n: int,
    extractor: Extractor,
    reference: Statistics,
    metrics: Mapping[str, Metric | None],
    *,
    batch_size: int,
    device: torch.device,
) -> Judged:
    """Score images 0..n-1 by every metric. A collective; all ranks return the same scores.

    Raises ValueError if the extractor's features are not those of the reference.
    """
    collected = collect(images_at, n, batch_size, extractor, device, f"judging {n} images")
    statistics = collected.accumulator.finish()
    if len(statistics.pool.mean) != len(reference.pool.mean):
        raise UserError(
            f"the reference statistics are of {len(reference.pool.mean)} features and {extractor.name} gives "
            f"{len(statistics.pool.mean)}: take statistics of the same extractor"
        )
    start = time.perf_counter()
    scores: list[Score] = []
    left_out = {}
    for name, metric in metrics.items():
        try:
            scores += metric(statistics, reference) if metric is not None else []
        except NotComputableError as error:
            left_out[name] = str(error)
    if collected.shown.shape[1] in WITH_ALPHA:  # extractors see colours alone
        scores = [score._replace(settings={**score.settings, "transparent": "over white"}) for score in scores]
    seconds = {**collected.seconds, "metrics": time.perf_counter() - start}
    # Every rank has computed the same; that it is the same to the last bit is made sure of.
    return Judged(n, ranks.agreed(scores), left_out, collected.shown, seconds)


@dataclass(frozen=True)
class Samples:
    """The images of a seed: image k is the same one at any batch size and on any number of processes.

    shape: (C, H, W). chosen: labels, of which image k has that at k modulo their number; None for a model without.
    guidance: what is around the denoiser, for the protocol. class_names: of the labels; empty where they have none.
    null_label: the one that stands for none, if the network knows it.
    """

    denoiser: Denoiser
    sampler: Sampler
    shape: Sequence[int]
    seed: int
    chosen: Sequence[int] | None
    device: torch.device
    guidance: Mapping[str, Any] = field(default_factory=lambda: {"guidance": None})
    class_names: Sequence[str] = ()
    null_label: int | None = None

    def __call__(self, indices: list[int]) -> Tensor:
        """Draw images in bytes, [len(indices), C, H, W]."""
        (images,) = generate(
            self.denoiser,
            self.sampler,
            self.shape,
            indices,
            seed=self.seed,
            batch_size=len(indices),
            labels=self.labels(indices),
            device=self.device,
        )
        return to_uint8(images)

    def labels(self, indices: Sequence[int]) -> Tensor | None:
        """The labels of these images, [len(indices)], or None."""
        return None if self.chosen is None else torch.tensor([self.chosen[k % len(self.chosen)] for k in indices])

    def class_name(self, label: int) -> str:
        """What a label is called; one without a name, or with a number for one, "class 3"."""
        name = self.class_names[label] if label < len(self.class_names) else str(label)
        return f"class {name}" if name.isdigit() else name

    def _numbered(self, label: int) -> str:
        name = self.class_names[label] if label < len(self.class_names) else str(label)
        return name if name == str(label) else f"{label} ({name})"

    def _labels_said(self) -> str | None:
        if self.chosen is None:
            return None
        if list(self.chosen) == [self.null_label]:
            return "none"
        return f"in turn: {', '.join(map(self._numbered, self.chosen))}"

    @property
    def steps(self) -> int:
        """Steps of a walk."""
        return len(self.sampler.times(self.denoiser.process))

    def protocol(self) -> dict[str, Any]:
        """How the images come about."""
        return {
            "sampler": type(self.sampler).__name__,
            "eta": None,
            **settings(self.sampler),
            "steps": self.steps,
            "calls": self.sampler.calls(self.denoiser.process),
            "start_signal": float(f"{start_signal(self.sampler, self.denoiser.process):.4g}"),
            "variance": type(self.denoiser.variance).__name__,
            "seed": self.seed,
            "labels": self._labels_said(),
            **self.guidance,
        }

    @torch.inference_mode()  # as the walks that follow: a compiled network is compiled anew for another mode
    def announce(self, n: int, batch_size: int, extractor: Extractor) -> None:
        """Print how long judging n images will take, if long, from one warm network call and one of the extractor."""
        indices = list(range(min(batch_size, n)))
        x = torch.zeros(len(indices), *self.shape, device=self.device)
        t = torch.full((len(x),), self.denoiser.process.T, device=self.device)
        y = self.labels(indices)
        y = y if y is None else y.to(self.device)
        network = _warm_seconds(lambda: self.denoiser.estimate(x, t, y, clip=True), self.device)
        features = _warm_seconds(lambda: extractor(to_uint8(x)), self.device)
        rounds = -(-n // (len(x) * ranks.world_size()))
        seconds = rounds * (self.sampler.calls(self.denoiser.process) * network + features)
        if ranks.first() and seconds > LONG:
            where = f"{ranks.world_size()} processes" if ranks.world_size() > 1 else "one process"
            print(
                f"{counted(n, 'image')} in {counted(self.steps, 'step')} each: about {seconds / 60:.0f} min on {where}",
                flush=True,
            )


def settings(sampler: Sampler) -> dict[str, Any]:
    """What a sampler was made with, as a protocol can hold it: numbers, words, lists of them, functions by name.

    Tensors and other objects that it holds are left out.
    """
    found = {}
    for name, value in vars(sampler).items():
        items = value if isinstance(value, (list, tuple)) else [value]
        if all(isinstance(item, (bool, int, float, str, type(None))) for item in items):
            found[name] = value
        elif callable(value) and hasattr(value, "__qualname__"):
            found[name] = value.__qualname__
    return found


def protocol_of_reference(extractor: Extractor, reference: Statistics, batch_size: int) -> dict[str, Any]:
    """What the images are compared with, and through which eyes."""
    about = reference.about
    split = f"{about['split']} split of {about['data']}" if "split" in about else about.get("file", "unknown")
    return {
        "reference": split,
        "reference_n": reference.n or None,
        "reference_images": images_of(reference),
        "reference_sha256": about.get("images_sha256"),
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "resize": extractor.resize,
        "batch_size": batch_size,
        **({"reference_background": about["background"]} if "background" in about else {}),
    }


def images_of(reference: Statistics) -> str | None:
    """Which images of its source the statistics are of; None where the file does not say."""
    about = reference.about
    if "images" in about or "of" not in about:
        return about.get("images")
    whole = about["n"] == about["of"]
    return (
        named(about["of"], None, 0)
        if whole
        else f"the first {about['n']} of {about['of']}, as an earlier version took them"
    )


def count_name(n: int) -> str:
    """200 -> "200", 5000 -> "5k": the part of a metric's key that tells how many images it is of."""
    return f"{n // 1000}k" if n % 1000 == 0 else str(n)


def records(scores: Iterable[Score], protocol: Mapping[str, Any]) -> dict[str, Any]:
    """For metrics.json: each score under its name and n, its spread, and beside it its own whole protocol."""
    found: dict[str, Any] = {}
    for name, value, std, n, settings in scores:
        key = name + count_name(n)
        found[key] = value
        if std is not None:
            found[f"{key}_std"] = std
        found[f"{key}_protocol"] = {"n": n, **protocol, **settings}
    return found


def table(found: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a table of all numbers among `found` that have a protocol beside them."""
    keys = [key for key in found if f"{key}_protocol" in found]
    settings = list(dict.fromkeys(name for key in keys for name in found[f"{key}_protocol"]))
    rows = []
    for key in keys:
        protocol = found[f"{key}_protocol"]
        rows.append([key, found[key], found.get(f"{key}_std"), *(_cell(protocol.get(s)) for s in settings)])
    return ["metric", "value", "std", *settings], rows


def sentence(scores: Iterable[Score]) -> str:
    """The scores in one line, for people."""
    return ", ".join(f"{s.name}{count_name(s.n)} {s.value:.4g}" + (f" ± {s.std:.2g}" if s.std else "") for s in scores)


def _cell(value: Any) -> Any:
    return value if isinstance(value, (int, float, type(None))) else str(value)


def _warm_seconds(call: Callable[[], Any], device: torch.device) -> float:
    call()
    clock = Clock(device)
    call()
    return clock.lap()
