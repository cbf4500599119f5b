"""Folders as people have them: which files are images, which folders are splits, and what classes are called."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from PIL import Image
from tests.data.test_conf_data import FILES, compose

from ddpm_lab.data.datamodule import DataModule
from ddpm_lab.data.folder import FileSet, image_folder
from ddpm_lab.data.images import read_images
from ddpm_lab.data.listing import images_below


def write(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".txt", ".heic", ""):
            path.write_text("no image")
        else:
            kind = "JPEG" if path.suffix == ".jfif" else None
            Image.fromarray(np.full((8, 8, 3), len(name), np.uint8)).save(path, kind)
    return root


def pets(n: int, below: str = "") -> list[str]:
    return [f"{below}{kind}/{i}.png" for kind in ("cat", "dog") for i in range(n)]


def read(root: Path, split: str = "train", class_of: Any = "folders", **options: Any) -> FileSet:
    return image_folder(root, split, 8, 3, class_of, **options)


def found(root: Path, images: FileSet) -> list[str]:
    return [str(Path(path).relative_to(root)) for path in images.paths]


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation", "Val", "testing"])
def test_folders_called_as_splits_are_the_splits(tmp_path, test):
    write(tmp_path, *pets(3, "train/"), *pets(1, f"{test}/"))
    assert found(tmp_path, read(tmp_path)) == pets(3, "train/")
    assert found(tmp_path, read(tmp_path, "test")) == pets(1, f"{test}/")
    for split in ("train", "test"):
        assert read(tmp_path, split).classes == ("cat", "dog")
        assert read(tmp_path, split).notes == ()


def test_of_test_and_val_it_is_test_and_what_lies_beside_is_told(tmp_path):
    write(tmp_path, *pets(3, "train/"), *pets(1, "val/"), *pets(2, "test/"), "loose.png", "readme.txt")
    assert found(tmp_path, read(tmp_path, "test")) == pets(2, "test/")
    assert read(tmp_path).notes == ("what lies beside train/ and test/ is passed over: loose.png, val/",)


@pytest.mark.parametrize("only", ["train", "val"])
def test_a_split_without_the_other_is_the_whole_set(tmp_path, only):
    write(tmp_path, *pets(10, f"{only}/"))
    images = read(tmp_path)
    assert (len(images), images.classes) == (18, ("cat", "dog"))
    assert images.notes == (f"only {only}/ is there: every tenth of its images is the test split",)


def test_a_class_may_be_called_train_and_its_owner_is_told(tmp_path):
    images = read(write(tmp_path, *pets(10), "train/loco.png", "dog/val/old.png"))
    assert images.classes == ("cat", "dog", "train")
    assert images.notes == (f"folders in {tmp_path} are not taken for splits: train, val",)


def test_folders_that_programs_make_for_themselves_are_no_classes(tmp_path):
    hidden = [".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/cat/._0.png", ".thumbnails/a.png", "cat/@eaDir/0.png"]
    images = read(write(tmp_path, *pets(10), *hidden, "dog/@eaDir/0.png", "cat/._0.png"))
    assert images.classes == ("cat", "dog")
    assert len(images) == 18
    told = "._0.png, .ipynb_checkpoints, .thumbnails, 2 @eaDir, __MACOSX"
    assert images.notes == (f"hidden files and folders are passed over: {told}",)


def test_formats_are_read_or_told(tmp_path):
    many = [f"a/{i}{suffix}" for i, suffix in enumerate((".tif", ".TIFF", ".ppm", ".pgm", ".jfif", ".jpe"))]
    for name in [*many, "a/b.heic", "a/c.heic", "a/c.txt", "a/LICENSE"]:
        if name.endswith((".pgm", ".jpe")):
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name, "PPM" if "pgm" in name else "JPEG")
        else:
            write(tmp_path, name)
    listed = images_below(tmp_path)
    assert listed.paths == sorted(many)
    words = "files that by their endings are no images that can be read are passed over"
    assert listed.notes == (f"{words}: 2 .heic, 1 .txt, 1 without an ending",)
    assert len(read_images(tmp_path).__getitems__([0])[0]) == 1
    assert read_images(tmp_path).notes == listed.notes
    images = read(tmp_path)
    assert images.__getitems__(list(range(len(images))))[0].shape == (5, 3, 8, 8)
    write(tmp_path / "photos", "1.heic")
    with pytest.raises(FileNotFoundError, match=r"No image below .*photos: put \.avif, .* Its files are 1 \.heic\.$"):
        images_below(tmp_path / "photos")


def test_a_link_brings_no_image_twice_and_mixes_no_splits(tmp_path):
    root = write(tmp_path / "set", *pets(2, "train/"), *pets(1, "test/"))
    write(tmp_path / "elsewhere", *pets(1))
    for link, target in (
        ("cat/up", ".."),
        ("all", "../.."),
        ("kitten", "cat"),
        ("cow", tmp_path / "elsewhere" / "dog"),
    ):
        (root / "train" / link).symlink_to(target)
    (root / "train" / "dog" / "linked.png").symlink_to("../cat/0.png")
    (root / "train" / "dog" / "lost.png").symlink_to("nowhere.png")
    (root / "train" / "dog" / "loop").symlink_to("loop")
    images = read(root)
    assert found(root, images) == [
        *("train/cat/0.png", "train/cat/1.png", "train/cow/0.png"),
        *("train/dog/0.png", "train/dog/1.png", "train/dog/linked.png"),
    ]
    assert images.classes == ("cat", "cow", "dog")
    assert images.notes == (
        "links to folders that are read already, or that hold this one, are passed over: all, cat/up, kitten",
        "broken links are passed over: dog/loop, dog/lost.png",
    )


@pytest.mark.parametrize("n", [2, 9])
def test_a_set_of_few_images_has_a_test_image(tmp_path, n):
    write(tmp_path, *[f"{i}.png" for i in range(n)])
    assert found(tmp_path, read(tmp_path, "test", None)) == [f"{n - 1}.png"]
    assert len(read(tmp_path, "train", None)) == n - 1


def test_a_single_image_is_refused_with_the_ways_out(tmp_path):
    with pytest.raises(ValueError, match=r"One image cannot be both .* \(folders ROOT/train and ROOT/test, archives"):
        read(write(tmp_path, "1.png"), class_of=None)


# classes


def datamodule(root: Path, **changes: Any) -> DataModule:
    file = next(file for file in FILES if file.stem == "image_folder")
    return instantiate(compose(file, root, num_workers=0, image_size=8, **changes).data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "images", *[f"{kind}/{k % 2}_{k}.png" for kind in ("bird", "cat", "dog") for k in range(10)])
    return tmp_path


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ("folders", ("bird", "cat", "dog")),
        ("prefix", ("0", "1")),
        ("ddpm_lab.data.folder.folder_name", ("bird", "cat", "dog")),
        ({"_target_": "ddpm_lab.data.folder.name_prefix", "_partial_": True}, ("0", "1")),
        (None, None),
    ],
)
def test_classes_are_counted_and_named(folder, classes, names):
    data = datamodule(folder, classes=classes)
    data.setup("fit")
    assert data.num_classes == (None if names is None else len(names))
    assert data.class_names == names
    assert set(data.images("train").__getitems__(list(range(27)))[1].tolist()) == set(range(len(names or "x")))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"classes": "folders", "num_classes": 5},
            r"has 3 classes \(bird, cat, dog\) where .* data\.num_classes=5: set it to 3\.$",
        ),
        (
            {"num_classes": 5},
            r"has no labels where .* data\.num_classes=5: set it to null, or .* data\.classes=folders\.$",
        ),
        (
            {"classes": "folder"},
            r"data\.classes=folder is no way to name classes: take folders or prefix, or the dotted",
        ),
        (
            {"classes": "no.such.function"},
            r"data\.classes=no\.such\.function cannot be imported \(No module named 'no'\)",
        ),
        ({"classes": "os.nothing"}, r"data\.classes=os\.nothing cannot be imported \(.*no attribute 'nothing'\)"),
        (
            {"classes": "folders", "class_names": ["cat"]},
            r"has the classes bird, cat, dog, and data\.class_names says cat",
        ),
    ],
)
def test_classes_that_there_are_not_are_refused(folder, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        datamodule(folder, **changes).setup("fit")


def test_files_that_name_no_class_are_refused_with_the_other_way(tmp_path):
    with pytest.raises(
        ValueError, match=r"0\.png lies in no class folder: move it into one, or take data\.classes=prefix"
    ):
        read(write(tmp_path, "0.png", "cat_1.png"))
    with pytest.raises(ValueError, match=r"0\.png names no class before an underscore: .*data\.classes=folders"):
        read(tmp_path, class_of="prefix")


def test_names_may_be_given_to_classes_that_have_none(tmp_path):
    np.savez(tmp_path / "train.npz", np.zeros((10, 8, 8, 3), np.uint8), np.arange(10) % 2)
    file = next(file for file in FILES if file.stem == "npz")

    def data(**changes: Any) -> DataModule:
        dataset = {"root": str(tmp_path)}
        return instantiate(compose(file, tmp_path, num_workers=0, image_size=8, dataset=dataset, **changes).data)

    named = data(num_classes=2, class_names=["cat", "dog"])
    named.setup("fit")
    assert named.class_names == ("cat", "dog")
    with pytest.raises(ValueError, match=r"data\.class_names has 3 names and data\.num_classes is 2: name each class"):
        data(num_classes=2, class_names=["cat", "dog", "cow"]).setup("fit")
    np.savez(tmp_path / "train.npz", np.zeros((10, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"npz has no labels where the configuration declares data\.num_classes=2"):
        data(num_classes=2).setup("fit")
