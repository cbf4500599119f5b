import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from ddpm_lab.metrics import statistics as module
from ddpm_lab.metrics.features import Features
from ddpm_lab.metrics.scores import (
    FID,
    KID,
    InceptionScore,
    NotComputableError,
    PrecisionRecall,
    SpatialFID,
    frechet_distance,
)
from ddpm_lab.metrics.statistics import Moments, Statistics
from tests.metrics.test_statistics import accumulated, random_features


def cloud(n: int, spread: float, seed: int, dimensions: int = 6) -> Statistics:
    pool = spread * torch.randn(n, dimensions, generator=torch.Generator().manual_seed(seed))
    return accumulated(Features(pool, torch.zeros(n, 2), pool[:, :3]), 64)


def value(metric: FID, a: Statistics, b: Statistics) -> float:
    (score,) = metric(a, b)
    return score.value


def random_moments(seed: int, rank: int) -> Moments:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(20, rank, generator=generator, dtype=torch.float64)
    return Moments(torch.randn(20, generator=generator, dtype=torch.float64), factor @ factor.T / 20)


def test_frechet_distance_of_diagonal_gaussians() -> None:
    a = Moments(torch.tensor([0.0, 1.0]).double(), torch.diag(torch.tensor([4.0, 9.0])).double())
    b = Moments(torch.tensor([2.0, 1.0]).double(), torch.diag(torch.tensor([1.0, 16.0])).double())
    assert frechet_distance(a, b) == pytest.approx(4 + (2 - 1) ** 2 + (3 - 4) ** 2, rel=1e-12)


@pytest.mark.parametrize("ranks", [(20, 20), (20, 7), (5, 7)])
def test_frechet_distance_is_symmetric_and_the_definition(ranks: tuple[int, int]) -> None:
    a, b = random_moments(1, ranks[0]), random_moments(2, ranks[1])
    (m_a, C_a), (m_b, C_b) = ([x.numpy() for x in part] for part in (a, b))
    # The root of a product of singular matrices needs a little ridge to be computed at all.
    ridge = 1e-9 * np.eye(20)
    root = np.real(sqrtm((C_a + ridge) @ (C_b + ridge)))
    expected = ((m_a - m_b) ** 2).sum() + np.trace(C_a) + np.trace(C_b) - 2 * np.trace(root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5)


def test_numbers_are_those_of_torch_fidelity() -> None:
    x, y = random_features(300, 1), random_features(450, 2, shift=0.3)
    a, b = accumulated(x, 64), accumulated(y, 64)
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(f.pool) for f in (x, y)), verbose=False)
    assert value(FID(), a, b) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(f.spatial) for f in (x, y)), verbose=False)
    assert value(SpatialFID(), a, b) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    theirs = kid_features_to_metric(x.pool, y.pool, kid_subsets=20, kid_subset_size=100, verbose=False)
    (kid,) = KID(subsets=20, subset_size=100)(a, b)
    assert (kid.value, kid.std) == tuple(theirs.values())
    theirs = prc_features_to_metric(x.pool, y.pool, save_cpu_ram=False, verbose=False)
    precision, recall = PrecisionRecall()(a, b)
    assert (precision.value, recall.value) == (theirs["precision"], theirs["recall"])


def test_two_halves_of_one_set_are_near_and_noise_is_far() -> None:
    one, other, noise = cloud(2000, 1, 0), cloud(2000, 1, 1), cloud(2000, 3, 2)
    for metric in (FID(), SpatialFID(), KID(subsets=10)):
        near, far = value(metric, one, other), value(metric, one, noise)
        assert abs(near) < 0.01 * far


def test_a_collapsed_generator_is_precise_and_a_dispersed_one_recalls() -> None:
    real = cloud(1000, 1, 0)
    copies = real.features[:1] + 0.01 * torch.randn(1000, 6, generator=torch.Generator().manual_seed(7))
    collapsed = accumulated(Features(copies, torch.zeros(1000, 2), copies), 64)
    precision, recall = (s.value for s in PrecisionRecall()(collapsed, real))
    assert precision == 1
    assert recall < 0.01
    precision, recall = (s.value for s in PrecisionRecall()(cloud(1000, 3, 5), real))
    assert precision < 0.4
    assert recall > 0.8


