"""Reference statistics: of a split of a data set, computed once and kept; or read from a public evaluator's file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from ddpm_lab import ranks
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.collect import collect
from ddpm_lab.metrics.features import Extractor, Images, fingerprint, over_background
from ddpm_lab.metrics.statistics import Statistics, load_statistics, save_statistics
from ddpm_lab.parts import named, part
from ddpm_lab.pixels import KINDS

VERSION = 2  # of the files; another does not read them


def reference_statistics(
    images: Images,
    extractor: Extractor,
    *,
    data: str,
    split: str,
    n: int | None,
    batch_size: int,
    cache: Path,
    device: torch.device,
    seed: int = 0,
) -> tuple[Statistics, Path]:
    """Statistics of n images of a split (all if None), and the file they are kept in. A collective.

    Of a larger split the seed chooses the n.
    The file's name holds a hash of the images themselves (number, size, pixels as delivered), the split, the extractor's
    weights, n, what transparent pixels lie over and, where it chooses, the seed: another data set, resolution, crop or
    extractor never meets them.
    """
    chosen = part(len(images), n, seed)
    about = {
        "version": VERSION,
        "data": data,
        "split": split,
        "of": len(images),
        "n": len(chosen),
        "images": named(len(images), n, seed),
        "shape": list(images.__getitems__([0])[0].shape[1:]),
        "images_sha256": fingerprint(images),
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        **over_background(images),
    }
    key = hashlib.sha256(repr(sorted(about.items())).encode()).hexdigest()[:16]
    path = cache / "statistics" / f"{data}-{split}-{len(chosen)}-{extractor.name}-{key}.npz"
    # All ranks read the file, or all share the work of making it.
    found = [_read(path)] if path.is_file() else [None]
    if not all(ranks.gather(torch.tensor([found[0] is not None], device=device)).flatten().tolist()):
        title = f"reference statistics of {len(chosen)} {split} images of {data}"

        def images_at(indices: list[int]) -> Tensor:
            return images.__getitems__([chosen[i] for i in indices])[0]

        collected = collect(images_at, len(chosen), batch_size, extractor, device, title)
        statistics = collected.accumulator.finish(about)
        if ranks.rank() == 0:
            save_statistics(path, statistics)
        return statistics, path
    assert found[0] is not None
    return found[0], path


def check_fit(statistics: Statistics, extractor: Extractor, shape: tuple[int, ...], source: str) -> None:
    """Raise ValueError unless the statistics can be compared with images of this shape seen by this extractor."""
    about = statistics.about
    if "shape" in about and tuple(about["shape"]) != shape:
        raise UserError(
            f"{source} is of images {_size(about['shape'])} and the generated ones are {_size(shape)}: take statistics of the "
            "same size and channels; python evaluate.py stats data=… makes them"
        )
    if "extractor_sha256" in about and about["extractor_sha256"] != extractor.sha256:
        raise UserError(
            f"{source} was made with the extractor {about['extractor']} {about['extractor_sha256'][:8]}, not "
            f"{extractor.name} {extractor.sha256[:8]}: their features cannot be compared"
        )


def _size(shape: tuple[int, ...] | list[int]) -> str:
    C, H, W = shape
    return f"{H}x{W} {KINDS.get(C, f'with {C} channels')}"


def _read(path: Path) -> Statistics | None:
    """The file's statistics; None for a damaged one, which is then made anew."""
    try:
        return load_statistics(path)
    except ValueError as error:
        print(f"{error}; it is made anew", flush=True)
        return None
