"""LSUN's LMDB databases.

Not through torchvision: it writes a cache file into the working directory, keeps a handle open across forks, and
refuses the object categories (cat, horse, …).
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddpm_lab.data.decoding import Shape, centre_crop
from ddpm_lab.data.encoded import EncodedSet
from ddpm_lab.data.splits import is_train
from ddpm_lab.errors import NoSuchFileError

if TYPE_CHECKING:
    import lmdb


def _database(folder: Path) -> "lmdb.Environment":
    """Open a database, for one image: a handle survives no fork and no pickle, and opening takes microseconds."""
    import lmdb

    return lmdb.open(str(folder), readonly=True, lock=False, readahead=False)


class LmdbSet(EncodedSet):
    """Encoded images that are the values of an LMDB database, in the order of its keys; all labels are 0.

    Args:
        folder: the folder with data.mdb.
        channels: 1 or 3.
        shape: cuts and scales a picture to the size of the set.

    """

    def __init__(self, folder: Path, channels: int, shape: Shape) -> None:
        super().__init__(channels, shape, classes=())
        self.folder = folder
        with _database(folder) as database, database.begin() as transaction:
            # One array, not a list: three million Python objects would be copied into each worker as it touches them.
            self.keys = np.array(list(transaction.cursor().iternext(keys=True, values=False)), dtype=np.bytes_)  # [n]

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, i: int) -> str:
        """Return the key of image i and the database."""
        return f"{self.keys[i].decode()} in {self.folder}"

    def label(self, i: int) -> int:
        """Return 0."""
        return 0

    def encoded(self, i: int) -> bytes:
        """Return the value of the key."""
        with _database(self.folder) as database, database.begin() as transaction:
            return transaction.get(bytes(self.keys[i])) or b""


def lsun(root: str | Path, split: str, category: str, image_size: int, channels: int = 3) -> LmdbSet:
    """Return one category of LSUN (Yu et al. 2015), shorter side scaled to image_size, central square.

    Read from ROOT/lsun/CATEGORY_train_lmdb and ROOT/lsun/CATEGORY_val_lmdb. LSUN's own test
    part mixes all scenes, so the validation part (300 images of each scene) is the test split. Object categories come
    without one.

    Args:
        root: data folder.
        split: "train" or "test".
        category: as in the file name: bedroom, church_outdoor, cat, ….
        image_size: pixels of the result's side.
        channels: 1 or 3.

    Returns:
        Images uint8 [n, channels, image_size, image_size], labels all 0.

    Raises:
        FileNotFoundError: if the database is not there; says where to get it.
        ValueError: if the split is another.

    """
    folder = Path(root) / "lsun" / f"{category}_{'train' if is_train(split) else 'val'}_lmdb"
    if not (folder / "data.mdb").is_file():
        raise NoSuchFileError(
            f"LSUN {category} is not here: get {folder.name}.zip with the scripts of https://github.com/fyu/lsun and "
            f"unpack it to {folder.resolve()}/ (with data.mdb in it)."
        )
    return LmdbSet(folder, channels, centre_crop(image_size))
