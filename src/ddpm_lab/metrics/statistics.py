"""What a set of images is to the metrics: sums over their features, never a list that grows with their number."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm_lab.errors import NoSuchFileError, UserError
from ddpm_lab.metrics.features import Features
from ddpm_lab.parts import named, part

KEEP = 10_000  # features that KID, precision and recall are computed from: those of a part of the images
KEEP_SEED = 0  # of that part
SPLITS = 10  # of the Inception Score (Salimans et al. 2016)
SHUFFLE_SEED = 2020  # of the images over those splits, torch-fidelity's


class Moments(NamedTuple):
    """Mean [D] and covariance [D, D] (divided by n - 1), float64."""

    mean: Tensor
    covariance: Tensor


class Statistics(NamedTuple):
    """The statistics of n images; what their source does not give is None.

    pool, spatial: moments of those features. splits: exp E KL(p(y|x) || p(y)) of each of the Inception Score's parts.
    features [min(n, KEEP), D] float32: the pooled features of a part of the images, which about["features"] names. about:
    where they come from.
    """

    n: int
    pool: Moments
    spatial: Moments | None
    splits: Tensor | None
    features: Tensor | None
    about: dict[str, Any]


class Accumulator:
    """Makes the Statistics of n images from their features, added in the images' order."""

    def __init__(self, n: int, device: torch.device | str = "cpu") -> None:
        if n < 2:
            raise UserError(f"a covariance needs at least two images, got {n}")
        self.n = n
        self.seen = 0
        # MPS has no float64.
        self.device = torch.device("cpu") if torch.device(device).type == "mps" else torch.device(device)
        self.pool: _MomentSums | None = None
        self.spatial: _MomentSums | None = None
        self.classes: _ClassSums | None = None
        self.features: Tensor | None = None
        self.kept = torch.tensor(part(n, KEEP, KEEP_SEED))

    def add(self, features: Features) -> None:
        """Add the features of the next images. Raises ValueError if these are more than n in all."""
        pool, logits, spatial = (None if part is None else part.to(self.device) for part in features)
        assert pool is not None
        if self.pool is None or self.features is None:
            self.pool = _MomentSums(pool)
            self.features = pool.new_empty(len(self.kept), pool.shape[1])
            self.spatial = None if spatial is None else _MomentSums(spatial)
            self.classes = None if logits is None else _ClassSums(self.n, logits)
        first, self.seen = self.seen, self.seen + len(pool)
        if self.seen > self.n:
            raise UserError(f"statistics of {self.n} images were given {self.seen}")
        start, stop = torch.searchsorted(self.kept, torch.tensor([first, self.seen])).tolist()
        self.features[start:stop] = pool[(self.kept[start:stop] - first).to(pool.device)]
        self.pool.add(pool)
        if self.spatial is not None and spatial is not None:
            self.spatial.add(spatial)
        if self.classes is not None and logits is not None:
            self.classes.add(logits, first)

    def finish(self, about: dict[str, Any] | None = None) -> Statistics:
        """The statistics. Raises ValueError unless exactly n images have been added."""
        if self.pool is None or self.seen != self.n:
            raise UserError(f"statistics of {self.n} images were given {self.seen}")
        return Statistics(
            self.n,
            self.pool.moments(self.n),
            None if self.spatial is None else self.spatial.moments(self.n),
            None if self.classes is None else self.classes.scores(),
            self.features,
            {**(about or {}), "features": named(self.n, KEEP, KEEP_SEED)},
        )


