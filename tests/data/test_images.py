from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_lab.data.images import read_images

RGB = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)


def folder(path: Path, images: np.ndarray) -> Path:
    path.mkdir()
    for k, image in enumerate(images):
        Image.fromarray(image).save(path / f"{k:02}.png")
    return path


def test_a_folder_and_an_archive_give_the_same_bytes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=RGB)
    for source in (folder(tmp_path / "f", RGB), tmp_path / "a.npz"):
        images = read_images(source)
        assert len(images) == 5
        found, labels = images.__getitems__([3, 1])
        assert np.array_equal(found.numpy(), RGB[[3, 1]].transpose(0, 3, 1, 2))
        assert labels.tolist() == [0, 0]


def test_grey_stays_grey(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=RGB[..., 0])
    for source in (folder(tmp_path / "f", RGB[..., 0]), tmp_path / "a.npz"):
        assert np.array_equal(read_images(source).__getitems__([0, 1])[0].numpy(), RGB[:2, None, :, :, 0])


def test_what_cannot_be_judged_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither a folder of images, nor"):
        read_images(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="No image below"):
        read_images(tmp_path / "empty")
    (tmp_path / "text.txt").write_text("")
    with pytest.raises(ValueError, match="Cannot read the image"):
        read_images(tmp_path / "text.txt")
    path = tmp_path / "a.npz"
    np.savez(path, samples=RGB)
    with pytest.raises(ValueError, match="holds samples and no arr_0"):
        read_images(path)
    np.savez(path, arr_0=RGB)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ValueError, match="Cannot read"):
        read_images(path)


def test_a_folder_of_unlike_or_damaged_files(tmp_path: Path) -> None:
    mixed = folder(tmp_path / "f", RGB)
    Image.fromarray(RGB[0, ..., 0]).save(mixed / "05.png")
    images = read_images(mixed)
    with pytest.raises(ValueError, match=r"05\.png is 6x7 grey and .*00\.png is 6x7 RGB"):
        images.__getitems__([5])
    Image.fromarray(RGB[0, :5]).save(mixed / "05.png")
    with pytest.raises(ValueError, match="is 5x7 RGB and"):
        images.__getitems__([0, 5])
    whole = (mixed / "00.png").read_bytes()
    (mixed / "05.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"Cannot read the image .*05\.png"):
        images.__getitems__([5])
    (mixed / "05.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"Cannot read the image .*05\.png"):
        images.__getitems__([5])
