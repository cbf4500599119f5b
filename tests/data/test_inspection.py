"""Looking at a set: every image of it in full, some of them at the start of a run, whatever kind of set it is."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddpm_lab.data import inspection
from ddpm_lab.data.decoding import centre_crop
from ddpm_lab.data.folder import FileSet
from ddpm_lab.data.inspection import Copies, Split, copies, copies_across, examine, glance
from ddpm_lab.data.memory import Batch, MemorySet


def noise(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


class Plain:
    """No more than the contract asks for."""

    def __init__(self, images: MemorySet) -> None:
        self.hidden = images

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitems__(self, indices: list[int]) -> Batch:
        return self.hidden.__getitems__(indices)


def examined(images, mirror: bool = False, workers: int = 0) -> Split:
    *_, found = examine(images, lambda batch: batch, 16, workers, mirror)
    return found


def test_a_set_of_the_barest_contract_is_inspected() -> None:
    images = noise(150, 1, 4, 4)
    images[140] = images[3]
    plain = Plain(MemorySet(images, torch.arange(150) % 3))
    found = examined(plain)
    assert (found.n, found.looked, found.labels) == (150, 150, Counter({0: 50, 1: 50, 2: 50}))
    assert not found.sizes
    assert not found.unreadable
    train, test = glance([plain, plain], 16)
    assert (train.looked, train.labels, test.n) == (150, None, 150)
    assert copies_across(plain, plain) is None
    assert copies(found, found, mirror=False) == Copies(1, 1, 150, 0)


def test_equal_images_and_mirror_images_are_counted() -> None:
    train, test = noise(70, 3, 8, 8), noise(9, 3, 8, 8, seed=1)
    test[0], test[1], test[2], test[3] = train[5], train[69], train[7].flip(-1), test[4]
    sets = MemorySet(train), MemorySet(test)
    ours, theirs = (examined(images, mirror=True) for images in sets)
    assert copies(ours, theirs, mirror=True) == Copies(train=0, test=1, across=2, mirrored=1)
    assert copies(ours, theirs, mirror=False) == Copies(train=0, test=1, across=2, mirrored=0)
    assert copies_across(*sets) == 2


def folder(root: Path) -> tuple[FileSet, FileSet]:
    root.mkdir()
    pixels = noise(12, 20, 24, 4).numpy()
    pixels[3:, ..., 3] = 255
    for k, image in enumerate(pixels):
        picture = Image.fromarray(image[: 20 - 8 * (k == 11), : 24 - 8 * (k == 11)])
        picture = picture.convert("RGB") if k % 4 == 0 else picture
        exif = picture.getexif()
        exif[0x0112] = 6 if k == 4 else 1
        picture.save(root / f"{k:02}.png", exif=exif)
    os.link(root / "02.png", root / "12.png")
    whole = (root / "05.png").read_bytes()
    (root / "05.png").write_bytes(whole[: len(whole) // 2])
    (root / "06.png").write_bytes(b"")
    paths = sorted(root.iterdir())
    return tuple(  # type: ignore[return-value]
        FileSet(part, [k % 2 for k in range(len(part))], 3, centre_crop(16)) for part in (paths[:10], paths[10:])
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_every_file_is_decoded_and_those_that_cannot_be_are_named(tmp_path: Path, workers: int) -> None:
    train, test = folder(tmp_path / "f")
    ours, theirs = examined(train, workers=workers), examined(test)
    assert (ours.looked, theirs.looked) == (10, 3)
    assert list(ours.unreadable) == [str(tmp_path / "f" / name) for name in ("05.png", "06.png")]
    assert "truncated" in next(iter(ours.unreadable.values()))
    assert ours.sizes == {(24, 20): 7, (20, 24): 1}  # as it is shown, once turned
    assert theirs.sizes == {(24, 20): 2, (16, 12): 1}
    assert ours.modes == {"RGBA": 5, "RGB": 3}
    assert ours.transparent == 2  # 1 and 2; what is opaque is not, and 0 has lost its alpha
    assert (ours.rotated, ours.small, theirs.small) == (1, 0, 1)
    assert ours.labels == {0: 4, 1: 4}
    assert copies(ours, theirs, mirror=False) == Copies(0, 0, 1, 0)


def test_a_glance_reads_headers_and_counts_labels(tmp_path: Path) -> None:
    train, test = folder(tmp_path / "f")
    ours, theirs = glance([train, test], 16)
    assert ours.looked + theirs.looked == 13
    assert list(ours.unreadable) == [str(tmp_path / "f" / "06.png")]  # half a file has a whole header
    assert ours.labels == {0: 5, 1: 5}
    assert ours.modes + theirs.modes == {"RGBA": 9, "RGB": 3}
    assert ours.transparent == 6  # by the header, which does not tell whether any pixel is
    assert copies_across(train, test) == 1


def test_a_glance_at_a_large_set_is_a_spread_choice_and_takes_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, _ = folder(tmp_path / "f")
    path = train.paths[0]
    large = FileSet([path] * 90_000, np.arange(90_000) % 7, 3, centre_crop(16))
    small = FileSet([path] * 10_000, np.arange(10_000) % 7, 3, centre_crop(16))
    monkeypatch.setattr(inspection, "SECONDS", 60.0)
    ours, theirs = glance([large, small], 16)
    assert ours.looked + theirs.looked == inspection.LOOKED_AT
    assert 20 < theirs.looked < 80  # a tenth, give or take
    assert ours.labels is not None
    assert ours.labels.total() == 90_000
    assert copies_across(large, small) is None
    monkeypatch.setattr(inspection, "SECONDS", 0.0)
    assert sum(split.looked for split in glance([large, small], 16)) == 1
    assert copies_across(small, small) is None
