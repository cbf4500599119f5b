from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_isc import isc_features_to_metric

from ddpm_lab.metrics import statistics as module
from ddpm_lab.metrics.features import Features
from ddpm_lab.metrics.statistics import Accumulator, Statistics, load_statistics, save_statistics
from ddpm_lab.parts import part


def random_features(n: int, seed: int = 0, shift: float = 0.0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(12, 12, generator=torch.Generator().manual_seed(99))
    pool = torch.randn(n, 12, generator=generator) @ mixing + shift
    return Features(pool, 3 * torch.randn(n, 7, generator=generator), torch.randn(n, 5, generator=generator))


def accumulated(features: Features, batch: int) -> Statistics:
    n = len(features.pool)
    accumulator = Accumulator(n)
    for start in range(0, n, batch):
        accumulator.add(Features(*(x[start : start + batch] for x in features)))
    return accumulator.finish()


def flat(statistics: Statistics) -> list[Tensor]:
    return [*statistics.pool, *statistics.spatial, statistics.splits, statistics.features]


@pytest.mark.parametrize("batch", [1, 7, 100, 1000])
def test_streaming_sums_give_the_moments_of_the_whole(batch: int) -> None:
    features = random_features(203, shift=40.0)
    found = accumulated(features, batch)
    for moments, x in ((found.pool, features.pool), (found.spatial, features.spatial)):
        whole = x.double().numpy()
        np.testing.assert_allclose(moments.mean.numpy(), whole.mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.covariance.numpy(), np.cov(whole, rowvar=False), rtol=1e-9, atol=1e-10)
    assert torch.equal(found.features, features.pool)


@pytest.mark.parametrize("n", [5, 37, 200])
def test_inception_score_parts_are_those_of_torch_fidelity(n: int) -> None:
    logits = random_features(n).logits
    splits = accumulated(random_features(n), 16).splits
    theirs = isc_features_to_metric(logits, splits=min(10, n))
    assert splits.mean().item() == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert splits.std(correction=0).item() == pytest.approx(theirs["inception_score_std"], rel=1e-9)


@pytest.mark.parametrize("batch", [1, 16, 50, 500])
def test_what_is_kept_does_not_grow_and_is_spread_over_all(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(module, "KEEP", 50)
    features = random_features(120)
    found = accumulated(features, batch)
    assert torch.equal(found.features, features.pool[part(120, 50, seed=0)])
    assert (found.n, found.about["features"]) == (120, "50 of 120, seed 0")


def test_exactly_n_images() -> None:
    features = random_features(10)
    accumulator = Accumulator(12)
    accumulator.add(features)
    with pytest.raises(ValueError, match="12 images were given 10"):
        accumulator.finish()
    with pytest.raises(ValueError, match="12 images were given 20"):
        accumulator.add(features)
    with pytest.raises(ValueError, match="at least two"):
        Accumulator(1)


def test_a_file_gives_back_the_same_numbers_to_the_last_bit(tmp_path: Path) -> None:
    found = accumulated(random_features(60), 16)._replace(about={"data": "digits", "n": 60})
    save_statistics(tmp_path / "a" / "s.npz", found)
    again = load_statistics(tmp_path / "a" / "s.npz")
    assert all(torch.equal(a, b) for a, b in zip(flat(found), flat(again), strict=True))
    assert (again.n, again.about) == (60, {"data": "digits", "n": 60})
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["s.npz"]


def test_public_evaluators_read_and_write_it(tmp_path: Path) -> None:
    found = accumulated(random_features(60), 16)
    images = np.zeros((60, 4, 4, 3), np.uint8)
    save_statistics(tmp_path / "ours.npz", found, images)
    with np.load(tmp_path / "ours.npz") as arrays:
        assert {"mu", "sigma", "mu_s", "sigma_s", "arr_0"} <= set(arrays.files)
        mu, sigma = arrays["mu"], arrays["sigma"]
    np.savez(tmp_path / "theirs.npz", mu=mu.astype(np.float32), sigma=sigma)
    theirs = load_statistics(tmp_path / "theirs.npz")
    assert theirs.features is None
    assert theirs.spatial is None
    assert theirs.n == 0
    assert torch.equal(theirs.pool.covariance, found.pool.covariance)


def test_bad_files_are_told_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_statistics(path)
    save_statistics(path, accumulated(random_features(60), 16))
    whole = path.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        b"",
        b"\x80\x04K\x01.",
        b"\x93NUMPY",
        whole[:200] + b"x" * 300 + whole[500:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="cannot be read as an"):
            load_statistics(path)
    np.savez(path, arr_0=np.zeros(3))
    with pytest.raises(ValueError, match="no mu and sigma"):
        load_statistics(path)
    np.savez(path, mu=np.zeros(3), sigma=np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"mu \[3\] and sigma \[4, 4\]"):
        load_statistics(path)
    np.savez(path, mu=np.array([object()]), sigma=np.zeros((1, 1)), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read"):
        load_statistics(path)
