"""CelebA in torchvision's layout.

Not through torchvision: it asks for five annotation files, where pixels and the split need one.
"""

from collections.abc import Sequence
from pathlib import Path

from ddpm_lab.data.decoding import cut_box
from ddpm_lab.data.folder import FileSet
from ddpm_lab.data.splits import is_train
from ddpm_lab.errors import NoSuchFileError

PART = {True: "0", False: "2"}  # in list_eval_partition.txt; 1 is the validation part, which nothing here uses


def celeba(root: str | Path, split: str, image_size: int, crop: Sequence[int], channels: int = 3) -> FileSet:
    """Return CelebA, aligned (Liu et al. 2015): 162,770 + 19,962 faces of 178x218 pixels, cropped and scaled.

    Read from ROOT/celeba/img_align_celeba/*.jpg and ROOT/celeba/list_eval_partition.txt. Papers use different
    crops, and a FID against another crop is not comparable: so there is no default, the configuration states it.

    Args:
        root: data folder.
        split: "train" or "test"; the validation part is left out.
        image_size: pixels of the result's side.
        crop: left, top, right, bottom in pixels of the aligned image.
        channels: 1 or 3.

    Returns:
        Images uint8 [n, channels, image_size, image_size], labels all 0.

    Raises:
        FileNotFoundError: if the files are not there; says where to get them.
        ValueError: if the split is another.

    """
    train, folder = is_train(split), Path(root) / "celeba"
    images, partition = folder / "img_align_celeba", folder / "list_eval_partition.txt"
    if not (images.is_dir() and partition.is_file()):
        raise NoSuchFileError(
            f"CelebA is not here: get img_align_celeba.zip and list_eval_partition.txt from "
            f"http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, unpack the first to {images.resolve()}/ and put the "
            f"second at {partition.resolve()}."
        )
    rows = (line.split() for line in partition.read_text().splitlines() if line.strip())
    paths = [images / name for name, part in rows if part == PART[train]]
    return FileSet(paths, [0] * len(paths), channels, cut_box(crop, image_size), classes=())
