"""Means and spreads over seeds; a run's curves."""

from pathlib import Path

import pytest

from ddpm_lab.evaluation.run_curves import run_curves
from ddpm_lab.evaluation.sweep_report import Job, rows, sweep_report
from tests.doors import width


def job(value: float, **overrides: str) -> Job:
    return Job(overrides, {"fid": value, "fid_protocol": {}, "seconds": 1.0})


JOBS = [
    job(1.0, schedule="linear", seed="0", logger="csv"),
    job(3.0, schedule="linear", seed="1", logger="wandb"),
    job(7.0, schedule="cosine", seed="0"),
    job(9.0, schedule="cosine", seed="1", resume="auto"),
    job(5.0, seed="0"),
]


def test_jobs_that_differ_in_their_seed_alone_are_one_row() -> None:
    table = {row.choice: row for row in rows(JOBS, None)}
    assert set(table) == {"schedule=linear", "schedule=cosine", "default"}
    assert table["schedule=linear"][1:5] == ("fid", 2.0, pytest.approx(2**0.5), 2)
    assert table["default"].sd is None


def test_what_can_be_asked_for(tmp_path: Path) -> None:
    assert {row.metric for row in rows(JOBS, ["seconds"])} == {"seconds"}
    with pytest.raises(ValueError, match="no run has a metric sfid; they have fid, seconds"):
        rows(JOBS, ["sfid"])
    with pytest.raises(ValueError, match="is finished"):
        rows([], None)
    text = sweep_report(JOBS, tmp_path, None)
    assert text.splitlines()[1].split() == ["schedule=linear", "2", "±", "1.4", "over", "2", "seeds"]
    assert width(tmp_path / "report.png") > 300


def test_curves(tmp_path: Path) -> None:
    scalars = tmp_path / "scalars.csv"
    with pytest.raises(ValueError, match="holds no scalar yet"):
        run_curves(scalars, tmp_path, None)
    scalars.write_text("step,name,value\n1,train/loss,2.0\n2,train/loss,1.0\n2,train/loss_q0,1.0\n2,val/lo")
    assert width(run_curves(scalars, tmp_path, None)) > 300
    with pytest.raises(ValueError, match="holds no fid; it holds train/loss, train/loss_q0"):
        run_curves(scalars, tmp_path, ["fid"])