class _MomentSums:
    """Streaming sums of vectors [B, D] and of their outer products, in float64."""

    def __init__(self, like: Tensor) -> None:
        D = like.shape[1]
        self.sum = like.new_zeros(D, dtype=torch.float64)
        self.outer = like.new_zeros(D, D, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        x = x.double()
        self.sum += x.sum(0)
        self.outer.addmm_(x.T, x)

    def moments(self, n: int) -> Moments:
        mean = self.sum / n
        return Moments(mean, (self.outer - n * torch.outer(mean, mean)) / (n - 1))


class _ClassSums:
    """The Inception Score's sums over the parts of n images, dealt to them as torch-fidelity deals."""

    def __init__(self, n: int, like: Tensor) -> None:
        splits = min(SPLITS, n)
        places = np.argsort(np.random.RandomState(SHUFFLE_SEED).permutation(n))
        starts = np.array([i * n // splits for i in range(splits)])
        self.part = torch.from_numpy(np.searchsorted(starts, places, side="right") - 1).to(like.device)  # [n]
        self.probabilities = like.new_zeros(splits, like.shape[1], dtype=torch.float64)
        self.negative_entropy = like.new_zeros(splits, dtype=torch.float64)

    def add(self, logits: Tensor, first: int) -> None:
        log_p = logits.double().log_softmax(1)
        p = log_p.exp()
        part = self.part[first : first + len(p)]
        # A product, not index_add_: on a GPU that adds in any order, and the last digits would change from run to run.
        dealt = (part[:, None] == torch.arange(len(self.negative_entropy), device=part.device)).double()  # [B, splits]
        self.probabilities += dealt.T @ p
        self.negative_entropy += dealt.T @ (p * log_p).sum(1)

    def scores(self) -> Tensor:
        """exp E KL(p(y|x) || p(y)) of each part, [splits]."""
        count = torch.bincount(self.part, minlength=len(self.negative_entropy))
        q = self.probabilities / count[:, None]
        return (self.negative_entropy / count - torch.xlogy(q, q).sum(1)).exp()


def save_statistics(path: Path, statistics: Statistics, images: np.ndarray | None = None) -> None:
    """Write mu, sigma (of the pooled features), mu_s, sigma_s (spatial), n, features and about; all or nothing.

    The public evaluators read mu and sigma, and OpenAI's mu_s and sigma_s. images: uint8 [n, H, W, C], written as arr_0.
    """
    arrays: dict[str, Any] = {"mu": statistics.pool.mean, "sigma": statistics.pool.covariance}
    if statistics.spatial is not None:
        arrays |= {"mu_s": statistics.spatial.mean, "sigma_s": statistics.spatial.covariance}
    if statistics.splits is not None:
        arrays["splits"] = statistics.splits
    if statistics.features is not None:
        arrays["features"] = statistics.features
    arrays = {name: value.cpu().numpy() for name, value in arrays.items()}
    if images is not None:
        arrays["arr_0"] = images
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(file, n=statistics.n, about=json.dumps(statistics.about, sort_keys=True), **arrays)
    partial.replace(path)


def load_statistics(path: Path) -> Statistics:
    """Read what `save_statistics` wrote, or a public evaluator's file with mu and sigma.

    n is 0 where the file does not say. Raises FileNotFoundError, or ValueError for a damaged file or one without mu and sigma.
    """
    arrays = read_arrays(path)
    if not {"mu", "sigma"} <= arrays.keys():
        raise UserError(
            f"{path} holds {', '.join(arrays) or 'nothing'} and no mu and sigma: it is no file of reference statistics; "
            "make one with: python evaluate.py stats data=… out=…"
        )
    about = json.loads(str(arrays["about"])) if "about" in arrays else {}
    return Statistics(
        int(arrays["n"]) if "n" in arrays else 0,
        _moments(path, arrays, "mu", "sigma"),
        _moments(path, arrays, "mu_s", "sigma_s") if {"mu_s", "sigma_s"} <= arrays.keys() else None,
        torch.from_numpy(arrays["splits"]) if "splits" in arrays else None,
        torch.from_numpy(arrays["features"]) if "features" in arrays else None,
        about,
    )


def holds_moments(path: Path) -> bool:
    """Whether the path is an .npz file with mu and sigma; False for images."""
    return path.suffix == ".npz" and {"mu", "sigma"} <= read_arrays(path).keys()


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; nothing is unpickled. Raises FileNotFoundError, or ValueError for a damaged file."""
    if not path.is_file():
        raise NoSuchFileError(f"there is no file {path}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, TypeError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as an .npz file ({error}): it is damaged or of another kind") from error


def _moments(path: Path, arrays: dict[str, np.ndarray], mean: str, covariance: str) -> Moments:
    mu, sigma = arrays[mean], arrays[covariance]
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UserError(
            f"{path} holds {mean} {list(mu.shape)} and {covariance} {list(sigma.shape)}; they must be finite numbers [D] "
            "and [D, D]"
        )
    return Moments(torch.from_numpy(mu).double(), torch.from_numpy(sigma).double())
