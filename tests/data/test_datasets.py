"""Each data set is read from a small file in exactly the published format."""

import pickle
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from ddpm_lab.data import idx
from ddpm_lab.data.arrays import imagenet64, npz
from ddpm_lab.data.celeba import celeba
from ddpm_lab.data.cifar import cifar10, cifar100
from ddpm_lab.data.decoding import centre_crop
from ddpm_lab.data.digits import digits
from ddpm_lab.data.folder import FileSet, folder_name, image_folder, name_prefix
from ddpm_lab.data.images import read_images
from ddpm_lab.data.lsun import lsun
from ddpm_lab.data.memory import ImageSet

# Python 3.12 and later warn whenever a process with threads forks; torch's own thread pools are such threads.
FORK = "ignore:.*use of fork.*:DeprecationWarning"


def whole(images: ImageSet) -> tuple[Tensor, list[int]]:
    pixels, labels = images.__getitems__(list(range(len(images))))
    assert pixels.dtype == torch.uint8
    assert labels.dtype == torch.int64
    return pixels, labels.tolist()


def nchw(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).movedim(-1, 1)


# digits


def test_digits_are_all_there_and_use_all_levels():
    (train, _), (test, labels) = whole(digits("train")), whole(digits("test"))
    assert train.shape == (1498, 1, 8, 8)
    assert test.shape == (299, 1, 8, 8)
    assert torch.unique(torch.cat([train, test])).tolist() == [round(v * 255 / 16) for v in range(17)]
    assert set(labels) == set(range(10))


def test_digits_hold_out_every_sixth():
    from sklearn.datasets import load_digits

    test, labels = whole(digits("test"))
    assert torch.equal((test[:, 0].double() * 16 / 255).round(), torch.from_numpy(load_digits().images[5::6]))
    assert labels == load_digits().target[5::6].tolist()


# MNIST, Fashion-MNIST


@pytest.mark.parametrize("read", [idx.mnist, idx.fashion_mnist])  # one is written unpacked, the other as .gz
@pytest.mark.parametrize(("split", "n"), [("train", 6), ("test", 4)])
def test_idx_files(data_root, noise, read, split, n):
    images, labels = whole(read(data_root, split))
    assert torch.equal(images, torch.from_numpy(noise(n, 28, 28))[:, None])
    assert labels == list(range(n))


def test_fashion_mnist_is_found_where_debian_puts_it(data_root, tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "DEBIAN", (tmp_path / "absent", data_root / "FashionMNIST" / "raw"))
    assert len(idx.fashion_mnist(tmp_path, "train")) == 6


@pytest.mark.skipif(
    not any(path.is_dir() for path in idx.DEBIAN), reason="needs Debian's package dataset-fashion-mnist"
)
def test_the_real_fashion_mnist(tmp_path):
    images, labels = whole(idx.fashion_mnist(tmp_path, "test"))
    assert images.shape == (10000, 1, 28, 28)
    assert np.bincount(labels).tolist() == [1000] * 10


@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b"\x00\x00\x0d\x03" + b[4:], lambda b: b[:6]])
@pytest.mark.parametrize("read", [idx.mnist, idx.fashion_mnist])
def test_a_damaged_idx_file_is_named(data_root, tmp_path, damage, read):
    shutil.copytree(data_root, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*/raw/train-images*"):
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"Cannot read .*MNIST/raw/train-images-idx3-ubyte.*: get the file again"):
        read(tmp_path, "train")


# CIFAR


@pytest.mark.usefixtures("_tiny_cifar_is_genuine")
def test_cifar10(data_root, noise):
    train, labels = whole(cifar10(data_root, "train"))
    written = np.concatenate([noise(2, 3072, seed=k) for k in range(5)])
    assert torch.equal(train, torch.from_numpy(written).view(10, 3, 32, 32))
    assert labels == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    test, labels = whole(cifar10(data_root, "test"))
    assert torch.equal(test, torch.from_numpy(noise(2, 3072, seed=5)).view(2, 3, 32, 32))
    assert labels == [5, 4]


