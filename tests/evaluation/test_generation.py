import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ddpm_lab.data.digits import digits
from ddpm_lab.data.memory import MemorySet
from ddpm_lab.evaluation.collect import collect
from ddpm_lab.evaluation.generation import Samples, count_name, images_of, judge, protocol_of_reference, records, table
from ddpm_lab.evaluation.reference import check_fit, reference_statistics
from ddpm_lab.metrics.scores import FID, KID, InceptionScore, PrecisionRecall, Score, SpatialFID
from ddpm_lab.metrics.statistics import Moments, Statistics
from ddpm_lab.parts import part
from ddpm_lab.pixels import to_rgb
from ddpm_lab.samplers.ancestral import Ancestral
from ddpm_lab.samplers.ddim import DDIM
from tests.doors import in_two_processes
from tests.evaluation.toy import ToyExtractor, toy_denoiser

CPU = torch.device("cpu")
METRICS = {
    "fid": FID(),
    "sfid": SpatialFID(),
    "is": InceptionScore(),
    "kid": KID(5),
    "pr": PrecisionRecall(),
    "off": None,
}
N = 43  # divisible by nothing


def judged(
    folder: Path, batch_size: int = 6, sampler: DDIM | Ancestral | None = None
) -> tuple[list[Score], torch.Tensor, torch.Tensor]:
    """Scores of N samples, the samples as this rank has seen them, and those that are shown: all, of so few."""
    torch.set_num_threads(1)
    extractor = ToyExtractor()
    reference, _ = reference_statistics(
        digits(split="train"), extractor, data="digits", split="train", n=101, batch_size=16, cache=folder, device=CPU
    )
    images_at = Samples(toy_denoiser(), sampler or Ancestral(4), (1, 8, 8), 5, None, CPU)
    seen = torch.zeros(N, 1, 8, 8, dtype=torch.uint8)

    def watched(indices: list[int]) -> torch.Tensor:
        seen[indices] = images_at(indices)
        return seen[indices]

    found = judge(watched, N, extractor, reference, METRICS, batch_size=batch_size, device=CPU)
    return found.scores, seen, found.shown


