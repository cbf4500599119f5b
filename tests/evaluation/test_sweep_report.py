"""Means and spreads over seeds; a run's curves."""

from pathlib import Path
from typing import Any

import pytest

from ddpm_lab.evaluation.run_curves import draw, run_curves
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
    drawn = [job(1.0, lr="0.00709381302456"), job(2.0, lr="0.00012345"), job(3.0, lr="0.00012349")]
    for lr in ("lr=0.00709381 ", "lr=0.00012345 ", "lr=0.00012349 "):
        assert lr in sweep_report(drawn, tmp_path, None)
    assert text.splitlines()[1].split() == ["schedule=linear", "2", "±", "1.4", "over", "2", "seeds"]
    assert width(tmp_path / "report.png") > 300


def measured(value: float, lr: str, seed: str = "0", **protocol: Any) -> Job:
    about = {"n": 32, "images": f"32 of 299, seed {seed}", "commit": lr, "step": 5, "labels": None, **protocol}
    metrics = {"bound": value, "bound_prior": 0.1, "bound_protocol": about, "other": value, "other_protocol": {}}
    return Job({"lr": lr, "seed": seed}, metrics)


def test_numbers_of_different_protocols_are_not_compared(tmp_path: Path) -> None:
    alike = [measured(3.0, "0.1"), measured(4.0, "0.001", labels="in turn: 0, 1"), measured(5.0, "0.001", seed="1")]
    assert {(row.choice, row.metric) for row in rows(alike, None)} == {
        (choice, metric) for choice in ("lr=0.1", "lr=0.001") for metric in ("bound", "other")
    }
    # What evaluate.py of an earlier version did to a run's metrics.json.
    few = [*alike, measured(1.0, "0.001", seed="2", n=2, images="the first 2 of 299")]
    sentence = (
        "bound is left out, for numbers of different protocols are not compared: n: 32 for lr=0.1, seed=0, 2 for lr=0.001, "
        "seed=2; images: "
    )
    text = sweep_report(few, tmp_path, None)
    assert sentence in text
    assert text.startswith("other\n")
    assert {row.metric for row in rows(few, None)} == {"other"}
    assert "bound" not in (tmp_path / "report.csv").read_text()
    for named in ("bound", "bound_prior"):
        with pytest.raises(ValueError, match=f"{named} is left out"):
            sweep_report(few, tmp_path, [named])


@pytest.mark.parametrize(("key", "compared"), [("schedule.T", True), ("sampler", True), ("lr", False)])
def test_sampling_may_differ_where_the_sweep_varies_it(key: str, compared: bool) -> None:
    jobs = [
        Job(
            {key: str(k)},
            {"fid": 1.0, "fid_protocol": {"sampler": "DDIM", "steps": k, "calls": k, "start_signal": 1 / k}},
        )
        for k in (10, 20)
    ]
    assert len(rows(jobs, None)) == (2 if compared else 0)


def test_curves(tmp_path: Path) -> None:
    scalars = tmp_path / "scalars.csv"
    with pytest.raises(ValueError, match="holds no scalar yet"):
        run_curves(scalars, tmp_path, None)
    scalars.write_text("step,name,value\n1,train/loss,2.0\n2,train/loss,1.0\n2,train/loss_q0,1.0\n2,val/loss,1e-")
    assert width(run_curves(scalars, tmp_path, None)) > 300
    with pytest.raises(ValueError, match="holds no fid; it holds train/loss, train/loss_q0"):
        run_curves(scalars, tmp_path, ["fid"])


def test_equal_scalars_are_one_curve_and_what_was_logged_once_is_told_in_words() -> None:
    falling, rising = [(10, 2.0), (20, 1.0)], [(10, 1.0), (20, 2.0)]
    quartiles = {f"train/loss_q{k}": falling for k in range(4)}
    once = {f"test/number_{k:02}": [(20, k / 8)] for k in range(15)}
    figure = draw({**once, "train/loss": falling, **quartiles, "train/lr": rising, "train/mse": falling})
    shown = [axes for axes in figure.axes if axes.get_visible()]
    curves = {axes.get_title(): len(axes.lines) for axes in shown if axes.lines}
    assert curves == {"train/loss = train/mse": 1, "train/loss by quartile of t": 4, "train/lr": 1}
    words = [axes.texts[0].get_text().splitlines() for axes in shown if axes.texts]
    assert [len(lines) for lines in words] == [14, 1]
    assert words[0][1] == "test/number_01 = 0.125  (step 20)"
