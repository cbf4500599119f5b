"""A sweep with a job that cannot work, in a real process; and resumed."""

import csv
import json
from pathlib import Path

from tests.doors import QUICK, run


def test_one_refused_job_does_not_cost_the_others(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    options = [*QUICK, "trainer.max_steps=2", "logger=csv", f"hydra.sweep.dir={sweep}"]
    jobs = ["-m", "variance=fixed_large,learned,fixed_small"]
    output = run("train", *jobs, *options, expect=1)
    assert "Traceback" not in output
    assert "results of the sweep" in output
    folders = sorted(path.parent.name for path in sweep.glob("*/.hydra"))
    (refused,) = (path.parent.name for path in sweep.glob("*/error.txt"))
    assert f"failed: {refused}: " in output
    assert "objective=hybrid" in (sweep / refused / "error.txt").read_text()
    with (sweep / "results.csv").open() as file:
        rows = {row["job"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(folders)
    assert len(rows) == 3
    for name, row in rows.items():
        assert (name == refused) == (row["test/bits_per_dim"] == "") == (row["error"] != "")

    # The same sweep resumed finds the same folders, where the others are complete.
    before = {path: path.read_bytes() for path in sweep.glob("*/metrics.json")}
    output = run("train", *jobs, *options, "resume=auto", expect=1)
    assert output.count("is complete") == 2
    assert sorted(path.parent.name for path in sweep.glob("*/.hydra")) == folders
    assert {path: path.read_bytes() for path in sweep.glob("*/metrics.json")} == before

    # A job that fails no more is no failure any more.
    output = run("train", "-m", "variance=learned", "objective=hybrid", *options, f"hydra.sweep.subdir='{refused}'")
    assert "failed" not in output
    assert json.loads((sweep / refused / "metrics.json").read_text())["step"] == 2
