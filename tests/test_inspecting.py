"""What train.py tells of a data set, in full and at the start of a run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from ddpm_lab.folders import COMMAND, folder_of_this_command
from ddpm_lab.tasks.inspecting import briefly, inspect
from tests.doors import QUICK, ROOT, run, width

BYTES = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 4), dtype=np.uint8)


def icons(root: Path) -> Path:
    """39 icons of two classes in train and test; two test images are copies, one of each kind cannot be read."""
    for k, image in enumerate(BYTES[:39]):
        path = root / ("train" if k < 30 else "test") / ("cat" if k % 3 else "dog") / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image if k % 2 else image[..., :3]).save(path)
    for k, name in enumerate(("train/cat/01.png", "train/dog/03.png")):
        Image.open(root / name).save(root / f"test/cat/copy_{k}.webp", lossless=True, exact=True)
    (root / "test/cat/32.png").write_bytes(b"no image")
    return root


def composed(root: Path, **data: object) -> DictConfig:
    """What inspecting needs of a configuration of train.py."""
    of_folder = OmegaConf.load(ROOT / "conf" / "data" / "image_folder.yaml")
    given = {"classes": "folders", "image_size": 16, "num_workers": 0, **data}
    config = OmegaConf.create({"data": OmegaConf.merge(of_folder, given), "data_root": str(root), "seed": 0})
    config.data.dataset.root = str(root)
    assert isinstance(config, DictConfig)
    return config


def test_in_full_every_image_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = icons(tmp_path / "icons")
    with pytest.raises(ValueError, match="1 of 41 images cannot be read: replace or remove them"):
        inspect(composed(root))
    said = capsys.readouterr().out
    assert "image_folder: 30 training and 11 test images, as 16x16 RGB" in said
    assert "their mirror images too (data.mirror=true)" in said
    assert re.search(r"^  classes +2, training \+ test: cat \(20 \+ 7\), dog \(10 \+ 3\)$", said, re.MULTILINE)
    assert re.search(r"^  rare +fewer than 10 test images of", said, re.MULTILINE)
    assert re.search(r"^  sizes +16x16$", said, re.MULTILINE)
    assert re.search(r"^  modes +RGBA 21, RGB 19$", said, re.MULTILINE)
    assert re.search(r"^  transparent +21, over white$", said, re.MULTILINE)
    assert re.search(r"^  equal +2 of 11 test images to training images, as 16x16 pixels$", said, re.MULTILINE)
    assert re.search(r"Cannot read the image \S*test/cat/32\.png", said)

    (root / "test/cat/32.png").unlink()
    inspect(composed(root, mirror=False, image_size=32))
    said = capsys.readouterr().out
    assert "mirror" not in said
    assert re.search(r"^  scaled up +40 with a side of less than 32 pixels$", said, re.MULTILINE)


def test_in_short_what_is_wrong_is_a_warning(tmp_path: Path) -> None:
    config = composed(icons(tmp_path / "icons"), first=4)
    said = briefly(instantiate(config.data))
    assert "30 training (of which 4 are trained on, data.first) and 11 test images" in said
    assert re.search(r"classes 2, training \+ test: cat \(20 \+ 8\), dog \(10 \+ 3\); sizes 16x16; modes RGBA 2", said)
    assert re.search(r"warning: images that cannot be read, at which training stops: \S*/32\.png", said)


def test_a_set_of_two_channels_is_told_trained_and_drawn(tmp_path: Path) -> None:
    pixels = BYTES[:, :8, :8, :2].copy()
    pixels[39] = pixels[0]  # 39 is test
    np.savez(tmp_path / "train.npz", arr_0=pixels)
    data = ["data=npz", f"data.dataset.root={tmp_path}", "data.image_size=8", "data.channels=2"]
    said = run("train", *QUICK, *data, "logger=csv", f"hydra.run.dir={tmp_path}/run", cwd=tmp_path)
    assert "npz: 36 training and 4 test images, as 8x8 grey with alpha; training shows their mirror images too" in said
    assert "warning: 1 of 4 test images are training images too" in said
    assert width(tmp_path / "run" / "samples.png") > 100
    assert np.load(tmp_path / "run" / "samples.npz")["arr_0"].shape == (6, 8, 8, 2)


def test_inspect_true_leaves_nothing_and_tells_what_training_would_meet(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", arr_0=BYTES, arr_1=np.arange(40) % 4)
    options = [
        "data=npz",
        f"data.dataset.root={tmp_path}",
        "data.image_size=16",
        "data.channels=4",
        "data.num_classes=4",
    ]
    said = run("train", "inspect=true", *options, cwd=tmp_path)
    assert re.search(r"^  classes +4, training \+ test: 0 \(10 \+ 0\), 1 \(8 \+ 2\), 2 \(10 \+ 0\)", said, re.MULTILINE)
    assert re.search(r"^  rare +no test image of 0, 2$", said, re.MULTILINE)
    assert re.search(r"^  equal +none", said, re.MULTILINE)
    assert "training" not in said.split("equal")[1]
    assert not list(tmp_path.glob("outputs/*/*"))


def test_a_run_is_found_again_whether_it_tells_its_data_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "earlier" / ".hydra" / "overrides.yaml"
    record.parent.mkdir(parents=True)
    record.write_text("- seed=3\n")
    monkeypatch.setenv(COMMAND, json.dumps(["train.py", "seed=3", "data.inspect=false", "resume=auto"]))
    assert folder_of_this_command(str(tmp_path / "new"), "train") == str(tmp_path / "earlier")
