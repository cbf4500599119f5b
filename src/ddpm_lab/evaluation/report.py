"""What an evaluation leaves behind: numbers with their protocols in metrics.json, and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_lab import ranks
from ddpm_lab.evaluation import curves, likelihood
from ddpm_lab.evaluation.collect import SHOWN
from ddpm_lab.evaluation.generation import Judged, Samples, records, sentence, table
from ddpm_lab.evaluation.likelihood import Bound
from ddpm_lab.evaluation.neighbours import neighbours_picture
from ddpm_lab.evaluation.progressive import progressive_strip
from ddpm_lab.metrics.features import Images
from ddpm_lab.parts import named
from ddpm_lab.pictures import panels
from ddpm_lab.pixels import to_float
from ddpm_lab.runs import add_metrics
from ddpm_lab.wording import counted


class Report:
    """Collects what is found; rank zero writes each part as soon as it is there, so that a later failure loses nothing."""

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        """overrides: the command's options, which are kept beside the numbers."""
        self.folder = folder
        self.overrides = list(overrides)
        self.found: dict[str, Any] = {}
        self.pictures: list[Path] = []

    def add(self, found: Mapping[str, Any]) -> None:
        """Write to metrics.json."""
        self.found |= found
        if ranks.first():
            add_metrics(self.folder, {"overrides": self.overrides, **found})

    def add_bound(self, bound: Bound, *, weights: str, step: int, **origin: Any) -> None:
        """Write the bound with its protocol, and pictures of its terms where they are all known; print it."""
        self.add(likelihood.metrics(bound, weights=weights, step=step, **origin))
        self.add({f"seconds_of_{bound.key}": round(bound.seconds, 2)})
        if not ranks.first():
            return
        caption = f"{bound.protocol['images']}, step {step}: {likelihood.sentence(bound)} bits/dim"
        print(f"{caption} (prior {bound.prior:.2g}, decoder {bound.decoder:.3f})", flush=True)
        if bound.terms is not None:
            name = bound.key.replace("/", "_")
            curves.bound_terms(bound.terms, caption, self.picture(f"{name}.png"))
            curves.rate_distortion(bound.terms, bound.prior, caption, self.picture(f"{name}_rate_distortion.png"))

    def add_scores(self, judged: Judged, protocol: Mapping[str, Any], caption: str) -> None:
        """Write the scores, each with its protocol, and some of the images; print them."""
        n = judged.n
        self.add(records(judged.scores, protocol))
        per_image = {part: round(seconds / n * 1000, 3) for part, seconds in judged.seconds.items()}
        self.add({f"seconds_of_{n}_images": {**judged.seconds, "milliseconds_per_image": per_image}})
        if ranks.first():
            print(f"{caption}: {sentence(judged.scores)}", flush=True)
            for name, reason in judged.left_out.items():
                print(f"  {name} is left out: {reason}", flush=True)
            panels([(caption, to_float(judged.shown))], self.picture("judged.png"))

    def draw_samples(self, samples: Samples, judged: Judged, train: Images, test: Images) -> None:
        """Write the progressive strip of the samples, and their nearest neighbours in the training set. On rank zero alone."""
        sampler = type(samples.sampler).__name__
        caption = f"estimates of the image along {counted(samples.steps, 'step')} of {sampler}"
        progressive_strip(samples, caption, self.picture("progressive.png"))
        medians, protocol = neighbours_picture(judged.shown, train, test, self.picture("neighbours.png"), samples.seed)
        self.add({f"nearest_training_image_{name}": distance for name, distance in medians.items()})
        self.add({"nearest_training_image_parts": {"generated": named(judged.n, SHOWN, 0), **protocol}})

    def picture(self, name: str) -> Path:
        """Where the picture of this name belongs; it is shown on the dashboard too."""
        path = self.folder / name
        self.pictures.append(path)
        return path

    def numbers(self) -> dict[str, float]:
        """All single numbers."""
        return {name: value for name, value in self.found.items() if isinstance(value, (int, float))}

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Columns and rows: every number that has a protocol, with it."""
        return table(self.found)