def test_inception_score_of_perfect_balanced_classes_is_their_number() -> None:
    logits = 200 * torch.eye(10).repeat(5000, 1)
    perfect = accumulated(Features(torch.zeros(50_000, 2), logits, torch.zeros(50_000, 1)), 1000)
    (score,) = InceptionScore()(perfect, perfect)
    # The ten random parts are not perfectly balanced: theirs is as much below 10 as 10 classes in 5000 images are uneven.
    assert 10 - 10 * 9 / (2 * 5000) * 2 < score.value <= 10
    (score,) = InceptionScore()(
        accumulated(Features(torch.zeros(20, 2), torch.zeros(20, 10), torch.zeros(20, 1)), 20), perfect
    )
    assert score.value == pytest.approx(1, abs=1e-12)
    # One part that holds every class equally often has exactly ten.
    whole = accumulated(Features(torch.zeros(10, 2), 200 * torch.eye(10), torch.zeros(10, 1)), 10)
    assert whole.splits.tolist() == pytest.approx([1.0] * 10)


def test_what_is_missing_is_said() -> None:
    a = cloud(50, 1, 0)
    foreign = a._replace(features=None, spatial=None)
    for metric, reason in ((SpatialFID(), "mu_s"), (KID(), "no features"), (PrecisionRecall(), "no features")):
        with pytest.raises(NotComputableError, match=reason):
            metric(a, foreign)
    with pytest.raises(NotComputableError, match="no spatial features"):
        SpatialFID()(foreign, a)
    with pytest.raises(NotComputableError, match="class probabilities"):
        InceptionScore()(a._replace(splits=None), a)
    with pytest.raises(NotComputableError, match="3 neighbours need more than 3"):
        PrecisionRecall()(cloud(3, 1, 0), a)
    with pytest.raises(ValueError, match="subset_size >= 2"):
        KID(subset_size=1)
    with pytest.raises(ValueError, match="neighbours >= 1"):
        PrecisionRecall(neighbours=0)


def test_the_order_of_the_images_changes_no_score_by_more_than_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four classes, sorted as every image folder is, and shuffled. The first 200 would be one class of them."""
    monkeypatch.setattr(module, "KEEP", 200)

    def classes(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(800, 4, generator=generator) + 3 * torch.eye(4).repeat_interleave(200, 0)
        return x, x[torch.randperm(800, generator=generator)]

    def scores(x: torch.Tensor, y: torch.Tensor) -> list[tuple[float, float]]:
        a, b = (accumulated(Features(pool, torch.zeros(800, 2), pool[:, :1]), 64) for pool in (x, y))
        (kid,), *others = (metric(a, b) for metric in (KID(10, 100), PrecisionRecall()))
        assert kid.settings["features"] == kid.settings["reference_features"] == "200 of 800, seed 0"
        # A share's error is a binomial's.
        return [(kid.value, kid.std), *((s.value, (s.value * (1 - s.value) / 200) ** 0.5) for s in others[0])]

    for seed in range(20):
        (real, real_shuffled), (fake, fake_shuffled) = classes(seed), classes(100 + seed)
        shuffled = scores(fake_shuffled, real_shuffled)
        for x, y in ((fake, real_shuffled), (fake_shuffled, real)):
            for (one, error), (other, error_) in zip(scores(x, y), shuffled, strict=True):
                assert abs(one - other) < 3 * (error**2 + error_**2) ** 0.5


def test_features_that_an_earlier_version_kept_stand_for_no_larger_set() -> None:
    a, b = cloud(50, 1, 0), cloud(60, 1, 1)
    whole, first = (b._replace(features=b.features[:n], about={}) for n in (60, 40))
    assert KID(3)(a, whole)[0].value == KID(3)(a, b)[0].value
    for metric in (KID(3), PrecisionRecall()):
        with pytest.raises(NotComputableError, match=r"first 40 of its 60 images.*make it anew with"):
            metric(a, first)
    assert value(FID(), a, first) == value(FID(), a, b)


def test_kid_of_few_images_takes_them_all() -> None:
    (kid,) = KID(subsets=3)(cloud(40, 1, 0), cloud(60, 1, 1))
    assert kid.settings["subset_size"] == 40
    assert kid.n == 40
