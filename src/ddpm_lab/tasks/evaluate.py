"""Judge a run, or images that exist already: its bound, and every metric of generated images."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ddpm_lab import ranks, runs
from ddpm_lab.data.images import read_images, transparent_of
from ddpm_lab.data.memory import ImageSet
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.generation import Samples, images_of, judge, protocol_of_reference
from ddpm_lab.evaluation.reference import check_fit, reference_statistics
from ddpm_lab.evaluation.report import Report
from ddpm_lab.folders import shown
from ddpm_lab.metrics.features import Extractor
from ddpm_lab.metrics.statistics import Statistics, holds_moments, load_statistics
from ddpm_lab.parts import named, part
from ddpm_lab.pixels import WITH_ALPHA
from ddpm_lab.provenance import origin
from ddpm_lab.tasks import cautions
from ddpm_lab.tasks.building import background_of, build_extractor, dataset_of, find_device, set_threads, to_draw
from ddpm_lab.tasks.contracts import check_methods
from ddpm_lab.tasks.foreign import check_source, load_model, weights_of
from ddpm_lab.tasks.guiding import chosen_labels, guidance_of, guide, guiding_runs
from ddpm_lab.tasks.precisions import settle_drawing
from ddpm_lab.wording import counted


def evaluate(config: DictConfig) -> float:
    """Write metrics.json and pictures; return the FID, or bits per dimension where no images are judged."""
    if config.batch_size < 1 or (config.n is not None and config.n < 2):
        raise UserError(
            f"batch_size must be positive and n at least 2, got batch_size={config.batch_size} n={config.n}"
        )
    check_source(config)
    set_threads(config.threads)
    report = Report(runs.results_folder(HydraConfig.get().runtime.output_dir), HydraConfig.get().overrides.task)
    device = find_device(config.accelerator)
    with ranks.joined(device):
        try:
            if config.samples is not None:
                _evaluate_files(config, report, device)
            else:
                _evaluate_run(config, report, device)
        finally:
            if report.found and ranks.first():  # what was found before an error is kept too
                print(f"-> {shown(report.folder / 'metrics.json')}", flush=True)
        dashboard = instantiate(config.dashboard)
        if dashboard is not None and ranks.first():
            options = OmegaConf.to_container(config, resolve=True)
            group = None if config.run is None else runs.checked_run(config.run).name
            dashboard(report.folder, options, group, report.numbers(), report.table(), report.pictures)
    numbers = report.numbers()
    return next(
        (numbers[name] for kind in ("fid", "test/bits_per_dim") for name in numbers if name.startswith(kind)), math.nan
    )


def _evaluate_run(config: DictConfig, report: Report, device: torch.device) -> None:
    """A model's bound, and its samples if n is given."""
    if config.run is None and config.data is None:
        raise UserError("a model from elsewhere is judged by a data set: add data=… (such as data=cifar10)")
    run, denoiser, step = load_model(config)
    denoiser.to(device)
    data, dataset = run.data, dataset_of(run)
    about: dict[str, Any] = {
        "weights": weights_of(config),
        "step": step,
        **origin(run, config, *guiding_runs(config.guidance)),
    }
    if config.n is None:
        _check_nothing_steers(config, "add n=…, how many images are drawn")
    note = settle_drawing(config)
    if note is not None and config.n is not None and ranks.first():
        print(note, flush=True)
    # What cannot be sampled is refused before the bound, which can take long.
    steered = guide(config.guidance, run, to_draw(denoiser, config.precision, config.compile))
    chosen, sampler = chosen_labels(config.labels, steered), instantiate(config.sampler, _convert_="all")
    check_methods("sampler", sampler)
    if ranks.first():
        for sentence in cautions.of_drawing(steered.denoiser, [] if config.n is None else [sampler]):
            print(f"warning: {sentence}", flush=True)
    bound = instantiate(config.bound)
    for split in config.splits if bound is not None else ():
        found = bound(
            denoiser,
            dataset(split=split),
            split=split,
            name=data.name,
            conditional=run.class_conditional,
            seed=config.seed,
            device=device,
        )
        report.add_bound(found, **about)
    if config.n is not None:
        shape = (data.channels, data.image_size, data.image_size)
        samples = Samples(
            steered.denoiser,
            sampler,
            shape,
            config.seed,
            chosen,
            device,
            steered.about,
            steered.class_names,
            steered.null_label,
        )
        extractor, reference = _references(config, data, shape, device)
        samples.announce(config.n, config.batch_size, extractor)
        judged = judge(
            samples, config.n, extractor, reference, _metrics(config), batch_size=config.batch_size, device=device
        )
        protocol = (
            samples.protocol()
            | {"precision": config.precision, "compile": config.compile}
            | protocol_of_reference(extractor, reference, config.batch_size)
            | about
        )
        walk = f"{protocol['sampler']}, {counted(samples.steps, 'step')}"
        caption = f"{walk}, {guidance_of(steered.about)}seed {config.seed}, step {step}"
        report.add_scores(judged, protocol, caption)
        if config.pictures and ranks.first():
            report.draw_samples(samples, judged, dataset(split="train"), dataset(split="test"))