@pytest.mark.usefixtures("_tiny_cifar_is_genuine")
def test_cifar100_has_the_fine_labels(data_root, noise):
    test, labels = whole(cifar100(data_root, "test"))
    assert torch.equal(test, torch.from_numpy(noise(3, 3072, seed=1)).view(3, 3, 32, 32))
    assert labels == [99, 0, 1]
    assert len(cifar100(data_root, "train")) == 3


@pytest.mark.parametrize("read", [cifar10, cifar100])
def test_cifar_that_is_not_the_published_one_is_refused_before_it_is_unpickled(data_root, read):
    with pytest.raises(
        ValueError, match=r"damaged, its MD5 is not the published one: unpack https://.*python\.tar\.gz"
    ):
        read(data_root, "train")


# CelebA, LSUN


def test_celeba_cuts_the_box_and_leaves_out_validation(data_root):
    train = celeba(data_root, "train", 64, crop=[25, 57, 153, 185])
    images, labels = whole(train)
    assert images.shape == (3, 3, 64, 64)
    assert labels == [0, 0, 0]
    # Two pixels of the box fall on one of the result. JPEG errs by a level or two.
    assert (images[0, 0, 30].float() - torch.arange(25.5, 153, 2)).abs().max() <= 3
    assert (images[0, 1, :, 30].float() - torch.arange(57.5, 185, 2)).abs().max() <= 3
    assert len(celeba(data_root, "test", 64, crop=[25, 57, 153, 185])) == 1


def test_the_other_celeba_crop_is_the_central_140_pixels(data_root):
    images, _ = whole(celeba(data_root, "test", 140, crop=[19, 39, 159, 179]))
    assert abs(int(images[0, 0, 70, 0]) - 19) <= 3
    assert abs(int(images[0, 1, 0, 70]) - 39) <= 3
    assert (178 - 140) // 2 == 19
    assert (218 - 140) // 2 == 39


def test_lsun(data_root):
    images, labels = whole(lsun(data_root, "train", "bedroom", 128))
    assert images.shape == (5, 3, 128, 128)
    assert sorted(images[:, 0, 0, 0].tolist()) == [0, 10, 20, 30, 40]
    assert labels == [0] * 5
    assert len(lsun(data_root, "test", "bedroom", 128)) == 2


@pytest.mark.filterwarnings(FORK)
def test_lsun_survives_a_fork_and_a_pickle(data_root):
    images = lsun(data_root, "train", "bedroom", 32)
    here, _ = whole(images)
    there, _ = whole(pickle.loads(pickle.dumps(images)))
    assert torch.equal(here, there)
    # Both have been read in this process before the workers are forked.
    loader = DataLoader(images, batch_sampler=[[0, 1], [2], [3, 4]], num_workers=2, collate_fn=lambda batch: batch)
    assert torch.equal(torch.cat([pixels for pixels, _ in loader]), here)


def test_an_unreadable_lsun_image_is_named(data_root, tmp_path):
    import lmdb

    folder = tmp_path / "lsun" / "cat_train_lmdb"
    folder.mkdir(parents=True)
    with lmdb.open(str(folder)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"abc", b"no image")
    with pytest.raises(ValueError, match=r"Cannot read the image abc in .*cat_train_lmdb"):
        lsun(tmp_path, "train", "cat", 32).__getitems__([0])


# archives


def test_imagenet64(data_root, noise):
    train, labels = whole(imagenet64(data_root, "train"))  # half of the files are pickles, half .npz
    written = np.concatenate([noise(2, 12288, seed=k) for k in range(1, 11)])
    assert torch.equal(train, torch.from_numpy(written).view(20, 3, 64, 64))
    assert labels[::2] == list(range(10))
    assert labels[1::2] == [999] * 10
    assert whole(imagenet64(data_root, "test"))[1] == [0, 1, 2]


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "imagenet64").mkdir()
    (tmp_path / "imagenet64" / "val_data").write_bytes(pickle.dumps(shutil.rmtree))
    with pytest.raises(ValueError, match=r"val_data \(it asks for shutil\.rmtree, which is no array\)"):
        imagenet64(tmp_path, "test")


