"""Tar shards, written by webdataset itself."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from ddpm_lab.data.datamodule import DataModule
from ddpm_lab.data.shards import webdataset


def picture(i: int) -> np.ndarray:
    """All pixels of one colour, so that an encoder does not change them."""
    return np.full((24, 20, 3), 10 * i, np.uint8)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    with wds.ShardWriter(str(tmp_path / "train-%03d.tar"), maxcount=4, verbose=0) as writer:
        for i in range(10):
            writer.write(
                {"__key__": f"pictures/{i:03d}", "png": picture(i), "cls": 9 - i, "json": {"text": "a picture"}}
            )
    return tmp_path


def read(folder: Path, pattern: str = "train-*.tar", **options):
    return webdataset(folder, "train", pattern, "test-*.tar", 8, 3, folder / "cache", **options)


def png(i: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(i)).save(file, "png")
    return file.getvalue()


def write(path: Path, members: dict[str, bytes | int | object] | list[tuple[str, object]]) -> Path:
    """A shard as any tar program writes it: an int is the picture of that number, other than bytes is written as JSON."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, content in members.items() if isinstance(members, dict) else members:
            data = png(content) if isinstance(content, int) else content
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    return path.parent


def found(images) -> list[tuple[int, int]]:
    """The pictures' numbers and labels."""
    pixels, labels = images.__getitems__(list(range(len(images))))
    return list(zip((pixels[:, 0, 0, 0] // 10).tolist(), labels.tolist(), strict=True))


def test_images_and_classes_are_found_in_any_order(shards):
    images, labels = read(shards).__getitems__([9, 0, 4, 4])
    assert images[:, 0, 0, 0].tolist() == [90, 0, 40, 40]
    assert images.shape == (4, 3, 8, 8)
    assert labels.tolist() == [0, 9, 5, 5]


def test_the_index_is_kept_and_made_anew_for_other_shards(shards):
    assert len(read(shards)) == 10
    (kept,) = (shards / "cache").glob("shards-*.npz")
    time = kept.stat().st_mtime_ns
    assert len(read(shards)) == 10
    assert kept.stat().st_mtime_ns == time
    with wds.TarWriter(str(shards / "train-000.tar")) as writer:
        writer.write({"__key__": "new", "png": picture(7)})
    images = read(shards)
    assert len(images) == 7
    pixels, labels = images.__getitems__([0])
    assert (int(pixels[0, 0, 0, 0]), int(labels[0])) == (70, 0)
    assert len(list((shards / "cache").iterdir())) == 2
    for index in (shards / "cache").iterdir():
        index.write_bytes(index.read_bytes()[:100])
    assert len(read(shards)) == 7


def test_a_set_goes_to_workers_and_the_stream_starts_anywhere(shards):
    images = pickle.loads(pickle.dumps(read(shards)))

    def stream(samples: int, workers: int) -> list[int]:
        data = DataModule(
            name="shards", dataset=lambda split: images, image_size=8, channels=3, num_classes=10, batch_size=3,
            test_batch_size=4, num_workers=workers, mirror=False, seed=1,
        )  # fmt: skip
        data.load_state_dict({"samples": samples})
        loader = iter(data.train_dataloader())
        return [label for _ in range(4) for label in next(loader)[1].tolist()]

    whole = stream(0, 0)
    assert sorted(whole[:10]) == list(range(10))
    assert stream(6, 2)[:6] == whole[6:]


def test_damage_is_told(shards):
    with pytest.raises(FileNotFoundError, match=r"No shard nothing-\*\.tar in .*data\.dataset\.train"):
        read(shards, "nothing-*.tar")
    whole = (shards / "train-001.tar").read_bytes()
    (shards / "train-001.tar").write_bytes(whole[:700])
    with pytest.raises(ValueError, match=r"train-001\.tar (cannot be read as an uncompressed tar file|is cut off)"):
        read(shards)
    (shards / "train-001.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(ValueError, match=r"train-001\.tar cannot be read as an uncompressed tar file"):
        read(shards)
    file = io.BytesIO()
    Image.fromarray(picture(1)).save(file, "png")
    with tarfile.open(shards / "train-001.tar", "w") as shard:
        for name, content in (("a.png", file.getvalue()), ("a.cls", b"cat")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    with pytest.raises(ValueError, match=r"train-001\.tar: a\.cls has a class that is no number \('cat'\)"):
        read(shards, num_classes=10)
    assert len(read(shards)) > 1  # where no classes are meant, nothing is asked of them
    for pattern in (f"{shards}/train-*.tar", ""):
        with pytest.raises(ValueError, match=r"named by a pattern below data\.dataset\.root, such as"):
            read(shards, pattern)
    (shards / "train-001.tar").write_bytes(whole)
    images = read(shards)
    broken = bytearray(whole)
    at = int(images.index.offset[4])
    broken[at : at + 30] = bytes(30)
    (shards / "train-001.tar").write_bytes(broken)
    with pytest.raises(ValueError, match=rf"at byte {at} of .*train-001\.tar"):
        images.__getitems__([4])


# what other programs than webdataset write


@pytest.mark.parametrize("image", ["img.png", ".IMG.png"])
def test_of_several_images_of_a_sample_one_is_named(tmp_path, image):
    members = {f"{i:04}.{what}.png": n for i in range(2) for what, n in (("img", i), ("mask", 20 + i))}
    root = write(tmp_path / "train-0.tar", {**members, "0001.cls": b"3"})
    with pytest.raises(
        ValueError, match=r"0000 has several images \(img\.png, mask\.png\): choose one with data\.dataset\.image="
    ):
        read(root)
    assert found(read(root, image=image)) == [(0, 0), (1, 3)]
    with pytest.raises(
        ValueError, match=r"has an image \.jpg: its members end in \.cls, \.img\.png, \.mask\.png; name the"
    ):
        read(root, image="jpg")


def test_a_dot_before_a_number_is_part_of_the_name(tmp_path):
    names = ["img_0.5_a", "img_0.7_b", "b/1.2.3"]
    members = {
        f"{name}.{kind}": i if kind == "png" else b"%d" % i for i, name in enumerate(names) for kind in ("png", "cls")
    }
    images = read(write(tmp_path / "train-0.tar", members), num_classes=3)
    assert found(images) == [(0, 0), (1, 1), (2, 2)]
    assert images.notes == ("dots before a number are part of the sample's name: 3",)
    write(tmp_path / "train-0.tar", {"0000.0.png": 0, "0000.1.png": 1, "0000.cls": b"1"})
    with pytest.raises(ValueError, match=r"has samples 0000 and 0000\.0, and what is called 0000\.0… may be of either"):
        read(tmp_path)


def test_a_name_that_is_there_twice_is_refused(tmp_path):
    root = write(tmp_path / "train-0.tar", [("a.png", 1), ("b.png", 2), ("a.PNG", 3)])
    with pytest.raises(ValueError, match=r"train-0\.tar has a\.png twice: write each member once"):
        read(root)


def test_a_name_may_come_again_in_another_shard(tmp_path):
    for k in range(2):
        root = write(tmp_path / f"train-{k}.tar", {"a.png": k, "b.png": 2 + k})
    images = read(root)
    assert found(images) == [(0, 0), (2, 0), (1, 0), (3, 0)]
    assert images.notes == ("samples of one name in several shards, each of them read: 2",)


@pytest.mark.parametrize(
    ("ending", "content", "options"),
    [
        ("cls", b"7\n", {}),
        ("CLS", b"7", {}),
        ("cls.txt", b" 7 ", {}),
        ("json", {"label": 7}, {}),
        ("json", {"cls": 7.0, "text": "a"}, {}),
        ("json", {"class": "7"}, {}),
        ("json", {"label": 1, "kind": 7}, {"label": "kind"}),
    ],
)
def test_classes_are_read_wherever_they_are(tmp_path, ending, content, options):
    root = write(tmp_path / "train-0.tar", {"a.png": 1, f"a.{ending}": content})
    assert found(read(root, num_classes=8, **options)) == [(1, 7)]


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        (
            {},
            r"2 of 3 images have no class, the first b in .*train-0\.tar: give each a \.cls .* or set data\.num_classes=null",
        ),
        ({"b.json": {"text": "b"}}, r"2 of 3 images have no class, the first b in"),
        ({"b.json": {"label": "cat"}}, r"b\.json, label has a class that is no number \('cat'\)"),
        ({"b.json": {"label": 0.5}}, r"no number \(0\.5\)"),
        ({"b.json": {"label": True}}, r"no number \(True\)"),
        ({"b.cls": b"-1"}, r"b\.cls has a class that is no number \('-1'\)"),
        ({"b.json": b"{"}, r"b\.json is no JSON"),
    ],
)
def test_an_image_without_a_class_is_not_of_class_0(tmp_path, members, sentence):
    root = write(tmp_path / "train-0.tar", {"a.png": 0, "a.cls": b"1", "b.png": 1, "c.png": 2, **members})
    with pytest.raises(ValueError, match=sentence):
        read(root, num_classes=2)


def test_without_classes_asked_for_none_are_needed(tmp_path):
    root = write(tmp_path / "train-0.tar", {"a.png": 0, "a.json": b"{", "b.png": 1})
    assert found(read(root)) == [(0, 0), (1, 0)]


def test_members_of_the_system_are_passed_over_and_paths_are_one(tmp_path):
    members = {
        "._0.png": b"mac",
        "__MACOSX/b/._0.png": b"mac",
        ".DS_Store": b"",
        "./b/0.png": 1,
        "b/0.cls": b"5",
        "c.txt": b"c",
    }
    images = read(write(tmp_path / "train-0.tar", members), num_classes=6)
    assert found(images) == [(1, 5)]
    assert images.notes == ("samples without an image are passed over: 1", "hidden members are passed over: 3")
    assert read(tmp_path, num_classes=6).notes == images.notes  # which are kept with the index
    assert images.name(0).endswith("train-0.tar")
    assert images.encoded(0) == png(1)
    assert images.look(0)[:3] == (20, 24, "RGB")