def _evaluate_files(config: DictConfig, report: Report, device: torch.device) -> None:
    """Images in files, beside those of a data set or of other files."""
    _check_nothing_steers(config, "give a run=… instead of samples=…")
    if config.data is None and config.reference is None:
        raise UserError(
            "samples=… are compared with a data set or a file: add data=… (such as data=cifar10) or reference=….npz"
        )
    background = background_of(config, config.data)
    images = read_images(
        config.samples, background, alpha=config.data is not None and config.data.channels in WITH_ALPHA
    )
    _tell_notes(images)
    n = config.n or len(images)
    if n > len(images):
        raise UserError(f"n={n} images were asked for and samples={config.samples} holds {len(images)}")
    shape = tuple(images.__getitems__([0])[0].shape[1:])
    extractor, reference = _references(config, config.data, shape, device)
    chosen, chosen_are = part(len(images), n, config.seed), named(len(images), n, config.seed)
    judged = judge(
        lambda indices: images.__getitems__([chosen[i] for i in indices])[0],
        n,
        extractor,
        reference,
        _metrics(config),
        batch_size=config.batch_size,
        device=device,
    )
    protocol = {
        "samples": Path(config.samples).name,
        "of": len(images),
        "images": chosen_are,
        "transparent": transparent_of(images, chosen),
        "background": background,
        **origin(config),
    }
    report.add_scores(
        judged,
        protocol | protocol_of_reference(extractor, reference, config.batch_size),
        f"{chosen_are}, of {config.samples}",
    )


def _tell_notes(images: ImageSet) -> None:
    """Say what of a folder was passed over."""
    for note in getattr(images, "notes", ()):
        if ranks.first():
            print(f"note: {note}", flush=True)


def _check_nothing_steers(config: DictConfig, advice: str) -> None:
    """Raise ValueError for guidance and labels where no images are drawn."""
    if config.labels is not None or not config.guidance._target_.endswith(".unguided"):
        raise UserError(f"guidance and labels are of images that are drawn, and none are: {advice}")


def _references(
    config: DictConfig, data: DictConfig | None, shape: tuple[int, ...], device: torch.device
) -> tuple[Extractor, Statistics]:
    """The extractor, and the statistics that images of this shape are compared with."""
    extractor = build_extractor(config, data, device)
    if config.reference is not None and holds_moments(Path(config.reference)):
        statistics = load_statistics(Path(config.reference))
        digest = hashlib.sha256(Path(config.reference).read_bytes()).hexdigest()
        statistics.about.setdefault("file", f"{Path(config.reference).name}, SHA-256 {digest[:12]}")
        about = statistics.about
        if ranks.first() and "images" not in about and about.get("n", 0) < about.get("of", 0):
            print(
                f"note: {config.reference} is of {images_of(statistics)}, which of sorted files stand for some classes alone; "
                "make it anew with: python evaluate.py stats data=… n=… out=…",
                flush=True,
            )
    else:
        if config.reference is not None:
            source, split = Path(config.reference).name, "whole"
            images = read_images(config.reference, background_of(config, data), alpha=shape[0] in WITH_ALPHA)
            _tell_notes(images)
        else:
            assert data is not None
            split = config.reference_split
            source, images = data.name, instantiate(data.dataset)(split=split)
        statistics, _ = reference_statistics(
            images,
            extractor,
            data=source,
            split=split,
            n=config.reference_n,
            batch_size=config.batch_size,
            cache=Path(config.cache),
            device=device,
            seed=config.seed,
        )
    check_fit(statistics, extractor, shape, config.reference or "the reference")
    return extractor, statistics


def _metrics(config: DictConfig) -> dict[str, Any]:
    return {name: instantiate(node) for name, node in config.metrics.items()}