def test_imagenet_of_another_size_is_refused(tmp_path):
    (tmp_path / "imagenet64").mkdir()
    np.savez(tmp_path / "imagenet64" / "val_data.npz", data=np.zeros((2, 3072), np.uint8), labels=[1, 2])
    with pytest.raises(ValueError, match=r"val_data\.npz must hold .* get the 64x64 version"):
        imagenet64(tmp_path, "test")


def test_npz_without_a_test_file_holds_out_every_tenth(data_root, noise):
    written = nchw(noise(20, 64, 64, 3))
    images, labels = whole(npz(data_root / "npz", "test"))
    assert torch.equal(images, written[9::10])
    assert labels == [9, 19]
    assert len(npz(data_root / "npz", "train")) == 18


def test_npz_with_a_test_file_uses_all_of_both_and_needs_no_labels(tmp_path, noise):
    np.savez(tmp_path / "train.npz", arr_0=noise(11, 8, 8))
    np.savez(tmp_path / "test.npz", noise(3, 8, 8, 1))
    train, labels = whole(npz(tmp_path, "train"))
    assert torch.equal(train, torch.from_numpy(noise(11, 8, 8))[:, None])
    assert labels == [0] * 11
    assert torch.equal(whole(npz(tmp_path, "test"))[0], nchw(noise(3, 8, 8, 1)))


def test_wrong_archives_are_refused(tmp_path, noise):
    (tmp_path / "train.npz").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"Cannot read .*train\.npz .*: get the file again"):
        npz(tmp_path, "train")
    np.savez(tmp_path / "train.npz", images=noise(3, 8, 8, 3))
    with pytest.raises(ValueError, match=r"train\.npz holds images and no arr_0: save it by np\.savez"):
        npz(tmp_path, "train")


RGB = np.random.default_rng(0).integers(0, 256, (10, 8, 6, 3), np.uint8)
FROM_ZERO = "number the classes by whole numbers from 0"


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (
            RGB / 255,
            r"holds arr_0 float64 \[10, 8, 6, 3\]: images must be bytes 0\.\.255, .*; scale to 0\.\.255, round and save",
        ),
        (RGB.astype(np.int64), "int64 .* save them as uint8"),
        (RGB.transpose(0, 3, 1, 2), r"\[10, 3, 8, 6\], channels first: .* save images\.transpose\(0, 2, 3, 1\)\.$"),
        (RGB[..., 0][:, None], r"\[10, 1, 8, 6\], channels first: .* save images\.transpose\(0, 2, 3, 1\)\.$"),
        (RGB[0], r"\[8, 6, 3\], one image: .* save image\[None\]\.$"),
        (RGB[0, 0, 0, 0], r"uint8 \[\]: images must be"),
        (RGB[0, 0], r"uint8 \[6, 3\]: images must be"),
        (RGB[:0], r"uint8 \[0, 8, 6, 3\]: images must be"),
        (np.concatenate([RGB, RGB], -1), r"\[10, 8, 6, 6\]: images must be .* with C = 1 to 4"),
        (np.array(["a.png", "b.png"]), r"<U5 \[2\]: images must be"),
        (np.array([RGB[0], RGB[0, :2]], object), r"\(Object arrays .*\): save arrays of numbers, images of one size"),
    ],
)
def test_arrays_that_are_no_images_are_refused_with_advice(tmp_path, images, sentence):
    np.savez(tmp_path / "train.npz", images)
    for reader in (lambda: npz(tmp_path, "train"), lambda: read_images(tmp_path / "train.npz")):
        with pytest.raises(ValueError, match=sentence):
            reader()


