"""evaluate.py in real processes: runs, files, statistics, two ranks, a rank that fails, misuse; and the training callback."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_lab.data.digits import digits
from ddpm_lab.parts import part
from tests.doors import QUICK, ROOT, checkpoint, environment, run, scalars, width, written
from tests.wandb_file import keys_of

QUICK_FEATURES = ["features=classifier", "features.steps=40"]
METRICS = {"fid", "sfid", "is", "kid", "precision", "recall"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def evaluated(trained: Path, cache: Path) -> Path:
    """The folder of an evaluation of `trained`."""
    run("evaluate", *of_run(trained, cache), "bound.images=20")
    return written(trained, "metrics.json").parent


def of_run(folder: Path, cache: Path) -> list[str]:
    options = ["n=50", "batch_size=16", "sampler=ddim", "sampler.steps=3", "threads=1", f"cache={cache}"]
    return [f"run={folder}", *options, *QUICK_FEATURES]


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def without_times(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if "seconds" not in name}


def on_two_ranks(*arguments: str, expect: int = 0) -> str:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, str(ROOT / "evaluate.py"), *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode == 0) == (expect == 0), done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def test_every_metric_with_its_protocol_and_pictures(evaluated: Path) -> None:
    found = metrics(evaluated)
    assert {f"{name}50" for name in METRICS} <= found.keys()
    for name in METRICS:
        beside = found[f"{name}50_protocol"]
        assert (beside["n"], beside["seed"], beside["sampler"], beside["steps"], beside["eta"]) == (50, 0, "DDIM", 3, 0)
        assert beside["reference"] == "train split of digits"
        assert len(beside["extractor_sha256"]) == 64
        assert (beside["weights"], beside["step"]) == ("ema", 12)
    assert found["test/bits_per_dim_protocol"]["n"] == 20
    pictures = ["judged", "test_bits_per_dim", "test_bits_per_dim_rate_distortion", "progressive", "neighbours"]
    for name in pictures:
        assert width(evaluated / f"{name}.png") > 200, name


def test_the_same_call_gives_the_same_numbers(trained: Path, evaluated: Path, cache: Path) -> None:
    run("evaluate", *of_run(trained, cache), "bound.images=20")
    again = written(trained, "metrics.json").parent
    assert again != evaluated
    assert without_times(metrics(again)) == without_times(metrics(evaluated))


def test_two_ranks_give_what_one_gives(trained: Path, evaluated: Path, cache: Path) -> None:
    before = metrics(evaluated)
    output = on_two_ranks(*of_run(trained, cache), "bound.images=20", "pictures=false")
    assert output.count(" fid50 ") == 1  # one process speaks
    assert len(list(trained.glob("evaluations/torchrun-*"))) == 1  # and they agree where it writes
    found = metrics(written(trained, "metrics.json").parent)
    for name in [*(f"{name}50" for name in METRICS), "test/bits_per_dim", "test/bits_per_dim_standard_error"]:
        assert found[name] == pytest.approx(before[name], rel=1e-9, abs=1e-12), name


def test_a_rank_that_fails_stops_the_job_with_its_message(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(40):
        Image.fromarray(np.full((8, 8), 6 * k, np.uint8)).save(folder / f"{k:02}.png")
    (folder / "11.png").write_bytes((folder / "11.png").read_bytes()[:40])  # in the second batch: rank 1's
    start = time.monotonic()
    output = on_two_ranks(
        *(f"samples={folder}", "data=digits", "batch_size=8", f"cache={cache}", "dashboard=none", "threads=1"),
        *QUICK_FEATURES,
        f"hydra.run.dir={tmp_path}/out",
        expect=1,
    )
    assert "Cannot read the image" in output
    assert "11.png" in output
    assert time.monotonic() - start < 100
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_the_offline_wandb_run_holds_numbers_table_and_pictures(trained: Path, evaluated: Path) -> None:
    file = sorted(evaluated.glob("wandb/offline-run-*/*.wandb"))[0]
    keys = keys_of(file)
    assert {"fid50", "test/bits_per_dim", "evaluation/nrows", "judged/path", "neighbours/path"} <= keys["history"]
    assert keys["group"] == {trained.name}
    assert "exit" in keys["kinds"]


def test_files_are_judged_like_a_run(trained: Path, evaluated: Path, cache: Path, tmp_path: Path) -> None:
    options = ["sampler.steps=3", "n=50", f"hydra.run.dir={tmp_path}/drawn"]
    run("sample", f"run={trained}", *options, "batch_size=16")
    archive = tmp_path / "drawn" / "samples.npz"
    images = np.load(archive)["arr_0"]
    folder = tmp_path / "folder"
    folder.mkdir()
    for k, image in enumerate(images):
        picture = Image.fromarray(image[..., 0])
        (picture.convert("LA") if k % 5 == 0 else picture).save(folder / f"{k:03}.png")
    expected = metrics(evaluated)
    common = ["data=digits", "batch_size=16", "threads=1", f"cache={cache}", "dashboard=none", *QUICK_FEATURES]
    for source in (archive, folder):
        run("evaluate", f"samples={source}", *common, f"hydra.run.dir={tmp_path}/out")
        found = metrics(tmp_path / "out")
        for name in METRICS:
            assert found[f"{name}50"] == pytest.approx(expected[f"{name}50"], rel=1e-9, abs=1e-12), name
        assert found["fid50_protocol"]["samples"] == source.name
        assert found["fid50_protocol"]["transparent"] == (0 if source == archive else 10)
        assert found["fid50_protocol"]["background"] == "white"


def test_statistics_go_out_and_come_in(cache: Path, tmp_path: Path) -> None:
    common = [*QUICK_FEATURES, f"cache={cache}", "threads=1"]
    out = tmp_path / "stats.npz"
    output = run(
        "evaluate", "stats", "data=digits", "split=test", "n=200", "seed=3", f"out={out}", "images=true", *common
    )
    assert "statistics of 200 of 299, seed 3, test images of digits" in output
    assert f"-> {out}" in output
    with np.load(out) as arrays:
        chosen = digits("test").images[part(299, 200, seed=3)]
        assert np.array_equal(arrays["arr_0"], chosen.permute(0, 2, 3, 1).numpy())
        assert arrays["mu"].shape == (128,)
        assert arrays["sigma"].shape == (128, 128)
        images, moments = arrays["arr_0"], {"mu": arrays["mu"], "sigma": arrays["sigma"]}
    np.savez(tmp_path / "images.npz", arr_0=images)
    np.savez(tmp_path / "moments.npz", **moments)
    common += ["data=digits", "dashboard=none", f"samples={tmp_path}/images.npz", f"hydra.run.dir={tmp_path}/out"]
    for reference in ("stats.npz", "moments.npz", "images.npz"):
        output = run("evaluate", *common, f"reference={tmp_path}/{reference}")
        assert metrics(tmp_path / "out")["fid200"] == pytest.approx(0, abs=1e-4)
        assert ("kid is left out: the reference file has no features" in output) == (reference == "moments.npz")
    output = run("evaluate", *common, f"reference={tmp_path}/images.npz", "n=150", "reference_n=100", "seed=1")
    assert "150 of 200, seed 1, of " in output
    beside = metrics(tmp_path / "out")["kid150_protocol"]
    assert (beside["images"], beside["reference_images"]) == ("150 of 200, seed 1", "100 of 200, seed 1")
    assert (beside["features"], beside["reference_features"]) == ("all 150", "all 100")


def test_a_sweep_over_samplers_and_steps_ends_with_curves(trained: Path, cache: Path) -> None:
    options = ["sampler=ddim,ancestral", "sampler.steps=2,4", "n=30", "bound=none", "pictures=false", "dashboard=none"]
    run("evaluate", "-m", f"run={trained}", *options, "threads=1", f"cache={cache}", *QUICK_FEATURES)
    folder = written(trained, "metrics_vs_steps.png").parent
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 4
    assert width(folder / "metrics_vs_steps.png") > 500
    assert "fid" in (folder / "metrics_vs_steps.csv").read_text()


def test_metrics_while_training(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "run"
    node = "callbacks.generation_metrics"
    options = ["callbacks=generation_metrics", f"{node}.every=4", f"{node}.n=20", f"{node}.sampler.steps=2"]
    options += [f"{node}.final_n=33", *QUICK_FEATURES, f"cache={cache}"]
    run("train", *QUICK, *options, f"hydra.run.dir={folder}")
    rows = [row for row in scalars(folder) if row[1].startswith("fid")]
    assert [(row[0], row[1]) for row in rows] == [("4", "fid20"), ("8", "fid20"), ("12", "fid33")]
    found = metrics(folder)
    assert found["fid20_protocol"]["step"] == 8
    assert (found["fid33_protocol"]["step"], found["fid33_protocol"]["steps"]) == (12, 4)
    best = torch.load(folder / "checkpoints" / "best-fid.ckpt", weights_only=True)["global_step"]
    values = {int(row[0]): float(row[2]) for row in rows[:2]}
    assert best == min(values, key=lambda step: values[step])
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    assert {"fid20", "generation_metrics/nrows"} <= keys_of(file)["history"]
    # The numbers are those that evaluate.py finds for the same weights.
    run(
        "evaluate",
        f"run={folder}",
        "n=33",
        "sampler.steps=4",
        "bound=none",
        "dashboard=none",
        "pictures=false",
        f"cache={cache}",
        f"hydra.run.dir={tmp_path}/again",
        *QUICK_FEATURES,
    )
    assert metrics(tmp_path / "again")["fid33"] == pytest.approx(found["fid33"], rel=1e-9)


def test_two_ranks_judge_while_they_train(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "run"
    node = "callbacks.generation_metrics"
    options = ["callbacks=generation_metrics", f"{node}.every=5", f"{node}.n=21", f"{node}.sampler.steps=2"]
    options += [f"{node}.final_n=33", f"{node}.batch_size=8", *QUICK_FEATURES, f"cache={cache}", "logger=csv"]
    run(
        "train",
        *QUICK,
        *options,
        "trainer=ddp",
        "trainer.devices=2",
        "trainer.accelerator=cpu",
        f"hydra.run.dir={folder}",
    )
    run(
        "evaluate",
        f"run={folder}",
        "n=33",
        "sampler.steps=4",
        "bound=none",
        "dashboard=none",
        "pictures=false",
        "batch_size=8",
        f"cache={cache}",
        f"hydra.run.dir={tmp_path}/again",
        *QUICK_FEATURES,
    )
    assert metrics(tmp_path / "again")["fid33"] == pytest.approx(metrics(folder)["fid33"], rel=1e-9)


def test_without_inception_training_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    output = run(
        "train",
        *QUICK,
        "callbacks=generation_metrics",
        "callbacks.generation_metrics.sampler.steps=2",
        "logger=csv",
        f"hydra.run.dir={folder}",
        f"cache={tmp_path}",
    )
    assert "training goes on without generation metrics: " in output
    assert "weights-inception-2015-12-05-6726825d.pth" in output
    assert checkpoint(folder)["global_step"] == 12


def misuses(tmp_path: Path, trained: Path) -> dict[str, tuple[list[str], str]]:
    np.savez(tmp_path / "floats.npz", arr_0=np.zeros((4, 8, 8, 1), np.float32))
    np.savez(tmp_path / "rgb.npz", arr_0=np.zeros((4, 8, 8, 3), np.uint8))
    np.savez(tmp_path / "large.npz", arr_0=np.zeros((4, 16, 16, 1), np.uint8))
    np.savez(tmp_path / "few.npz", arr_0=np.zeros((4, 8, 8, 1), np.uint8))
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.pth").write_bytes(b"not Inception")
    digits = ["data=digits", *QUICK_FEATURES]
    of_trained = [f"run={trained}", "n=10", "bound=none", "sampler.steps=2"]
    return {
        "nothing": ([], "give one of run=…"),
        "both": ([f"run={trained}", f"samples={tmp_path}/few.npz"], "give one of run=…"),
        "data": ([f"samples={tmp_path}/few.npz"], "add data=…"),
        "floats": ([f"samples={tmp_path}/floats.npz", *digits], "images must be bytes 0..255"),
        "channels": (
            [f"samples={tmp_path}/rgb.npz", *digits],
            "is of images 8x8 grey and the generated ones are 8x8 RGB",
        ),
        "size": (
            [f"samples={tmp_path}/large.npz", *digits],
            "is of images 8x8 grey and the generated ones are 16x16 grey",
        ),
        "n": ([f"samples={tmp_path}/few.npz", "n=5", *digits], "holds 4"),
        "empty": ([f"samples={tmp_path}/empty", *digits], "No image below"),
        "nowhere": ([f"samples={tmp_path}/nowhere", *digits], "neither a folder of images, nor"),
        "reference": (
            [*of_trained, *QUICK_FEATURES, f"reference={tmp_path}/large.npz"],
            "16x16 grey and the generated ones",
        ),
        "inception": (of_trained, "features=classifier"),
        "weights": ([*of_trained, f"features.weights={tmp_path}/weights.pth"], "6726825d"),
        "one": ([f"run={trained}", "n=1"], "n at least 2"),
        "steps": ([*of_trained, *QUICK_FEATURES, "sampler.steps=50"], "take between 1 and 40"),
        "split": ([f"run={trained}", "splits=[valid]"], '"train" or "test"'),
    }


MISUSES = [
    *("nothing", "both", "data", "floats", "channels", "size", "n", "empty", "nowhere"),
    *("reference", "inception", "weights", "one", "steps", "split"),
]


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_is_told_in_a_sentence(name: str, tmp_path: Path, trained: Path, cache: Path) -> None:
    arguments, sentence = misuses(tmp_path, trained)[name]
    output = run(
        "evaluate",
        *arguments,
        f"cache={cache}",
        "threads=1",
        "dashboard=none",
        f"hydra.run.dir={tmp_path}/out",
        expect=1,
    )
    assert sentence in output
    assert "Traceback" not in output
    assert output.strip().splitlines()[-1].startswith("error: ")