def one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    scores, *images = judged(Path(folder) / "cache")
    torch.save(([tuple(score) for score in scores], *images), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_numbers_of_one_to_the_last_bit(tmp_path: Path) -> None:
    in_two_processes(one_of_two, tmp_path)
    scores, images, _ = judged(tmp_path / "other_cache")
    (made,) = (tmp_path / "cache" / "statistics").glob("*.npz")
    (alone,) = (tmp_path / "other_cache" / "statistics").glob("*.npz")
    assert made.name == alone.name
    assert made.read_bytes() == alone.read_bytes()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    drawn = [seen.flatten(1).any(1).bool() for _, seen, _ in found]
    assert all(0 < d.sum() < N for d in drawn)  # the work was shared
    for (theirs, seen, shown), d in zip(found, drawn, strict=True):
        assert torch.equal(seen[d], images[d])
        assert torch.equal(shown, images)
        assert theirs == [tuple(score) for score in scores]
    assert (drawn[0] | drawn[1]).all()


def test_images_with_alpha_are_judged_over_white_and_it_is_said(tmp_path: Path) -> None:
    images = torch.randint(256, (40, 4, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scores = []
    for of_kind in (images, to_rgb(images)):
        reference, _ = reference_statistics(
            MemorySet(of_kind),
            ToyExtractor(),
            data="a",
            split="train",
            n=None,
            batch_size=16,
            cache=tmp_path,
            device=CPU,
        )
        at = judge(lambda k: of_kind[k], 20, ToyExtractor(), reference, METRICS, batch_size=8, device=CPU)  # noqa: B023
        scores.append(at.scores)
    for seen, rgb in zip(*scores, strict=True):
        assert seen.value == rgb.value
        assert seen.settings == {**rgb.settings, "transparent": "over white"}


def test_what_is_announced_is_timed_as_it_will_be_drawn() -> None:
    """Else a compiled network would be compiled twice."""
    denoiser, modes = toy_denoiser(), []
    denoiser.network.register_forward_pre_hook(
        lambda _, inputs: modes.append([torch.is_inference_mode_enabled(), *(x.is_inference() for x in inputs[:2])])
    )
    samples = Samples(denoiser, Ancestral(2), (1, 8, 8), 5, None, CPU)
    samples.announce(3, 3, ToyExtractor())
    announced = modes.copy()
    samples([0, 1, 2])
    assert len(announced) == 2  # one call warms up
    assert len(modes) == 4
    assert all(mode == [True, True, True] for mode in modes)


def test_another_batch_size_judges_the_same_images(tmp_path: Path) -> None:
    one, images, _ = judged(tmp_path, 6)
    other, again, _ = judged(tmp_path, 43)
    assert (images.int() - again.int()).abs().max() <= 1
    for a, b in zip(one, other, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-2, abs=1e-3)


def test_exactly_n_images_each_once() -> None:
    asked: list[int] = []

    def images_at(indices: list[int]) -> torch.Tensor:
        asked.extend(indices)
        return torch.tensor(indices, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)

    found = collect(images_at, 123, 5, ToyExtractor(), CPU, "counting")
    assert asked == list(range(123))
    assert found.accumulator.finish().n == 123
    assert found.shown.shape == (64, 1, 8, 8)
    assert found.shown[:, 0, 0, 0].tolist() == part(123, 64, seed=0)
    assert set(found.seconds) == {"images", "features", "statistics"}


def test_conditional_samples_take_every_class_in_turn() -> None:
    denoiser = toy_denoiser(num_classes=3)
    every = Samples(denoiser, DDIM(2), (1, 8, 8), 0, range(3), CPU)
    alone = torch.cat([every([k]) for k in range(4)])
    assert (every([0, 1, 2, 3]).int() - alone.int()).abs().max() <= 1
    assert len({bytes(x.numpy()) for x in every([0, 1, 2, 3])}) == 4


def test_beside_every_number_stands_its_protocol(tmp_path: Path) -> None:
    denoiser, sampler = toy_denoiser(), DDIM(4, eta=0.5)
    scores, *_ = judged(tmp_path, sampler=sampler)
    extractor = ToyExtractor()
    reference, _ = reference_statistics(
        digits(split="train"), extractor, data="digits", split="train", n=101, batch_size=16, cache=tmp_path, device=CPU
    )
    protocol = Samples(denoiser, sampler, (1, 8, 8), 5, None, CPU).protocol()
    found = records(scores, protocol | protocol_of_reference(extractor, reference, 6))
    assert {"fid43", "sfid43", "is43", "is43_std", "kid43", "kid43_std", "precision43", "recall43"} <= found.keys()
    json.dumps(found)
    for name in ("fid43", "kid43", "recall43"):
        beside = found[f"{name}_protocol"]
        assert beside["n"] == 43
        assert (beside["sampler"], beside["steps"], beside["eta"], beside["spacing"]) == ("DDIM", 4, 0.5, "uniform")
        assert (beside["seed"], beside["clip"], beside["variance"]) == (5, True, "FixedLarge")
        assert (beside["reference"], beside["reference_n"]) == ("train split of digits", 101)
        assert beside["reference_images"] == "101 of 1498, seed 0"
        assert beside["extractor_sha256"] == extractor.sha256
    assert found["kid43_protocol"]["subset_size"] == 43
    columns, rows = table(found)
    assert columns[:3] == ["metric", "value", "std"]
    assert [row[0] for row in rows] == [s.name + "43" for s in scores]
    assert all(len(row) == len(columns) for row in rows)
    assert Samples(denoiser, Ancestral(), (1, 8, 8), 0, 10, CPU).steps == 40


def test_references_say_of_which_images_they_are() -> None:
    moments = Moments(torch.zeros(2), torch.eye(2))
    for about, said in (
        ({"n": 20, "of": 60, "images": "20 of 60, seed 1"}, "20 of 60, seed 1"),
        ({"n": 20, "of": 60}, "the first 20 of 60, as an earlier version took them"),
        ({"n": 60, "of": 60}, "all 60"),
        ({}, None),  # a public evaluator's file
    ):
        assert images_of(Statistics(about.get("n", 0), moments, None, None, None, about)) == said


def test_keys_carry_n() -> None:
    assert [count_name(n) for n in (200, 5000, 50_000, 49_984)] == ["200", "5k", "50k", "49984"]


def test_reference_is_kept_and_made_anew_for_anything_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = digits(split="train")

    def reference(images=train, extractor=None, n=None, split="train", seed=0):
        return reference_statistics(
            images,
            extractor or ToyExtractor(),
            data="digits",
            split=split,
            n=n,
            batch_size=64,
            cache=tmp_path,
            device=CPU,
            seed=seed,
        )

    statistics, path = reference()
    written = path.stat().st_mtime_ns
    again, same = reference(seed=1)  # which chooses nothing where all are taken
    assert (same, path.stat().st_mtime_ns) == (path, written)
    assert torch.equal(statistics.pool.covariance, again.pool.covariance)
    other = ToyExtractor(seed=1)
    other.sha256 = "fedcba"
    names = {path.name}
    changes = (
        {"extractor": other},
        {"n": 100},
        {"n": 100, "seed": 1},
        {"images": digits(split="test"), "split": "test"},
    )
    for changed in (reference(**change) for change in changes):
        assert changed[1].name not in names
        names.add(changed[1].name)
    path.write_bytes(path.read_bytes()[:1000])
    repaired, _ = reference()
    assert "made anew" in capsys.readouterr().out
    assert torch.equal(statistics.pool.covariance, repaired.pool.covariance)


def test_sorted_and_shuffled_references_agree(tmp_path: Path) -> None:
    """A fifth of the train split, by its own class order and by any other: as near the whole as another random fifth."""
    train = digits(split="train")
    images = train.images[train.labels.argsort(stable=True)]

    def reference(images: torch.Tensor, n: int | None, seed: int) -> Moments:
        options = {"data": "digits", "split": "train", "batch_size": 500, "cache": tmp_path, "device": CPU}
        return reference_statistics(MemorySet(images), ToyExtractor(), n=n, seed=seed, **options)[0].pool

    whole, first = reference(images, None, 0), reference(images[:300], None, 0)
    error = (whole.covariance.diag() / 300).sqrt()
    assert ((first.mean - whole.mean) / error).abs().max() > 10
    for seed in range(20):
        for order in (images, images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))]):
            z = (reference(order, 300, seed).mean - whole.mean) / error
            assert (z**2).mean().sqrt() < 3


def test_statistics_of_other_images_or_eyes_are_refused(tmp_path: Path) -> None:
    extractor = ToyExtractor()
    reference, _ = reference_statistics(
        digits(split="train"), extractor, data="digits", split="train", n=50, batch_size=64, cache=tmp_path, device=CPU
    )
    check_fit(reference, extractor, (1, 8, 8), "digits")
    with pytest.raises(ValueError, match="is of images 8x8 grey and the generated ones are 32x32 RGB"):
        check_fit(reference, extractor, (3, 32, 32), "digits")
    other = ToyExtractor()
    other.sha256 = "fedcba"
    with pytest.raises(ValueError, match="made with the extractor toy 01234567, not toy fedcba"):
        check_fit(reference, other, (1, 8, 8), "digits")
    short = reference._replace(pool=type(reference.pool)(reference.pool.mean[:4], reference.pool.covariance[:4, :4]))
    with pytest.raises(ValueError, match="4 features and toy gives 16"):
        judge(
            lambda i: torch.zeros(len(i), 1, 8, 8, dtype=torch.uint8), 4, extractor, short, {}, batch_size=4, device=CPU
        )