@pytest.mark.parametrize("C", [1, 2, 3, 4])
def test_archives_of_every_kind_of_image(tmp_path, noise, C):
    written = noise(10, 8, 8, C)
    np.savez(tmp_path / "train.npz", written)
    assert torch.equal(whole(npz(tmp_path, "test"))[0], nchw(written[9:]))
    assert torch.equal(whole(read_images(tmp_path / "train.npz"))[0], nchw(written))


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.arange(10) + 0.5, rf"arr_1 float64 \[10\], 0\.5 among them: {FROM_ZERO}"),
        (np.full(10, np.nan), rf"nan among them: {FROM_ZERO}"),
        (np.full(10, 1e300), rf"1e\+300 among them: {FROM_ZERO}"),
        (np.arange(10) - 1, rf"arr_1 int64 \[10\], -1 among them: {FROM_ZERO}"),
        (
            np.array(["cat"] * 10),
            r"<U3 \[10\]: number the classes from 0, as np\.unique\(labels, return_inverse=True\)\[1\]",
        ),
        (np.arange(9), r"\[9\] for 10 images: give one number for each, \[10\]"),
        (np.eye(10), r"\[10, 10\] for 10 images"),
        (np.int64(3), r"\[\] for 10 images"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, sentence):
    np.savez(tmp_path / "train.npz", RGB, labels)
    with pytest.raises(ValueError, match=sentence):
        npz(tmp_path, "train")


@pytest.mark.parametrize("labels", [np.arange(10.0), np.arange(10, dtype=np.uint8), np.arange(10)[:, None]])
def test_labels_are_whole_numbers_of_any_type(tmp_path, labels):
    np.savez(tmp_path / "train.npz", RGB, labels)
    assert whole(npz(tmp_path, "train"))[1] == list(range(9))
    assert npz(tmp_path, "train").classes is None


# folders of files


def test_a_folder_is_read_in_sorted_order_with_every_tenth_held_out(data_root, noise):
    read = partial(image_folder, data_root / "images", image_size=64, channels=3)
    written = nchw(np.stack([noise(64, 64, 3, seed=k) for k in range(20)]))
    files = sorted((data_root / "images").rglob("*.png"))
    order = [int(path.stem.split("_")[1]) for path in files]
    test, labels = whole(read(split="test"))
    assert torch.equal(test, written[[order[9], order[19]]])
    assert labels == [0, 0]
    assert torch.equal(whole(read(split="train"))[0], written[order[:9] + order[10:19]])


def test_classes_come_from_the_folder_or_from_the_file_name(data_root):
    def labelled(class_of):
        images = image_folder(data_root / "images", "train", 64, 3, class_of)
        return {
            (path.rsplit("/", 2)[1], path.rsplit("/", 1)[1].split("_")[0]): k
            for path, k in zip(images.paths, images.labels, strict=True)
        }

    assert labelled(folder_name) == {("cat", "blue"): 0, ("cat", "red"): 0, ("dog", "blue"): 1, ("dog", "red"): 1}
    assert labelled(name_prefix) == {("cat", "blue"): 0, ("dog", "blue"): 0, ("cat", "red"): 1, ("dog", "red"): 1}


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def test_train_and_test_folders_are_the_splits_and_share_their_classes(tmp_path, noise):
    for name in ("train/a/1.png", "train/b/sub/1.PNG", "train/b/2.jpg", "test/b/1.bmp", "test/b/.hidden.png"):
        save(tmp_path / name, noise(8, 8, 3))
    read = partial(image_folder, tmp_path, image_size=8, channels=3, class_of=folder_name)
    assert whole(read(split="train"))[1] == [0, 1, 1]
    assert whole(read(split="test"))[1] == [1]
    save(tmp_path / "test/c/1.gif", noise(8, 8))
    with pytest.raises(ValueError, match=r"classes that .*train has not: c\."):
        read(split="test")
    save(tmp_path / "train/1.webp", noise(8, 8, 3))
    with pytest.raises(ValueError, match=r"1\.webp lies in no class folder"):
        read(split="train")


