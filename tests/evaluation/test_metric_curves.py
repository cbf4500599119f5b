import csv
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ddpm_lab.evaluation.metric_curves import metric_curves, points


def job(sampler: str, steps: int, fid: float, seed: int = 0, eta: float | None = None, **others: Any) -> dict[str, Any]:
    walked = {"sampler": sampler, "steps": steps, "calls": steps, "start_signal": 1 / steps}
    beside = {**walked, "eta": eta, "seed": seed, "n": 1000, "commit": "abc", **others}
    kid = {"kid1k": fid / 100, "kid1k_std": 0.1, "kid1k_protocol": {**beside, "subset_size": 1000}}
    return {"fid1k": fid, "fid1k_protocol": beside, **kid, "seconds_of_1000_images": {"images": 3.0}}


JOBS = [job("DDIM", s, 100 / s, eta=0.0) for s in (10, 20, 50)] + [job("Ancestral", s, 300 / s) for s in (10, 20, 50)]


def test_one_line_for_each_sampler() -> None:
    found = points(JOBS, "steps")
    assert {p.line for p in found} == {"DDIM, eta = 0.0", "Ancestral"}
    assert [(p.x, p.value) for p in found if (p.metric, p.line) == ("fid1k", "Ancestral")] == [
        (10, 30.0),
        (20, 15.0),
        (50, 6.0),
    ]


def test_seeds_become_mean_and_spread_and_other_settings_other_lines() -> None:
    found = points([job("DDIM", 10, 1.0, seed=0), job("DDIM", 10, 3.0, seed=1)], "steps")
    (fid,) = [p for p in found if p.metric == "fid1k"]
    assert (fid.value, fid.spread) == (2.0, pytest.approx(2**0.5))
    found = points([job("DDIM", 10, 1.0, spacing="uniform"), job("DDIM", 10, 3.0, spacing="quadratic")], "steps")
    assert {p.line for p in found} == {"DDIM, spacing = uniform", "DDIM, spacing = quadratic"}


def test_the_picture_and_its_numbers(tmp_path: Path) -> None:
    assert metric_curves([*JOBS, {"test/bits_per_dim": 4.0}], tmp_path) == tmp_path / "metrics_vs_steps.png"
    with Image.open(tmp_path / "metrics_vs_steps.png") as picture:
        assert picture.width > 500
    with (tmp_path / "metrics_vs_steps.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert {row["metric"] for row in rows} == {"fid1k", "kid1k"}


def test_guidance_is_drawn_against_its_scale(tmp_path: Path) -> None:
    jobs = [job("DDIM", 10, 5 + w, **{"guidance": "classifier_free", "guidance.scale": w}) for w in (-1.0, 0.0, 2.0)]
    assert metric_curves(jobs, tmp_path) == tmp_path / "metrics_vs_scale.png"
    assert [(p.x, p.value) for p in points(jobs, "guidance.scale") if p.metric == "fid1k"] == [
        (-1.0, 4.0),
        (0.0, 5.0),
        (2.0, 7.0),
    ]


@pytest.mark.parametrize("key", ["n", "reference_n", "extractor"])
def test_what_is_measured_otherwise_is_not_drawn(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [job("DDIM", 10, 9.0), job("DDIM", 20, 7.0), job("DDIM", 20, 2.0, **{key: 100})]
    jobs[2].update(fid1k_protocol={**jobs[1]["fid1k_protocol"], key: 100}, kid1k_protocol=jobs[1]["kid1k_protocol"])
    for each in jobs[:2]:
        each["fid1k_protocol"].setdefault(key, 1000)
    assert metric_curves(jobs, tmp_path) is not None
    assert {p.metric for p in points(jobs, "steps")} == {"kid1k"}
    assert (
        f"fid1k is left out, for numbers of different protocols are not compared: {key}: 1000 for steps=10, 100 for"
        in (capsys.readouterr().out)
    )


def test_nothing_is_drawn_where_nothing_can_be_compared(tmp_path: Path) -> None:
    assert not metric_curves([job("DDIM", 10, 1.0), job("Ancestral", 10, 2.0)], tmp_path)
    assert not metric_curves([{"test/bits_per_dim": 4.0}], tmp_path)
    assert list(tmp_path.iterdir()) == []
