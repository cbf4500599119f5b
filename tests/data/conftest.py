"""Every data set, tiny, in the format in which it is published."""

import gzip
import hashlib
import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

Noise = Callable[..., np.ndarray]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(name="noise", scope="session")
def _noise() -> Noise:
    """The pixels that were written: a function of shape and seed."""
    return noise


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder: Path, pack: bool) -> None:
    folder.mkdir(parents=True)
    for stem, n in (("train", 6), ("t10k", 4)):
        for kind, array in (("images-idx3", noise(n, 28, 28)), ("labels-idx1", np.arange(n, dtype=np.uint8))):
            content = idx(array)
            name = f"{stem}-{kind}-ubyte"
            (folder / (f"{name}.gz" if pack else name)).write_bytes(gzip.compress(content) if pack else content)


def write_pickle(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def write_cifar(root: Path) -> None:
    ten, hundred = root / "cifar-10-batches-py", root / "cifar-100-python"
    for k, name in enumerate(
        ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
    ):
        write_pickle(ten / name, {"data": noise(2, 3072, seed=k), "labels": [k, 9 - k]})
    write_pickle(ten / "batches.meta", {"label_names": [str(k) for k in range(10)]})
    for k, name in enumerate(["train", "test"]):
        write_pickle(
            hundred / name, {"data": noise(3, 3072, seed=k), "fine_labels": [99, 0, k], "coarse_labels": [0] * 3}
        )
    write_pickle(hundred / "meta", {"fine_label_names": [str(k) for k in range(100)]})


def write_celeba(root: Path) -> None:
    images = root / "celeba" / "img_align_celeba"
    images.mkdir(parents=True)
    x, y = np.meshgrid(np.arange(178), np.arange(218))
    picture = np.stack([x, y, np.full_like(x, 128)], axis=-1).astype(np.uint8)  # each pixel says where it is
    names = [f"{k:06d}.jpg" for k in range(1, 6)]
    for name in names:
        Image.fromarray(picture).save(images / name, quality=100, subsampling=0)
    rows = [f"{name} {part}\n" for name, part in zip(names, "00012", strict=True)]
    (root / "celeba" / "list_eval_partition.txt").write_text("".join(rows))


def write_webdataset(root: Path) -> None:
    folder = root / "webdataset"
    folder.mkdir()
    for part, shards in (("train", 3), ("test", 1)):
        with webdataset.ShardWriter(str(folder / f"{part}-%06d.tar"), maxcount=7, verbose=0) as writer:
            for i in range(7 * shards):
                writer.write(
                    {"__key__": f"{i:05d}", "jpg": noise(90, 70, 3, seed=i), "cls": i % 5, "json": {"caption": "a"}}
                )


def write_lsun(root: Path) -> None:
    import lmdb

    for part, n in (("train", 5), ("val", 2)):
        folder = root / "lsun" / f"bedroom_{part}_lmdb"
        folder.mkdir(parents=True)
        with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
            for k in range(n):
                buffer = io.BytesIO()
                Image.fromarray(np.full((256, 341, 3), 10 * k, np.uint8)).save(buffer, "webp", lossless=True)
                transaction.put(hashlib.sha1(bytes([n - k])).hexdigest().encode(), buffer.getvalue())


def write_imagenet(root: Path) -> None:
    folder = root / "imagenet64"
    for k in range(1, 11):
        content = {"data": noise(2, 3 * 64 * 64, seed=k), "labels": [k, 1000], "mean": np.zeros(3 * 64 * 64)}
        if k % 2:
            write_pickle(folder / f"train_data_batch_{k}", content)
        else:
            np.savez(folder / f"train_data_batch_{k}.npz", **content)
    write_pickle(folder / "val_data", {"data": noise(3, 3 * 64 * 64), "labels": [1, 2, 3]})


def write_images(folder: Path) -> None:
    for k in range(20):
        path = folder / ("cat" if k < 12 else "dog") / f"{'red' if k % 2 else 'blue'}_{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(64, 64, 3, seed=k)).save(path)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with every data set in it. Not to be written to."""
    root = tmp_path_factory.mktemp("data")
    write_idx(root / "MNIST" / "raw", pack=False)
    write_idx(root / "FashionMNIST" / "raw", pack=True)
    write_cifar(root)
    write_celeba(root)
    write_lsun(root)
    write_webdataset(root)
    write_imagenet(root)
    write_images(root / "images")
    (root / "npz").mkdir()
    np.savez(root / "npz" / "train.npz", arr_0=noise(20, 64, 64, 3), arr_1=np.arange(20))
    return root


@pytest.fixture
def _tiny_cifar_is_genuine(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare the MD5 of the tiny files the published ones: torchvision's check itself stays on."""
    from torchvision.datasets import CIFAR10, CIFAR100

    def md5(folder: str, name: str) -> str:
        return hashlib.md5((data_root / folder / name).read_bytes()).hexdigest()

    for kind in (CIFAR10, CIFAR100):
        for attribute in ("train_list", "test_list"):
            files = [[name, md5(kind.base_folder, name)] for name, _ in getattr(kind, attribute)]
            monkeypatch.setattr(kind, attribute, files)
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(kind.base_folder, kind.meta["filename"])})