def test_pictures_are_converted_to_the_channels_asked_for(tmp_path, noise):
    grey, colour = save(tmp_path / "g.png", noise(8, 8)), save(tmp_path / "c.png", noise(8, 8, 3))
    spread, _ = whole(FileSet([grey], [0], 3, centre_crop(8)))
    assert torch.equal(spread[0], torch.from_numpy(noise(8, 8)).expand(3, 8, 8))
    single, _ = whole(FileSet([colour], [0], 1, centre_crop(8)))
    luma = torch.einsum(
        "hwc,c->hw", torch.from_numpy(noise(8, 8, 3)).double(), torch.tensor([0.299, 0.587, 0.114]).double()
    )
    assert (single[0, 0] - luma).abs().max() <= 1
    with pytest.raises(ValueError, match=r"1 to 4 channels, and channels=5"):
        FileSet([grey], [0], 5, centre_crop(8)).__getitems__([0])


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp"])
def test_a_truncated_or_foreign_file_is_named(tmp_path, noise, suffix):
    path = save(tmp_path / f"half.{suffix}", noise(64, 64, 3))
    save(tmp_path / "whole.png", noise(8, 8, 3))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    images = image_folder(tmp_path, "train", 8, 3)
    with pytest.raises(ValueError, match=rf"Cannot read the image .*half\.{suffix} .*: replace the file or remove it"):
        images.__getitems__([0])
    path.write_text("<html>")
    with pytest.raises(ValueError, match=rf"Cannot read the image .*half\.{suffix} "):
        images.__getitems__([0])


def test_the_centre_crop_halves_with_a_box_filter(noise):
    # 4x4 blocks of one value each: two halvings give back exactly the values, a bicubic filter would mix neighbours.
    blocks = noise(4, 6, 3)
    picture = Image.fromarray(blocks.repeat(4, axis=0).repeat(4, axis=1))  # 16 high, 24 wide
    assert np.array_equal(np.asarray(centre_crop(4)(picture)), blocks[:, 1:5])


def test_the_centre_crop_ends_with_a_bicubic_resize():
    ramp = np.tile(np.arange(30, dtype=np.uint8) * 8, (30, 1))
    expected = Image.fromarray(ramp).resize((20, 20), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(centre_crop(20)(Image.fromarray(ramp))), np.asarray(expected))


@pytest.mark.parametrize("size", [(7, 9), (64, 64), (100, 333), (1000, 65)])
def test_the_centre_crop_always_gives_the_square(size):
    assert centre_crop(64)(Image.new("RGB", size)).size == (64, 64)


# what is not there


@pytest.mark.parametrize(
    ("read", "sentence"),
    [
        (idx.mnist, r"MNIST is not here: put t10k-images-idx3-ubyte\.gz and .* into {root}/MNIST/raw, from https://"),
        (idx.fashion_mnist, r"into {root}/FashionMNIST/raw, .* apt-get install dataset-fashion-mnist"),
        (cifar10, r"lacks data_batch_1, .*Get https://.*cifar-10-python\.tar\.gz and unpack it in {root}\."),
        (cifar100, r"lacks train, test, meta\. Get https://.*cifar-100-python\.tar\.gz and unpack it in {root}\."),
        (
            partial(celeba, image_size=64, crop=[0, 0, 64, 64]),
            r"img_align_celeba\.zip .* {root}/celeba/img_align_celeba/",
        ),
        (partial(lsun, category="cat", image_size=64), r"get cat_val_lmdb\.zip .* {root}/lsun/cat_val_lmdb/"),
        (imagenet64, r"{root}/imagenet64 lacks val_data\. Get .* https://image-net\.org"),
        (npz, r"No {root}/train\.npz: put"),
        (partial(image_folder, image_size=64, channels=3), r"No image below {root}: put .*\.png"),
    ],
)
def test_missing_data_says_where_to_put_it(tmp_path, monkeypatch, read, sentence):
    monkeypatch.setattr(idx, "DEBIAN", ())
    with pytest.raises(FileNotFoundError, match=sentence.format(root=tmp_path.resolve())):
        read(tmp_path, split="test")
    with pytest.raises(ValueError, match="got 'valid'"):
        read(tmp_path, split="valid")
