"""The classifier learns, is a function of its data and options, is kept, and leaves the caller's randomness alone."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ddpm_lab.data.digits import digits
from ddpm_lab.data.memory import MemorySet
from ddpm_lab.metrics.classifier import Classifier, classifier
from ddpm_lab.metrics.features import Extractor, Features, fingerprint
from tests.doors import in_two_processes

SHORT = {"steps": 12, "batch_size": 16, "width": 8, "learning_rate": 0.01, "seed": 0}


def noise(n: int, C: int = 1, side: int = 8, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, C, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def noise_set(n: int = 40, **shape: int) -> MemorySet:
    return MemorySet(noise(n, **shape), torch.arange(n) % 2)


def source(cache: Path, train: Any = None, num_classes: int | None = 2, **options: Any) -> Extractor:
    train = train or noise_set()
    recipe = {**SHORT, **options}
    return classifier(train, name="noise", num_classes=num_classes, cache=cache, device=torch.device("cpu"), **recipe)


def files(cache: Path) -> list[Path]:
    return sorted((cache / "classifiers").iterdir())


def equal(a: Features, b: Features) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_it_learns_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"steps": 250, "batch_size": 64, "width": 16}
    extractor = source(tmp_path, digits("train"), 10, **options)
    assert isinstance(extractor, Classifier)
    assert extractor.accuracy >= 0.9
    (path,) = files(tmp_path)
    said = capsys.readouterr().out
    assert f"{100 * extractor.accuracy:.1f} %" in said
    assert str(path) in said
    test = digits("test")
    images, labels = test.__getitems__(list(range(len(test))))
    pool, logits, spatial = extractor(images)
    assert (logits.argmax(1) == labels).float().mean() >= 0.9
    assert pool.shape == (len(test), 128)
    assert spatial.shape == (len(test), 8 * 4 * 4)
    assert (pool.std(0) > 0).all()
    assert not any(x.requires_grad for x in (pool, logits, spatial))


def test_it_is_trained_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = source(tmp_path)
    assert "trained" in capsys.readouterr().out
    again = source(tmp_path)
    assert capsys.readouterr().out == ""
    assert again.sha256 == first.sha256
    assert again.accuracy == first.accuracy
    assert equal(again(noise(3)), first(noise(3)))
    torch.load(files(tmp_path)[0], weights_only=True)


def test_it_is_a_function_of_data_and_options(tmp_path: Path) -> None:
    here = source(tmp_path / "a")
    torch.rand(7)
    assert source(tmp_path / "b").sha256 == here.sha256
    others = [{option: value + 1} for option, value in SHORT.items()]
    others += [{"num_classes": 3}, {"train": noise_set(seed=1)}, {"train": noise_set(n=41)}]
    hashes = {source(tmp_path / "a", **other).sha256 for other in others}
    assert len(files(tmp_path / "a")) == 1 + len(others)
    assert here.sha256 not in hashes
    assert len(hashes) == len(others)


def damage(content: bytes) -> list[bytes]:
    middle = len(content) // 2
    return [b"", content[:middle], content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]]


@pytest.mark.parametrize("kind", range(3))
def test_a_damaged_file_is_trained_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: int) -> None:
    sha256 = source(tmp_path).sha256
    (path,) = files(tmp_path)
    path.write_bytes(damage(path.read_bytes())[kind])
    capsys.readouterr()
    assert source(tmp_path).sha256 == sha256
    said = capsys.readouterr().out
    assert f"{path} is damaged" in said
    assert "trained a classifier" in said
    source(tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("caller", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_callers_state_is_left_alone(tmp_path: Path, caller: Any) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with caller():
        sha256 = source(tmp_path / "inside").sha256
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    assert source(tmp_path / "outside").sha256 == sha256


@pytest.mark.parametrize(("side", "input_side", "map_side"), [(16, 16, 4), (28, 28, 7), (64, 64, 4), (100, 64, 4)])
def test_sizes(tmp_path: Path, side: int, input_side: int, map_side: int) -> None:
    extractor = source(tmp_path, noise_set(C=3, side=side))
    pool, logits, spatial = extractor(noise(2, C=3, side=side))
    assert [pool.shape, logits.shape, spatial.shape] == [(2, 128), (2, 2), (2, 8 * map_side**2)]
    assert f"{input_side}x{input_side}" in extractor.resize
    assert all(x.isfinite().all() for x in (pool, logits, spatial))


def test_large_images_are_averaged(tmp_path: Path) -> None:
    extractor = source(tmp_path, noise_set(side=64))
    small = noise(2, side=64)
    assert equal(extractor(small.repeat_interleave(2, 2).repeat_interleave(2, 3)), extractor(small))


def test_an_images_features_are_its_own(tmp_path: Path) -> None:
    extractor = source(tmp_path)
    x = noise(7)
    assert equal(extractor(x), Features(*(f.flip(0) for f in extractor(x.flip(0)))))
    alone, among_others = extractor(x), extractor(torch.cat([x[:1], noise(6, seed=1)]))
    assert equal(Features(*(f[0] for f in alone)), Features(*(f[0] for f in among_others)))


def test_grey_is_rgb_of_equal_channels(tmp_path: Path) -> None:
    extractor = source(tmp_path)
    assert equal(extractor(noise(2)), extractor(noise(2).repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("num_classes", [None, 1])
def test_without_classes_it_says_what_to_set(tmp_path: Path, num_classes: int | None) -> None:
    with pytest.raises(ValueError, match=r"set features=inception, or .*data\.classes=folders"):
        source(tmp_path, num_classes=num_classes)


def test_what_cannot_train_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="width >= 8"):
        source(tmp_path, width=4)
    with pytest.raises(ValueError, match="noise has 19"):
        source(tmp_path, noise_set(n=19))


def test_a_fingerprint_sees_length_size_pixels_and_labels() -> None:
    images, labels = noise(300), torch.arange(300) % 2
    darker, other = images.clone(), labels.clone()
    darker[0, 0, 0, 0] ^= 1
    other[0] = 1
    sets = [
        MemorySet(images, labels),
        MemorySet(images[:299], labels[:299]),
        MemorySet(images.view(300, 1, 4, 16), labels),
        MemorySet(darker, labels),
        MemorySet(images, other),
    ]
    assert len({fingerprint(s) for s in sets}) == len(sets)
    assert fingerprint(MemorySet(images.clone(), labels)) == fingerprint(sets[0])


def learn(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    cache = Path(folder, str(rank))  # a disk of its own
    # Unlike seeds stand for machines whose arithmetic differs.
    trained = source(cache, seed=rank)
    kept = source(cache, seed=rank)
    torch.save([(e.sha256, list(e(noise(3)))) for e in (trained, kept)], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_have_rank_zeros_weights(tmp_path: Path) -> None:
    in_two_processes(learn, tmp_path)
    alone = source(tmp_path / "alone")
    for rank in range(2):
        for sha256, features in torch.load(tmp_path / f"{rank}.pt"):
            assert sha256 == alone.sha256
            assert equal(Features(*features), alone(noise(3)))
    assert len(files(tmp_path / "0")) == 1
    assert not (tmp_path / "1").exists()
