"""Sweeps in real processes: a job that cannot work, resumed, two ranks a job; and which folder a command goes on in."""

import csv
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.doors import QUICK, command, environment, run, width
from tests.wandb_file import keys_of


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


def times(job: Path) -> dict[Path, int]:
    """When a job's files were written, but for Hydra's own."""
    files = [path for path in job.glob("**/*") if path.is_file() and ".hydra" not in path.parts]
    return {path: path.stat().st_mtime_ns for path in files}


def test_a_job_of_two_ranks_that_fails_does_not_cost_the_others(tmp_path: Path) -> None:
    ranks = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_steps=2"]
    options = [option for option in QUICK if "batch_size" not in option and "max_steps" not in option]
    arguments = ["-m", "data.batch_size=7,8", *options, *ranks]
    output = run("train", *arguments, cwd=tmp_path, expect=1)
    assert output.count("MEMBER: 2/2") == 2
    assert output.count("results of the sweep") == 1
    assert "Traceback" not in output
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert {path.name for path in sweep.iterdir() if path.is_dir()} == {"data.batch_size=7", "data.batch_size=8"}
    refused, job = sweep / "data.batch_size=7", sweep / "data.batch_size=8"
    assert "failed: data.batch_size=7: " in output
    assert "7" in (refused / "error.txt").read_text()
    (file,) = job.glob("wandb/offline-run-*/*.wandb")
    assert keys_of(file)["group"] == {sweep.name}
    assert (job / "DONE").read_text() == "2\n"
    before = times(job)
    again = ["skip_finished=true", f"hydra.sweep.dir={sweep}", f"hydra.sweep.subdir='{job.name}'"]
    output = run("train", "-m", "data.batch_size=8", *arguments[2:], *again, expect=1)  # the other has failed still
    assert output.count("is finished, with 2 steps: skipped") == 1
    assert times(job) == before
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["sweeps"]


def test_the_same_command_goes_on_in_its_folder(tmp_path: Path) -> None:
    options = [*QUICK, "logger=csv", "trainer.max_steps=2"]
    assert "no folder of the same command" in run("train", *options, "resume=last", cwd=tmp_path, expect=1)
    assert not list((tmp_path / "outputs" / "digits").iterdir())
    output = run("train", *options, "resume=auto", cwd=tmp_path)
    assert "resume=auto found nothing to go on with and starts anew: there is no run in " in output
    (folder,) = (tmp_path / "outputs" / "digits").glob("*/DONE")
    output = run("train", *options, "schedule=linear", "resume=auto", cwd=tmp_path)
    assert f"the newest, {folder.parent.name}, differs in schedule=linear here" in output
    assert f"{folder.parent.name} is complete" in run("train", *options, "resume=last", cwd=tmp_path)
    assert f"{folder.parent.name} is finished" in run("train", *options, "skip_finished=true", cwd=tmp_path)
    assert len(list((tmp_path / "outputs" / "digits").iterdir())) == 2


FEW = ["trainer.max_steps=2", "logger=csv", "callbacks.sample_grid=null"]


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers_run_the_jobs_and_the_report_tells_of_them(launcher: str, tmp_path: Path) -> None:
    jobs = ["-m", f"hydra/launcher={launcher}", f"hydra.sweep.dir={tmp_path}", "objective=vlb", "seed=0,1,-1"]
    options = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    # Not forked: a launcher's own processes are started anew, and end with the interpreter that started them.
    process = subprocess.run(
        command("train", *jobs, *options, *QUICK, *FEW),
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert process.returncode == 1
    output = process.stdout
    assert "failed: seed=-1: a seed must not be negative" in output
    output = run("report", f"sweep={tmp_path}")
    assert "not in it: seed=-1: a seed must not be negative" in output
    with (tmp_path / "report.csv").open() as file:
        (row,) = (row for row in csv.DictReader(file) if row["metric"] == "test/bits_per_dim")
    results = [json.loads((tmp_path / f"seed={i}" / "metrics.json").read_text()) for i in (0, 1)]
    values = [result["test/bits_per_dim"] for result in results]
    assert row["seeds"] == "2"
    assert float(row["mean"]) == pytest.approx(sum(values) / 2)
    assert float(row["sd"]) == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert width(tmp_path / "report.png") > 300
    assert "train/seconds" in run("report", f"sweep={tmp_path}", "only=[train/seconds]", f"out={tmp_path}/other")
    assert "no run has a metric fid; they have step, " in run("report", f"sweep={tmp_path}", "only=[fid]", expect=1)


def test_optuna_minimises_the_metric_that_is_asked_for_and_goes_on_where_a_job_fails(tmp_path: Path) -> None:
    sweep = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=1", *QUICK, *FEW]
    given = ["hydra.sweeper.n_trials=4", "seed=choice(0,-1)", "optimized_metric=test/bits_per_dim_decoder"]
    output = run(
        "train", *sweep, *given, "optimizer.lr=interval(0.001,0.01)", f"hydra.sweep.dir={tmp_path}/a", expect=1
    )
    paths = list((tmp_path / "a").glob("*/metrics.json"))
    failed = list((tmp_path / "a").glob("*/error.txt"))
    assert len(paths) + len(failed) == 4
    assert len(failed) in (1, 2, 3)
    assert output.count("failed: ") == len(failed)
    values = [json.loads(path.read_text())["test/bits_per_dim_decoder"] for path in paths]
    best = float(re.search(r"best_value: (\S+)", (tmp_path / "a" / "optimization_results.yaml").read_text())[1])
    assert best == pytest.approx(min(values))

    # A name that no metric has: the first job says so once it is trained, the second is not trained.
    misspelt = ["hydra.sweeper.n_trials=2", "seed=choice(0,1,2,3)", "optimized_metric=test/bits_per_dimm"]
    output = run("train", *sweep, *misspelt, f"hydra.sweep.dir={tmp_path}/b", expect=1)
    assert "did you mean test/bits_per_dim? it has " in output
    assert len(list((tmp_path / "b").glob("*/error.txt"))) == 2
    assert len(list((tmp_path / "b").glob("*/metrics.json"))) == 1
    assert "Optuna has nothing to choose from" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_a_sweep_of_many_launched_processes_is_refused(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "2")
    output = run("train", "-m", *QUICK, "seed=1", f"hydra.sweep.dir={tmp_path}", expect=1)
    assert "has started 2 processes and each would run the whole sweep" in output
