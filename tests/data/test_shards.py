"""Tar shards, written by webdataset itself."""

import io
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


def read(folder: Path, pattern: str = "train-*.tar"):
    return webdataset(folder, "train", pattern, "test-*.tar", 8, 3, folder / "cache")


def test_images_and_classes_are_found_in_any_order(shards):
    images, labels = read(shards).__getitems__([9, 0, 4, 4])
    assert images[:, 0, 0, 0].tolist() == [90, 0, 40, 40]
    assert images.shape == (4, 3, 8, 8)
    assert labels.tolist() == [0, 9, 5, 5]


def test_the_index_is_kept_and_made_anew_for_other_shards(shards):
    assert len(read(shards)) == 10
    (kept,) = (shards / "cache").glob("shards-*.npy")
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
    with pytest.raises(ValueError, match=r"train-001\.tar has a class that is no number"):
        read(shards)
    (shards / "train-001.tar").write_bytes(whole)
    images = read(shards)
    broken = bytearray(whole)
    at = int(images.index.offset[4])
    broken[at : at + 30] = bytes(30)
    (shards / "train-001.tar").write_bytes(broken)
    with pytest.raises(ValueError, match=rf"at byte {at} of .*train-001\.tar"):
        images.__getitems__([4])
