"""Steering by the real command line: train with classes, train the classifier, draw every way there is, misuse it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_lab.data.digits import digits
from ddpm_lab.parts import part
from tests.doors import QUICK, checkpoint, run, scalars, width, written

SHORT = [option for option in QUICK if not option.startswith(("callbacks", "sampler"))]
DRAW = ["sampler.steps=3", "threads=1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("steered")
    recipe = [*QUICK, "experiments=ho2022_cfg/digits"]
    options = {
        "conditional": recipe,
        "undropped": [*recipe, "label_dropout=0"],
        "classifier": [*SHORT, "experiments=dhariwal2021/digits_classifier", "callbacks.noisy_accuracy.images=40"],
    }
    for name, arguments in options.items():
        run("train", *arguments, f"hydra.run.dir={folder / name}")
    other = folder / "other_noise"  # the classifier, as if it had been trained on another schedule
    shutil.copytree(folder / "classifier", other)
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("s: 0.008", "s: 0.02"))
    return {"plain": trained} | {name: folder / name for name in [*options, "other_noise"]}


def drawn(folder: Path, name: str) -> np.lib.npyio.NpzFile:
    assert width(written(folder, f"{name}.png")) > 100
    return np.load(written(folder, f"{name}.npz"))


def protocol_of(folder: Path, name: str) -> dict:
    return json.loads(written(folder, f"{name}.json").read_text())["protocol"]


def test_a_classifier_is_trained_like_any_model(runs: dict[str, Path]) -> None:
    folder = runs["classifier"]
    metrics = json.loads((folder / "metrics.json").read_text())
    quartiles = [metrics[f"test/accuracy_q{q}"] for q in range(4)]
    assert metrics["test/accuracy"] == pytest.approx(sum(quartiles) / 4)
    assert 0 <= min(quartiles) <= max(quartiles) <= 1
    assert metrics["test/loss"] > 0
    assert metrics["test/accuracy_protocol"]["images"] == "40 of 299, seed 0, test images of digits"
    names = {row[1] for row in scalars(folder)}
    assert {"train/accuracy", "val/accuracy", "val/accuracy_q0", "train/accuracy_q3", "test/accuracy"} <= names
    assert width(folder / "accuracy.png") > 100
    assert any("emas.0" in key for key in checkpoint(folder)["state_dict"])


def test_a_classifier_resumes_and_says_what_has_no_part(runs: dict[str, Path], tmp_path: Path) -> None:
    options = [*SHORT, "experiments=dhariwal2021/digits_classifier", "callbacks.noisy_accuracy.images=40"]
    folder = f"hydra.run.dir={tmp_path}/run"
    told = "digits: 1,498 training and 299 test images"
    assert told in run("train", *options, "trainer.max_steps=6", "lr_scheduler.total=12", folder)
    said = run("train", *options, "resume=auto", "data.inspect=false", "lr_scheduler.total=12", folder)
    assert "resumed at step 6" in said
    assert told not in said
    whole = checkpoint(runs["classifier"])["state_dict"]
    resumed = checkpoint(tmp_path / "run")["state_dict"]
    assert all((whole[key] == resumed[key]).all() for key in whole)
    refused = run("train", "task=classifier", "objective=hybrid", f"hydra.run.dir={tmp_path}/other", expect=1)
    assert "objective=hybrid has no part in task=classifier" in refused


def test_a_grid_for_each_class(runs: dict[str, Path]) -> None:
    guided = ["task=classes", "guidance=classifier_free", "guidance.scale=1.0"]
    run("sample", f"run={runs['conditional']}", "n=8", *guided, *DRAW)
    with drawn(runs["conditional"], "classes") as arrays:
        assert arrays["arr_0"].shape == (80, 8, 8, 1)
        assert arrays["arr_1"].tolist() == [label for label in range(10) for _ in range(8)]
    protocol = protocol_of(runs["conditional"], "classes")
    assert protocol["guidance"] == "classifier_free"
    assert protocol["guidance.scale"] == 1.0


@pytest.mark.parametrize(
    ("task", "name", "options"),
    [
        ("inpaint", "inpaint", ["guidance=classifier_free", "task.jump_length=1"]),
        ("inpaint", "inpaint", ["task.mask=every_second", "sampler=ancestral", "task.resamples=1"]),
        ("interpolate", "interpolate", ["task.t=[0,20,40]"]),
        ("interpolate_latents", "interpolate_latents", []),
        ("edit", "edit", ["labels=3", "guidance=classifier_free", "guidance.interval=[1,20]"]),
        ("invert", "invert", ["task.steps=[3,6]"]),
        ("consistency", "consistency", ["task.steps=[3,6]"]),
        ("vary", "vary", ["task.variations=3"]),
        ("progressive", "progressive", ["labels=none", "images=nowhere"]),
        (
            "generate",
            "samples",
            ["labels=[0,3]", "guidance=autoguidance", "guidance.weak=ITSELF", "guidance.weights=raw"],
        ),
    ],
)
def test_every_task(runs: dict[str, Path], task: str, name: str, options: list[str]) -> None:
    given = [option.replace("ITSELF", str(runs["conditional"])) for option in options]
    said = run("sample", f"run={runs['conditional']}", f"task={task}", "n=2", *DRAW, *given)
    protocol = protocol_of(runs["conditional"], name)
    of_images = {"inpaint", "invert"}
    unlabelled = {"interpolate", "interpolate_latents", "progressive"}
    assert protocol["labels"].startswith(
        "those of the images" if task in of_images else "none" if task in unlabelled else "in turn: "
    )
    from_images = task in {"inpaint", "interpolate", "interpolate_latents", "edit", "invert"}
    assert (protocol["sources"] is not None) == from_images
    assert protocol["images"] is None
    assert ("note: images=nowhere has no part in task=progressive" in said) == (task == "progressive")
    with drawn(runs["conditional"], name) as arrays:
        assert arrays["arr_0"].dtype == np.uint8
        assert len(arrays["arr_0"]) == len(arrays["arr_1"])
        if task == "inpaint":
            mask = arrays["mask"]
            assert np.array_equal(arrays["arr_0"][:, mask], arrays["source"].repeat(4, 0)[:, mask])
        if task == "generate":
            assert arrays["arr_1"].tolist() == [0, 3]
    if task in ("edit", "invert", "consistency", "vary"):
        assert width(written(runs["conditional"], f"{name}_error.png")) > 100


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_a_classifier_guides_an_unconditional_model(runs: dict[str, Path], sampler: str) -> None:
    guidance = ["guidance=classifier", f"guidance.classifier={runs['classifier']}", "guidance.scale=5"]
    images = []
    for label in (1, 4):
        run("sample", f"run={runs['plain']}", "n=2", f"labels={label}", f"sampler={sampler}", *DRAW, *guidance)
        with drawn(runs["plain"], "samples") as arrays:
            assert arrays["arr_1"].tolist() == [label, label]
            images.append(arrays["arr_0"])
    assert not np.array_equal(*images)
    run("sample", f"run={runs['conditional']}", "task=classes", "n=1", *DRAW, *guidance, "guidance.unconditional=true")


def test_callbacks_of_another_task_are_refused(tmp_path: Path) -> None:
    for options, sentence in (
        (["task=classifier", "callbacks=default"], "callbacks.sample_grid has nothing to do in task=classifier"),
        (["callbacks=classifier"], "callbacks.noisy_accuracy has nothing to do in task=diffusion"),
    ):
        assert sentence in run("train", *options, "logger=csv", f"hydra.run.dir={tmp_path}/no", expect=1)
    debug = ["task=classifier", "debug=one_batch", "logger=csv", "threads=1"]
    run("train", *debug, "callbacks.noisy_accuracy.images=8", f"hydra.run.dir={tmp_path}/debug")


def test_the_protocol_holds_the_task_and_its_guidance(runs: dict[str, Path]) -> None:
    guided = ["guidance=autoguidance", f"guidance.weak={runs['conditional']}", "guidance.weights=raw"]
    run("sample", f"run={runs['conditional']}", "task=inpaint", "n=1", "task.jump_length=1", *DRAW, *guided)
    protocol = protocol_of(runs["conditional"], "inpaint")
    assert protocol["task"] == {"name": "inpaint", "mask": "half", "fillings": 4, "jump_length": 1, "resamples": 10}
    assert (protocol["guidance.weak"], protocol["guidance.weights"]) == (str(runs["conditional"]), "raw")
    run("sample", f"run={runs['conditional']}", "task=consistency", "n=1", "task.steps=[2,3]", *DRAW)
    assert protocol_of(runs["conditional"], "consistency")["steps"] == [2, 3]


def test_where_nothing_is_drawn_nothing_is_steered(runs: dict[str, Path]) -> None:
    said = run("evaluate", f"run={runs['conditional']}", "guidance=classifier_free", "bound=none", expect=1)
    assert "add n=…" in said
    said = run("sample", f"run={runs['conditional']}", "task=interpolate", "n=1", "guidance=classifier_free", *DRAW)
    assert "without labels guidance has nothing to guide towards" in said


def test_images_from_files(runs: dict[str, Path], tmp_path: Path) -> None:
    pixels, _ = digits("test").__getitems__([*range(6)])
    chosen = pixels.permute(0, 2, 3, 1).numpy()[part(6, 4, seed=0)]
    for k, image in enumerate(pixels):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{k}.png")
    np.savez(tmp_path / "images.npz", pixels.permute(0, 2, 3, 1).numpy())
    found = []
    for source in (tmp_path, tmp_path / "images.npz"):
        run("sample", f"run={runs['plain']}", "task=edit", f"images={source}", "n=4", *DRAW)
        with drawn(runs["plain"], "edit") as arrays:
            assert np.array_equal(arrays["source"], chosen)
            found.append(arrays["arr_0"])
        protocol = protocol_of(runs["plain"], "edit")
        assert protocol["sources"] == f"4 of 6, seed 0, of images={source}"
    assert np.array_equal(*found)
    run("sample", f"run={runs['plain']}", "task=invert", "task.steps=[3]", f"images={tmp_path}/0.png", "n=1", *DRAW)


def test_guided_images_are_judged_and_drawn_over_the_scale(runs: dict[str, Path], tmp_path: Path) -> None:
    options = ["n=20", "bound=none", "features=classifier", "features.steps=20", "dashboard=none", "pictures=false"]
    guided = [
        "guidance=classifier_free",
        "guidance.scale=0,2",
        f"cache={tmp_path}/cache",
        f"hydra.sweep.dir={tmp_path}",
    ]
    run("evaluate", "-m", f"run={runs['conditional']}", *options, *guided, *DRAW)
    assert width(tmp_path / "metrics_vs_scale.png") > 100
    found = json.loads(next(tmp_path.glob("*guidance.scale=2*/metrics.json")).read_text())
    protocol = found["fid20_protocol"]
    assert (protocol["guidance"], protocol["guidance.scale"]) == ("classifier_free", 2.0)
    assert protocol["labels"] == "in turn: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"


MISUSES = [
    ("conditional", ["labels=99"], "labels=99 is none of this model's classes 0 to 9"),
    ("conditional", ["labels=[0,-1]"], "labels=-1 is none of"),
    ("conditional", ["labels=cat"], "labels=cat is none of"),
    ("conditional", ["labels=1.5"], "labels=1.5 is none of"),
    ("plain", ["labels=3"], "cannot be asked of an unconditional model"),
    ("plain", ["guidance=classifier_free"], "this run is unconditional: train with class_conditional=true"),
    ("undropped", ["guidance=classifier_free"], "was trained without dropping labels"),
    (
        "conditional",
        ["guidance=classifier_free", "labels=none"],
        "guides towards a class, and labels=none asks for none",
    ),
    ("conditional", ["data=digits"], "brings its own data set, so that data=digits has no part"),
    ("undropped", ["labels=none"], "needs a model trained with label_dropout"),
    ("plain", ["task=classes"], "needs a model with classes"),
    ("conditional", ["guidance=classifier_free", "guidance.scale=much"], "guidance.scale=much is not a number"),
    ("conditional", ["guidance=classifier_free", "guidance.scale=nan"], "guidance.scale=nan is not a number"),
    ("conditional", ["guidance=classifier_free", "guidance.interval=[9,3]"], "lowest <= highest"),
    ("conditional", ["guidance=classifier_free", "guidance.interval=9"], "is to be two timesteps"),
    ("conditional", ["task=inpaint"], "a walk of 3 steps has no room for jumps of jump_length=10"),
    ("conditional", ["n=few"], "n=few must be a whole number of at least 1"),
    ("conditional", ["guidance=classifier"], "guidance.classifier=… must be given"),
    ("conditional", ["guidance=classifier", "guidance.classifier=PLAIN"], "is a run of task=diffusion"),
    (
        "conditional",
        ["guidance=classifier", "guidance.classifier=OTHER"],
        "was trained on another schedule (cosine with T=40, s=0.02",
    ),
    ("undropped", ["guidance=classifier", "guidance.classifier=CLASSIFIER", "guidance.unconditional=true"], "has none"),
    ("conditional", ["guidance=autoguidance", "guidance.weak=PLAIN"], "knows other labels"),
    ("conditional", ["guidance=autoguidance", "guidance.weak=null"], "guidance.weak=… must be given"),
    ("conditional", ["task=consistency", "task.steps=[2,3]", "sampler=ancestral"], "sampler=ddim sampler.eta=0"),
    ("classifier", [], "is a run of task=classifier and one of task=diffusion is needed here"),
    ("conditional", ["task=inpaint", "task.mask=WRONG"], "has 9x9 pixels and the images 8x8"),
    ("conditional", ["task=inpaint", "task.mask=midle"], "none of half, centre"),
    ("conditional", ["task=edit", "images=WRONG", "n=1"], "(C, H, W) = (1, 9, 9) and the model makes (1, 8, 8)"),
    ("conditional", ["task=edit", "images=nowhere"], "neither a folder of images, nor"),
    ("conditional", ["task=edit", "n=300"], "300 images are needed and the test split of digits has 299"),
    ("undropped", ["task=interpolate"], "add labels=…"),
    ("conditional", ["task=vary", "sampler=ddim"], "sampler=ancestral"),
    ("conditional", ["task=clases"], "did you mean classes?"),
    ("conditional", ["task=inpaint", "task.masc=half"], "did you mean task.mask?"),
    ("conditional", ["guidance=clasifier"], "did you mean classifier?"),
]


@pytest.mark.parametrize(("name", "options", "sentence"), MISUSES, ids=[" ".join(options) for _, options, _ in MISUSES])
def test_misuse_is_told_before_anything_is_drawn(
    runs: dict[str, Path], tmp_path: Path, name: str, options: list[str], sentence: str
) -> None:
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(tmp_path / "wrong.png")
    places = {
        "PLAIN": runs["plain"],
        "OTHER": runs["other_noise"],
        "CLASSIFIER": runs["classifier"],
        "WRONG": tmp_path / "wrong.png",
    }
    given = [next((o.replace(k, str(v)) for k, v in places.items() if k in o), o) for o in options]
    output = run("sample", f"run={runs[name]}", *given, f"hydra.run.dir={tmp_path}/out", *DRAW, expect=1)
    assert sentence in output
    assert "Traceback" not in output
    assert output.strip().splitlines()[-1].startswith("error: ")
    assert not list((tmp_path / "out").glob("*.npz"))
