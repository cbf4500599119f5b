"""One's own folder of images with transparent pixels and classes, from training to drawing and judging."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from tests.doors import QUICK, run

TRANSPARENT = 4


def write(folder: Path, seed: int) -> None:
    """Ten images 8x8, of which four have an alpha that hides bright red."""
    folder.mkdir(parents=True)
    levels = np.random.default_rng(seed).integers(0, 256, (10, 8, 8, 4), np.uint8)
    for k, image in enumerate(levels):
        image[..., 3] = 255
        if k < TRANSPARENT:
            image[:, :4] = (255, 0, 0, 0)
        Image.fromarray(image if k < TRANSPARENT else image[..., :3]).save(folder / f"{k}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own")
    for seed, kind in enumerate(("bird", "cat", "dog")):
        write(root / "pets" / kind, seed)
    set_of = ["data=image_folder", f"data.dataset.root={root}/pets", "data.image_size=8", "data.num_workers=0"]
    choices = ["data.classes=folders", "data.background=black", "class_conditional=true", "logger=csv"]
    printed = run("train", *QUICK, *set_of, *choices, f"hydra.run.dir={root}/run", "trainer.max_steps=4")
    assert "classes 3, training + test: bird (9 + 1), cat (9 + 1), dog (9 + 1)" in printed
    assert "over black" in printed
    return root


def test_classes_are_counted_named_and_kept(trained):
    data = OmegaConf.load(trained / "run" / "config.yaml").data
    assert (data.classes, data.num_classes, list(data.class_names)) == ("folders", 3, ["bird", "cat", "dog"])
    metrics = json.loads((trained / "run" / "metrics.json").read_text())
    assert next(v for k, v in metrics.items() if k.endswith("bits_per_dim_protocol"))["background"] == [0, 0, 0]


def test_a_class_is_drawn_by_its_name_and_images_lie_over_the_background_of_the_run(trained):
    out = trained / "drawn"
    images = [f"images={trained}/pets/cat", "n=10", "labels=cat", "sampler.steps=2"]
    printed = run("sample", f"run={trained}/run", "task=edit", "task.strengths=[0.5]", *images, f"hydra.run.dir={out}")
    assert f"{TRANSPARENT} of 10 images have transparency and are composited over black (background=…)" in printed
    with np.load(out / "edit.npz") as found:
        assert set(found["arr_1"].tolist()) == {1}
        assert sum(not image[:, :4].any() for image in found["source"]) == TRANSPARENT


def test_a_class_that_came_later_shifts_no_label(trained):
    write(trained / "pets" / "ant", 3)
    try:
        printed = run("evaluate", f"run={trained}/run", "bound=fast", "dashboard=none", expect=1)
    finally:
        shutil.rmtree(trained / "pets" / "ant")
    assert "had the classes bird, cat, dog in training and has ant, bird, cat, dog now" in printed
