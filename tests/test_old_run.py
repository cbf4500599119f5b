"""A run folder of an earlier commit is sampled, evaluated and resumed with the images and numbers that it had there."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.doors import ROOT, run

OLD = ROOT / "tests" / "old_run"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    shutil.copytree(OLD / "run", tmp_path / "run")
    return tmp_path / "run"


def test_it_is_sampled(old: Path) -> None:
    run("sample", f"run={old}", "n=8", "seed=3", "sampler.steps=5", "threads=1")
    (path,) = old.glob("**/samples.npz")
    with np.load(path) as now, np.load(OLD / "samples.npz") as then:
        assert np.abs(now["arr_0"].astype(int) - then["arr_0"]).max() <= 1
        assert (now["arr_1"] == then["arr_1"]).all()


def test_it_is_evaluated(old: Path) -> None:
    before = {path: path.read_bytes() for path in old.glob("**/metrics.json")}
    run("evaluate", f"run={old}", "bound.images=null", "threads=1", "dashboard=none")
    (path,) = (path for path in old.glob("**/metrics.json") if path.read_bytes() != before.get(path))
    assert json.loads(path.read_text())["test/bits_per_dim"] == pytest.approx(5.3840337038837545, rel=1e-5)


def test_it_is_resumed(old: Path) -> None:
    given = json.loads((old / "provenance.json").read_text())["overrides"]
    run("train", *given, "trainer.max_steps=18", "resume=last", f"hydra.run.dir={old}")
    with (OLD / "resumed.csv").open() as file:
        then = {(row["step"], row["name"]): float(row["value"]) for row in csv.DictReader(file)}
    with (old / "scalars.csv").open() as file:
        now = {(row["step"], row["name"]): float(row["value"]) for row in csv.DictReader(file)}
    assert {step for step, _ in then} == {str(step) for step in range(2, 19, 2)}
    for key, value in then.items():
        assert now[key] == pytest.approx(value, rel=1e-4), key
