"""The real command line in real processes: train, kill, resume, sample, evaluate, sweep, two ranks, misuse."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.doors import QUICK, ROOT, Process, checkpoint, command, environment, run, scalars, width, written
from tests.wandb_file import keys_of


def same_tensors(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    run("train", *QUICK, "objective=hybrid", f"hydra.run.dir={folder}")
    return folder


def test_a_run_folder_holds_everything(trained: Path) -> None:
    for name in ("config.yaml", "scalars.csv", "samples.npz", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert (trained / name).stat().st_size > 0, name
    provenance = json.loads((trained / "provenance.json").read_text())
    assert "objective=hybrid" in provenance["overrides"]
    assert {"id", "commit", "versions", "python"} <= provenance.keys()
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["step"] == 12
    assert metrics["test/bits_per_dim"] > 0
    assert metrics["test/bits_per_dim_standard_error"] > 0
    names = {row[1] for row in scalars(trained)}
    quartiles = {f"train/loss_q{i}" for i in range(4)}
    assert {"train/loss", "train/mse", "train/vlb", "train/grad_norm", "train/lr", "val/loss", *quartiles} <= names
    assert width(trained / "samples.png") > 100
    assert sorted(p.name for p in (trained / "samples").iterdir()) == ["step_00000005.png", "step_00000010.png"]
    assert checkpoint(trained)["global_step"] == 12
    assert not [key for key in checkpoint(trained)["state_dict"] if "alpha_bar" in key]


def test_the_offline_wandb_run_holds_all_that_the_dashboard_shows(tmp_path: Path) -> None:
    run(
        "train",
        *QUICK,
        "callbacks=generation_metrics",
        "features=classifier",
        "features.steps=20",
        f"cache={tmp_path}/cache",
        "callbacks.generation_metrics.every=4",
        "callbacks.generation_metrics.n=12",
        "callbacks.generation_metrics.final_n=12",
        "callbacks.generation_metrics.sampler.steps=4",
        "callbacks.timestep_distribution.every=6",
        "callbacks.artifacts.files=[last.ckpt,best-fid.ckpt]",
        "timestep_sampler=loss_second_moment",
        f"hydra.run.dir={tmp_path}/run",
    )
    (file,) = tmp_path.glob("run/wandb/offline-run-*/*.wandb")
    keys = keys_of(file)
    losses = {f"{part}/{name}" for part in ("train", "val") for name in ("loss", *(f"loss_q{i}" for i in range(4)))}
    progress = {"train/grad_norm", "train/lr", "train/images_per_second", "trainer/global_step"}
    bound = {f"test/bits_per_dim{part}" for part in ("", "_prior", "_decoder", "_standard_error", "_estimator_error")}
    generation = {"fid12", "sfid12", "kid12", "is12"}
    assert losses | progress | bound | generation <= keys["history"] & keys["summary"]
    pictures = {"samples/filenames", "samples_and_real/filenames"}
    tables = {"generation_metrics/ncols", "timesteps/probability/values", "timesteps/effective"}
    assert pictures | tables <= keys["history"]
    assert {"schedule", "objective", "provenance"} <= keys["config"]
    assert keys["artifacts"] == {"last", "best-fid", "latest"}
    assert "exit" in keys["kinds"]  # closed properly
    steps = {row[0] for row in scalars(tmp_path / "run") if row[1] == "fid12"}
    assert len(steps) == 3  # at 4, at 8 and at the end

    media = file.parent / "files" / "media"
    tables = [json.loads(path.read_text())["data"] for path in media.glob("table/generation_metrics_*.table.json")]
    assert len(tables) == 3
    assert all({row[0] for row in table} >= generation for table in tables)
    assert {path.name.split("_")[0] for path in (media / "images").iterdir()} == {"samples"}
    assert all(width(path) > 100 for path in (media / "images").iterdir())


def test_sample_is_the_same_image_at_any_batch_size(trained: Path, tmp_path: Path) -> None:
    images = []
    for i, batch in enumerate((2, 5)):
        out = tmp_path / str(i)
        run(
            "sample",
            f"run={trained}",
            "n=5",
            "seed=3",
            f"batch_size={batch}",
            "sampler.steps=4",
            f"hydra.run.dir={out}",
        )
        images.append(np.load(out / "samples.npz")["arr_0"])
        assert width(out / "samples.png") > 100
    assert images[0].shape == (5, 8, 8, 1)
    assert images[0].dtype == np.uint8
    np.testing.assert_allclose(images[0].astype(int), images[1].astype(int), atol=1)
    assert len(np.unique(images[0].reshape(5, -1), axis=0)) == 5


def test_sample_and_evaluate_overwrite_nothing(trained: Path) -> None:
    before = {path: path.read_bytes() for path in trained.glob("**/*") if path.is_file()}
    folders = {*trained.glob("drawn/*"), *trained.glob("evaluations/*")}
    options = ["n=3", "sampler=ancestral", "sampler.steps=5", "weights=raw"]
    images = []
    for precision in ("fp32", "bf16"):
        said = run("sample", f"run={trained}", *options, f"precision={precision}")
        drawn = written(trained, "samples.npz")
        assert f"-> {drawn.parent}/samples.png, samples.npz, samples.json" in said
        images.append(np.load(drawn)["arr_0"].astype(int))
        record = json.loads(drawn.with_suffix(".json").read_text())
        assert record["protocol"]["precision"] == precision
        assert record["overrides"] == [f"run={trained}", *options, f"precision={precision}"]
    assert images[0].shape == (3, 8, 8, 1)
    assert 0 < abs(images[1] - images[0]).mean() < 2  # grey levels
    assert "neither fp32 nor bf16" in run("sample", f"run={trained}", "n=3", "precision=fp8", expect=1)
    assert "compile=fast is none of" in run("evaluate", f"run={trained}", "compile=fast", expect=1)
    found = []
    for name in (trained, trained / "checkpoints" / "last.ckpt"):
        said = run("evaluate", f"run={name}", "bound.images=20", "dashboard=none")
        found.append(json.loads(written(trained, "metrics.json").read_text()))
        assert said.splitlines()[-1] == f"-> {written(trained, 'metrics.json')}"
        assert found[-1].pop("overrides") == [f"run={name}", "bound.images=20", "dashboard=none"]
    metrics = found[0]
    assert metrics == {**found[1], **{k: v for k, v in metrics.items() if k.startswith("seconds")}}
    assert len(metrics["test/bits_per_dim_terms"]["vlb"]) == 40
    assert metrics["test/bits_per_dim_protocol"]["step"] == 12
    # The estimate of the training run and the exact bound are of the same 20 images.
    of_training = json.loads((trained / "metrics.json").read_text())
    error = of_training["test/bits_per_dim_standard_error"]
    assert abs(metrics["test/bits_per_dim"] - of_training["test/bits_per_dim"]) < 4 * error
    assert width(written(trained, "test_bits_per_dim.png")) > 500
    run("evaluate", f"run={trained}", "bound.images=4", "bound.timesteps=8", "dashboard=none")
    assert "test/bits_per_dim_8_steps" in json.loads(written(trained, "metrics.json").read_text())
    assert {path: path.read_bytes() for path in before} == before
    assert len({*trained.glob("drawn/*"), *trained.glob("evaluations/*")} - folders) == 5  # what failed has left none


@pytest.mark.parametrize(
    "idea",
    [
        ["trainer.accumulate_grad_batches=2", "network.dropout=0.1"],
        ["objective=vlb", "timestep_sampler=loss_second_moment", "timestep_sampler.history=1", "data.num_workers=1"],
    ],
)
def test_a_killed_run_resumes_bitwise(tmp_path: Path, idea: list[str]) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = [*QUICK, "logger=csv", *idea]
    run("train", *options, f"hydra.run.dir={whole}")
    arguments = [*options, f"hydra.run.dir={killed}", "resume=auto"]
    process = Process("train", *arguments, printed=tmp_path / "printed.txt")
    deadline = time.monotonic() + 120
    while not (killed / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert checkpoint(killed)["global_step"] < 12
    run("train", *options, f"hydra.run.dir={killed}", "resume=auto")
    a, b = checkpoint(whole), checkpoint(killed)
    assert a["global_step"] == b["global_step"] == 12
    assert same_tensors(a["state_dict"], b["state_dict"])
    for one, two in zip(a["optimizer_states"], b["optimizer_states"], strict=True):
        assert all(same_tensors(one["state"][i], two["state"][i]) for i in one["state"])
    assert scalars(whole) == scalars(killed)
    assert np.array_equal(np.load(whole / "samples.npz")["arr_0"], np.load(killed / "samples.npz")["arr_0"])


def test_what_cannot_be_compiled_is_said(trained: Path, tmp_path: Path) -> None:
    graphs = ["compile=reduce-overhead", "trainer.accumulate_grad_batches=2"]
    assert "overwrite the gradients that accumulate_grad_batches=2 keeps" in run(
        "train", *QUICK, *graphs, f"hydra.run.dir={tmp_path}/run", expect=1
    )
    assert "channels_last=maybe is none of auto, true, false" in run(
        "train", *QUICK, "channels_last=maybe", f"hydra.run.dir={tmp_path}/run", expect=1
    )
    drawn = ["n=2", "compile=true", "sampler.steps=4", f"hydra.run.dir={tmp_path}/drawn"]
    without = {**environment(), "CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels")}
    found = subprocess.run(command("sample", f"run={trained}", *drawn), env=without, capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr.strip().splitlines()[-1].startswith("error: compile=true builds kernels with a C++ compiler")


def test_passes_over_the_data_labels_and_mixed_precision(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = [
        "trainer.max_steps=null",
        "trainer.max_epochs=1",
        "+data.first=90",
        "data.batch_size=32",
        "class_conditional=true",
    ]
    options += ["trainer.precision=bf16-mixed", "channels_last=true", "ema_rates=[0.9,0.99]", "logger=tensorboard"]
    run("train", *QUICK, *options, f"hydra.run.dir={folder}")
    state = checkpoint(folder)["state_dict"]
    assert checkpoint(folder)["global_step"] == 3  # 90 images
    assert int(state["emas.1._extra_state"]) == 3
    assert state["denoiser.network.conv_in.weight"].dtype == torch.float32
    assert list((folder / "tensorboard").glob("events*"))
    run("sample", f"run={folder}", "n=12", "weights=1", "sampler=ancestral", "sampler.spacing=[2,1]")
    with np.load(written(folder, "samples.npz")) as arrays:
        assert arrays["arr_1"].tolist() == [*range(10), 0, 1]


def test_two_ranks_train_one_model(tmp_path: Path) -> None:
    options = [*QUICK, "logger=csv", "objective=vlb", "timestep_sampler=loss_second_moment", "trainer.accelerator=cpu"]
    one, two = tmp_path / "one", tmp_path / "two"
    run("train", *options, f"hydra.run.dir={one}")
    run("train", *options, "trainer=ddp", "trainer.devices=2", "callbacks.sample_grid.n=7", f"hydra.run.dir={two}")
    state = checkpoint(two)["state_dict"]
    # 12 steps of a global batch of 16, from both ranks, are in the one history.
    assert (
        int(state["timesteps.counts"].sum()) == 12 * 16 == int(checkpoint(one)["state_dict"]["timesteps.counts"].sum())
    )
    assert np.load(two / "samples.npz")["arr_0"].shape[0] == 7
    # The bound of the untrained first steps is that of one process: the same test images, counted once.
    names = [[row[:2] for row in scalars(folder) if row[1].startswith("val/")] for folder in (one, two)]
    assert names[0] == names[1]


def test_a_sweep_ends_with_a_table(tmp_path: Path) -> None:
    output = run(
        "train",
        "-m",
        "schedule=linear,cosine",
        "objective=simple,hybrid",
        *[option for option in QUICK if "max_steps" not in option],
        "trainer.max_steps=2",
        f"hydra.sweep.dir={tmp_path}/sweep",
    )
    assert "results of the sweep" in output
    with (tmp_path / "sweep" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert all(float(row["test/bits_per_dim"]) > 0 for row in rows)
    groups = [keys_of(file)["group"] for file in tmp_path.glob("sweep/*/wandb/offline-run-*/*.wandb")]
    assert groups == [{"sweep"}] * 4


MISUSES = [
    ("train", ["shedule=cosine"], "did you mean schedule?"),
    ("train", ["schedule=cosin"], "did you mean cosine? choices: constant, cosine"),
    ("train", ["trainer.max_step=3"], "did you mean trainer.max_steps?"),
    ("train", ["experiments=nichol2021/x"], "choices: dhariwal2021/digits"),
    ("train", ["data=cifar10"], "unpack it in"),
    ("train", ["objective=hybrid", "variance=fixed_small"], "set variance=learned_range"),
    ("train", ["variance=learned"], "objective=hybrid"),
    ("train", ["network.channel_mult=[1,1,1,1,1]"], "cannot be halved"),
    ("train", ["data.image_size=9"], "set data.channels and data.image_size"),
    ("train", ["sampler.steps=2000"], "take between 1 and 1000"),
    ("train", ["data.batch_size=0"], "must be positive"),
    ("train", ["trainer.accelerator=gpu"], "this machine has no GPU"),
    ("train", ["resume=nowhere.ckpt"], "neither auto, last nor a checkpoint"),
    ("train", ["objective=vlb", "weighting=snr"], "leave weighting=uniform"),
    ("train", ["class_conditional=true", "data.num_classes=null"], "needs labels"),
    ("sample", [], "give one of run=…"),
    ("sample", ["run=nowhere"], "is not a run folder"),
]


@pytest.mark.parametrize(
    ("door", "arguments", "sentence"), MISUSES, ids=lambda value: "-".join(value) if value else None
)
def test_misuse_is_told_in_a_sentence(tmp_path: Path, door: str, arguments: list[str], sentence: str) -> None:
    if door == "train":
        arguments = [*arguments, "logger=csv", f"data_root={tmp_path}", f"hydra.run.dir={tmp_path}/run"]
    output = run(door, *arguments, expect=1)
    assert sentence in output
    assert "Traceback" not in output
    assert output.strip().splitlines()[-1].startswith("error: ")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "may write to" in run("train", f"hydra.run.dir={tmp_path}/file/run", expect=1)


def test_foreign_and_damaged_checkpoints(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_bytes((trained / "config.yaml").read_bytes())
    whole = (trained / "checkpoints" / "last.ckpt").read_bytes()
    target = folder / "checkpoints" / "last.ckpt"
    assert "has no checkpoint yet" in run("sample", f"run={folder}", expect=1)
    target.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as a checkpoint" in run("sample", f"run={folder}", expect=1)
    torch.save({"weights": torch.zeros(1)}, target)
    assert "not a checkpoint of train.py" in run("sample", f"run={folder}", expect=1)
    target.write_bytes(whole)
    other = run(
        "train",
        *QUICK,
        "network.num_res_blocks=2",
        "objective=hybrid",
        "resume=auto",
        f"hydra.run.dir={folder}",
        expect=1,
    )
    assert "is of another model" in other
    assert target.read_bytes() == whole


def imported(door: str, *arguments: str) -> set[str]:
    """The modules that a door has imported when it ends."""
    code = (
        f"import sys, runpy; sys.argv = ['{door}.py'] + sys.argv[1:]\n"
        f"try: runpy.run_path('{door}.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('IMPORTED', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split("IMPORTED")[1].split())


def test_sampling_imports_no_trainer(trained: Path) -> None:
    modules = imported("sample", f"run={trained}", "n=2", "sampler.steps=2")
    assert "torch" in modules
    assert not {"lightning", "torchvision", "torchmetrics", "torch_fidelity", "wandb", "sklearn"} & modules


@pytest.mark.parametrize("arguments", [["--help"], ["shedule=cosine"], ["--cfg", "job"]])
def test_answers_about_options_import_nothing_heavy(arguments: list[str]) -> None:
    modules = imported("train", *arguments)
    assert "hydra" in modules
    assert not {"torch", "lightning", "numpy", "wandb"} & modules
