"""Inception's features are torch-fidelity's; its file is found, hashed and never allowed to run code."""

import hashlib
import io
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from ddpm_lab.data.memory import MemorySet
from ddpm_lab.metrics.features import Extractor, WeightsNotFoundError
from ddpm_lab.metrics.inception import FILE, Inception, inception

CPU = torch.device("cpu")
SET = MemorySet(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))


class RandomInception(FeatureExtractorInceptionV3):
    """torch-fidelity's network with weights that keep the signal alive."""

    def load_state_dict(self, state_dict: dict, *args: object, **kwargs: object) -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.parameters():
                if p.ndim == 4:
                    p.normal_(std=(2 / p[0].numel()) ** 0.5, generator=generator)


def save_random_weights(path: Path) -> Path:
    """Write random weights in the form of torch-fidelity's file."""
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    network = RandomInception("random", ["2048"], feature_extractor_weights_path=nothing)
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_weights(tmp_path_factory.mktemp("weights") / "inception.pth")


@pytest.fixture(scope="module")
def extractor(weights: Path) -> Extractor:
    return source(weights.parent, weights=str(weights))


@pytest.fixture(autouse=True)
def no_other_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DDPM_LAB_INCEPTION", raising=False)


def source(cache: Path, *, weights: str | None = None, sha256: str | None = None) -> Extractor:
    return inception(SET, name="x", num_classes=None, cache=cache, device=CPU, weights=weights, sha256=sha256)


def images(n: int, C: int = 3, side: int = 32, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, C, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_the_features_are_torch_fidelitys(weights: Path, extractor: Extractor) -> None:
    theirs = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights))
    seen = []
    theirs.Mixed_6d.branch1x1.register_forward_hook(lambda *call: seen.append(call[-1]))
    x = images(2)
    pool, logits = theirs(x)

    same = Inception(weights)(x)
    assert torch.equal(same.pool, pool)
    assert torch.equal(same.logits, logits)
    assert same.spatial.shape == (2, 17 * 17 * 7)
    for h, w, c in [(0, 0, 0), (0, 0, 6), (0, 5, 2), (16, 3, 4)]:
        assert torch.equal(same.spatial[:, (h * 17 + w) * 7 + c], seen[0][:, c, h, w])

    # The source's is laid out for speed.
    for ours, reference in zip(extractor(x), same, strict=True):
        assert reference.std() > 0.01
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


def test_an_images_features_are_its_own(extractor: Extractor) -> None:
    x = images(5)
    features = extractor(x)
    turned = extractor(x.flip(0))
    among_others = extractor(torch.cat([x[:1], images(4, seed=1)]))
    for all_, reverse, first in zip(features, turned, among_others, strict=True):
        assert torch.equal(all_, reverse.flip(0))
        assert torch.equal(all_[0], first[0])


def test_grey_is_rgb_of_equal_channels(extractor: Extractor) -> None:
    grey = images(2, C=1, side=8)
    for a, b in zip(extractor(grey), extractor(grey.repeat(1, 3, 1, 1)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("side", [16, 100])
def test_any_size_passes_and_leaves_no_trace(extractor: Extractor, side: int) -> None:
    pool, logits, spatial = extractor(images(1, side=side))
    assert [pool.shape[1], logits.shape[1], spatial.shape[1]] == [2048, 1008, 2023]
    assert all(x.isfinite().all() and not x.requires_grad for x in (pool, logits, spatial))
    with pytest.raises(TypeError, match="uint8"):
        extractor(torch.zeros(1, 3, 8, 8))
    assert not any(module._forward_hooks for module in extractor.modules())
    assert not extractor.training


def test_the_file_is_known_by_its_hash(weights: Path, extractor: Extractor) -> None:
    whole = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert extractor.sha256 == whole
    with pytest.raises(ValueError, match=f"{whole[:8]}… and 6726825d… was expected"):
        source(weights.parent, weights=str(weights), sha256="6726825d")
    before = torch.get_rng_state()
    assert source(weights.parent, weights=str(weights), sha256=whole[:8].upper()).sha256 == whole
    assert torch.equal(torch.get_rng_state(), before)


def test_the_places_are_sought_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each file says by its content which one was read; none is an Inception network.
    def found(weights: str | None = None) -> str:
        with pytest.raises(ValueError, match="expected") as error:
            source(tmp_path / "cache", weights=weights, sha256="00000000")
        return str(error.value).split(" has the")[0]

    given, variable = tmp_path / "given.pth", tmp_path / "variable.pth"
    hub, cache = tmp_path / "home" / "hub" / "checkpoints" / FILE, tmp_path / "cache" / FILE
    for path in (given, variable, hub, cache):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
    monkeypatch.setenv("DDPM_LAB_INCEPTION", str(variable))
    assert found(str(given)) == str(given)
    assert found() == str(variable)
    monkeypatch.delenv("DDPM_LAB_INCEPTION")
    assert found() == str(hub)
    hub.unlink()
    assert found() == str(cache)


def test_without_the_file_one_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsNotFoundError) as error:
        source(tmp_path / "cache")
    message = str(error.value)
    hub = tmp_path / "home" / "hub" / "checkpoints" / FILE
    for part in (
        URL_INCEPTION_V3,
        str(hub),
        str(tmp_path / "cache" / FILE),
        "6726825d",
        "features.weights",
        "classifier",
    ):
        assert part in message
    assert "\n" not in message
    # A place that was named and is empty is not passed over.
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / FILE).touch()
    with pytest.raises(WeightsNotFoundError, match=r"no file nowhere\.pth"):
        source(tmp_path / "cache", weights="nowhere.pth")
    monkeypatch.setenv("DDPM_LAB_INCEPTION", "elsewhere.pth")
    with pytest.raises(WeightsNotFoundError, match=r"no file elsewhere\.pth"):
        source(tmp_path / "cache")


class Command:
    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.made),)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    made, path = tmp_path / "made", tmp_path / "evil.pth"
    torch.save({"fc.bias": Command(made)}, path)
    with pytest.raises(ValueError, match="nothing else is unpickled"):
        Inception(path)
    assert not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists()  # it was not harmless


def test_damaged_and_foreign_files(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="damaged"):
        Inception(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="damaged"):
        Inception(path)
    torch.save([torch.zeros(2)], path)
    with pytest.raises(ValueError, match="no state dict"):
        Inception(path)
    torch.save({"fc.bias": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="another network"):
        Inception(path)
