"""Images per second that reach a training loop, from each kind of set: `python -m benchmarks.data_paths`.

The same 64-pixel JPEG images in memory, in files, in an LMDB database and in tar shards; the paths take turns, and the
median and the spread of every round's ratio to memory are printed.
"""

import io
import itertools
import statistics
import tarfile
import tempfile
import time
from pathlib import Path

import lmdb
import numpy as np
import torch
from PIL import Image

from ddpm_lab.data.datamodule import DataModule
from ddpm_lab.data.decoding import centre_crop
from ddpm_lab.data.folder import image_folder
from ddpm_lab.data.lsun import LmdbSet
from ddpm_lab.data.memory import MemorySet
from ddpm_lab.data.shards import webdataset

N, SIZE, BATCH, ROUNDS, SECONDS = 4000, 64, 128, 7, 1.5


def jpegs() -> list[bytes]:
    """Smooth random images, of the file size of photographs."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(N):
        small = Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(file, "jpeg", quality=92)
        found.append(file.getvalue())
    return found


def datasets(folder: Path) -> dict[str, object]:
    """The same images in every form, in `folder`."""
    images = jpegs()
    files = folder / "files" / "train"
    files.mkdir(parents=True)
    (folder / "files" / "test").mkdir()
    for i, image in enumerate(images):
        (files / f"{i:05d}.jpg").write_bytes(image)
    (folder / "files" / "test" / "0.jpg").write_bytes(images[0])
    with lmdb.open(str(folder / "lmdb"), map_size=2**30) as database, database.begin(write=True) as transaction:
        for i, image in enumerate(images):
            transaction.put(f"{i:05d}".encode(), image)
    for k in range(4):
        with tarfile.open(folder / f"train-{k}.tar", "w") as shard:
            for i in range(k, N, 4):
                member = tarfile.TarInfo(f"{i:05d}.jpg")
                member.size = len(images[i])
                shard.addfile(member, io.BytesIO(images[i]))
    in_files = image_folder(folder / "files", "train", SIZE, 3)
    in_memory, _ = in_files.__getitems__(list(range(N)))
    return {
        "memory": MemorySet(in_memory),
        "files": in_files,
        "lmdb": LmdbSet(folder / "lmdb", 3, centre_crop(SIZE)),
        "tar shards": webdataset(folder, "train", "train-*.tar", "train-*.tar", SIZE, 3, folder / "cache"),
    }


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sets = datasets(Path(folder))
        for workers in (0, 2):
            loaders = {}
            for name, images in sets.items():
                data = DataModule(
                    name=name, dataset=lambda split, images=images: images, image_size=SIZE, channels=3, num_classes=None,
                    batch_size=BATCH, test_batch_size=BATCH, num_workers=workers, mirror=False, seed=0,
                )  # fmt: skip
                loaders[name] = iter(data.train_dataloader())
                for _ in range(2 + 4 * workers):
                    next(loaders[name])
            rates: dict[str, list[float]] = {name: [] for name in loaders}
            for _, (name, loader) in itertools.product(range(ROUNDS), loaders.items()):
                start, seen = time.perf_counter(), 0
                while time.perf_counter() - start < SECONDS:
                    seen += len(next(loader)[0])
                rates[name].append(seen / (time.perf_counter() - start))
            print(f"{SIZE} pixels, batch {BATCH}, num_workers={workers}, median of {ROUNDS} rounds:")
            for name, found in rates.items():
                ratios = [rate / memory for rate, memory in zip(found, rates["memory"], strict=True)]
                print(
                    f"  {name:10}  {statistics.median(found):9.0f} images/s   {statistics.median(ratios):.4f} of memory "
                    f"({min(ratios):.4f} to {max(ratios):.4f})"
                )


if __name__ == "__main__":
    main()
