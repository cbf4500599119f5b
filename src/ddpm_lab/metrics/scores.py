"""The metrics: what each makes of the statistics of generated and of reference images.

A metric is an object called as metric(generated, reference) -> list of Score. Where the statistics lack what it needs, it
raises NotComputableError with the reason.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ddpm_lab.errors import UserError
from ddpm_lab.metrics.statistics import Moments, Statistics
from ddpm_lab.parts import named


class Score(NamedTuple):
    """One number. std: its spread over parts or subsets, if any. n: generated images used. settings: for its protocol."""

    name: str
    value: float
    std: float | None
    n: int
    settings: dict[str, Any]


class Metric(Protocol):
    """The contract of this file's classes."""

    def __call__(self, generated: Statistics, reference: Statistics) -> list[Score]:
        """What the generated images score beside the reference."""
        ...


class NotComputableError(Exception):
    """The statistics lack what a metric needs; the message says what."""


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Heusel et al. 2017, equation 6).

    The trace of the root is the sum of the roots of the eigenvalues of C_a C_b, which are those of the symmetric R^T C_b R
    for any R with C_a = R R^T: its Cholesky factor or, of fewer images than features, the root of its eigenvalues.
    """
    mean_a, C_a = a
    mean_b, C_b = (part.to(mean_a.device) for part in b)
    root, failed = torch.linalg.cholesky_ex(C_a)
    if failed:
        values, axes = torch.linalg.eigh(C_a)
        root = axes * values.clamp(min=0).sqrt()
    trace = torch.linalg.eigvalsh(root.T @ C_b @ root).clamp(min=0).sqrt().sum()
    return float(((mean_a - mean_b) ** 2).sum() + C_a.trace() + C_b.trace() - 2 * trace)


class FID:
    """Frechet distance of the pooled features."""

    def __call__(self, generated: Statistics, reference: Statistics) -> list[Score]:
        """The one score "fid"."""
        return [Score("fid", frechet_distance(generated.pool, reference.pool), None, generated.n, {})]


class SpatialFID:
    """Frechet distance of features that keep their places in the image (Nash et al. 2021)."""

    def __call__(self, generated: Statistics, reference: Statistics) -> list[Score]:
        """The one score "sfid"."""
        if generated.spatial is None:
            raise NotComputableError("the extractor has no spatial features")
        if reference.spatial is None:
            raise NotComputableError("the reference file has no mu_s and sigma_s")
        return [Score("sfid", frechet_distance(generated.spatial, reference.spatial), None, generated.n, {})]


class InceptionScore:
    """exp E KL(p(y|x) || p(y)), mean and spread over ten parts (Salimans et al. 2016); no reference enters."""

    def __call__(self, generated: Statistics, reference: Statistics) -> list[Score]:
        """The one score "is"."""
        scores = generated.splits
        if scores is None:
            raise NotComputableError("the extractor has no class probabilities")
        spread = scores.std(correction=0).item()
        return [Score("is", scores.mean().item(), spread, generated.n, {"splits": len(scores)})]


class KID:
    """The squared maximum mean discrepancy of a cubic kernel over random subsets (Binkowski et al. 2018).

    torch-fidelity's: `subsets` subsets of `subset_size` features, or of all where there are fewer.
    """

    def __init__(self, subsets: int = 100, subset_size: int = 1000) -> None:
        if subsets < 1 or subset_size < 2:
            raise UserError(f"KID needs subsets >= 1 of subset_size >= 2, got {subsets} and {subset_size}")
        self.subsets = subsets
        self.subset_size = subset_size

    def __call__(self, generated: Statistics, reference: Statistics) -> list[Score]:
        """The one score "kid"."""
        from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

        a, b, parts = _features(generated, reference)
        size = min(self.subset_size, len(a), len(b))
        found = kid_features_to_metric(
            a.cpu(), b.cpu(), kid_subsets=self.subsets, kid_subset_size=size, rng_seed=2020, verbose=False
        )
        settings = {"subsets": self.subsets, "subset_size": size, "reference_n": len(b), **parts}
        return [Score("kid", found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD], len(a), settings)]


class PrecisionRecall:
    """Precision and recall of manifolds of k-nearest-neighbour balls (Kynkaanniemi et al. 2019), torch-fidelity's."""

    def __init__(self, neighbours: int = 3) -> None:
        if neighbours < 1:
            raise UserError(f"precision and recall need neighbours >= 1, got {neighbours}")
        self.neighbours = neighbours

    def __call__(self, generated: Statistics, reference: Statistics) -> list[Score]:
        """The scores "precision" and "recall"."""
        from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

        a, b, parts = _features(generated, reference)
        if min(len(a), len(b)) <= self.neighbours:
            raise NotComputableError(f"{self.neighbours} neighbours need more than {min(len(a), len(b))} images")
        found = prc_features_to_metric(
            a, b.to(a.device), prc_neighborhood=self.neighbours, prc_batch_size=2000, save_cpu_ram=True, verbose=False
        )
        settings = {"neighbours": self.neighbours, "reference_n": len(b), **parts}
        keys = {"precision": KEY_METRIC_PRECISION, "recall": KEY_METRIC_RECALL}
        return [Score(name, found[key], None, len(a), settings) for name, key in keys.items()]


def _features(generated: Statistics, reference: Statistics) -> tuple[Tensor, Tensor, dict[str, str]]:
    """Both features, and for protocols of which images they are."""
    if reference.features is None or generated.features is None:
        raise NotComputableError("the reference file has no features, only their moments")
    kept = len(reference.features)
    if "features" not in reference.about and kept < reference.n:
        raise NotComputableError(
            f"the reference file has the features of the first {kept} of its {reference.n} images, as an earlier version kept "
            "them; make it anew with: python evaluate.py stats data=… out=…"
        )
    parts = {
        "features": generated.about["features"],
        "reference_features": reference.about.get("features", named(kept, None, 0)),
    }
    return generated.features, reference.features, parts
