"""Sets too large for memory or for one file an image: tar files, as webdataset and img2dataset write them.

Read by position and not as a stream, so that the training order is that of every other set and a resumed run goes on in the
middle of a pass. The shards lie on a disk of this machine or one that is mounted.
"""

import hashlib
import json
import os
import posixpath
import re
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddpm_lab.data.decoding import Background, Shape, centre_crop
from ddpm_lab.data.encoded import EncodedSet
from ddpm_lab.data.listing import SUFFIXES, is_hidden
from ddpm_lab.data.splits import is_train
from ddpm_lab.errors import NoSuchFileError, UserError

VERSION = 2  # of the kept index
WORD = re.compile(r"[A-Za-z][\w-]*")  # what an ending is made of
FIELDS = ("label", "cls", "class")  # of a .json that has a label


class Index(NamedTuple):
    """Where n images lie."""

    shard: NDArray[np.int64]  # [n] number of the tar file
    offset: NDArray[np.int64]  # [n] first byte in it
    size: NDArray[np.int64]  # [n] bytes
    label: NDArray[np.int64]  # [n], 0 where there is none
    notes: tuple[str, ...] = ()  # about what was passed over


class TarSet(EncodedSet):
    """Encoded images in tar files, in the order of the files' names and of the images in them.

    Args:
        paths: the tar files.
        index: where the images lie in them.
        channels: 1 to 4.
        shape: cuts and scales a picture to the size of the set.
        background: behind transparent pixels: white, black or [red, green, blue].

    """

    def __init__(
        self, paths: Sequence[Path], index: Index, channels: int, shape: Shape, background: Background = "white"
    ) -> None:
        super().__init__(channels, shape, background=background, notes=index.notes)
        self.paths, self.index = list(paths), index

    def __len__(self) -> int:
        return len(self.index.shard)

    def name(self, i: int) -> str:
        """Return the shard and place of image i."""
        return f"at byte {self.index.offset[i]} of {self.paths[self.index.shard[i]]}"

    def label(self, i: int) -> int:
        """Return the class of image i."""
        return int(self.index.label[i])

    def size(self, i: int) -> int:
        """Return the bytes of the member."""
        return int(self.index.size[i])

    def encoded(self, i: int) -> bytes:
        """Return the member of the tar file.

        Raises:
            ValueError: names the shard that cannot be read.

        """
        try:
            with self.paths[self.index.shard[i]].open("rb") as file:
                file.seek(int(self.index.offset[i]))
                return file.read(int(self.index.size[i]))
        except OSError as error:
            raise UserError(f"Cannot read the image {self.name(i)} ({error}): is the disk still there?") from error


class Wanted(NamedTuple):
    """What is read of a sample.

    image: the ending of its image; None: the only one there is. label: the field of its .json that has its class; None: its
    .cls or .cls.txt, or one of FIELDS. labelled: whether each must have a class.
    """

    image: str | None = None
    label: str | None = None
    labelled: bool = False


def webdataset(
    root: str | Path,
    split: str,
    train: str,
    test: str,
    image_size: int,
    channels: int,
    cache: str | Path,
    image: str | None = None,
    label: str | None = None,
    num_classes: int | None = None,
    background: Background = "white",
) -> TarSet:
    """Return the images of tar files in webdataset's format: members of one name up to the first dot are one sample.

    A dot before a number is part of the name: img_0.5_a.png and img_0.7_b.png are two samples. A sample's image is the member
    whose name ends as images do (.jpg, .png, …); its class is the number in the member .cls or .cls.txt, or in a field label,
    cls or class of its .json. What else a sample has is left alone, and so are samples without an image.

    Args:
        root: the folder of the shards.
        split: "train" or "test".
        train: pattern of the training shards' paths below the root, such as train-*.tar.
        test: that of the test shards.
        image_size: pixels of the square cut from the centre.
        channels: 1 to 4; images are converted.
        cache: where the index of the shards is kept: reading all headers of a large set takes minutes.
        image: the ending of the image, such as img.png, where samples have several.
        label: the field of the .json that has the class, where it is another.
        num_classes: where it is given, each sample must have a class; otherwise those without are of class 0.
        background: behind transparent pixels: white, black or [red, green, blue].

    Returns:
        Images uint8 [n, channels, image_size, image_size], labels int64.

    Raises:
        FileNotFoundError: if no shard is found.
        ValueError: if a shard cannot be read as a tar file, a name is there twice, a sample has several images or no class
            where it needs one, or a class is no number, or the split is another.

    """
    pattern = train if is_train(split) else test
    try:
        paths = sorted(Path(root).glob(pattern))
    except (NotImplementedError, ValueError):  # of a pattern from the file system's root, or of none
        raise UserError(
            f"Shards are named by a pattern below data.dataset.root, such as train-*.tar; got {pattern!r}."
        ) from None
    if not paths:
        raise NoSuchFileError(
            f"No shard {pattern} in {Path(root).resolve()}: name the folder with data.dataset.root=… and the shards with "
            "data.dataset.train='…-*.tar' and data.dataset.test='…-*.tar'."
        )
    wanted = Wanted(None if image is None else image.lower().lstrip("."), label, num_classes is not None)
    return TarSet(paths, _index(paths, Path(cache), wanted), channels, centre_crop(image_size), background)


def _index(paths: Sequence[Path], cache: Path, wanted: Wanted) -> Index:
    """Read the shards' headers, or the index of the same shards that is kept."""
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    kept = cache / f"shards-{hashlib.sha256(repr((VERSION, wanted, states)).encode()).hexdigest()[:16]}.npz"
    try:
        with kept.open("rb") as index, np.load(index) as found:
            return _of_columns(found["columns"], found["notes"].tolist())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there, or damaged: it is made anew
    shards = [_Shard(path, wanted) for path in paths]
    unlabelled = [(shard.path, key) for shard in shards for key in shard.unlabelled]
    rows = [(number, *row) for number, shard in enumerate(shards) for row in shard.rows]
    if wanted.labelled and unlabelled:
        path, key = unlabelled[0]
        raise UserError(
            f"{len(unlabelled):,} of {len(rows):,} images have no class, the first {key} in {path}: give each a .cls with its "
            f"number, or a .json with {' or '.join([wanted.label] if wanted.label else FIELDS)} (data.dataset.label=… for "
            "another), or set data.num_classes=null."
        )
    if not rows:
        others = sorted({ending for shard in shards for ending in shard.endings})
        raise UserError(
            f"No sample in {paths[0]}{' and the others' if len(paths) > 1 else ''} has an image"
            f"{f' .{wanted.image}' if wanted.image else ''}: its members end in {', '.join(others) or 'nothing'}; name the "
            "ending of the images with data.dataset.image=…."
        )
    keys = [key for shard in shards for key in shard.keys]
    counts = {
        "samples without an image are passed over": sum(shard.without_image for shard in shards),
        "hidden members are passed over": sum(shard.hidden for shard in shards),
        "links in shards are passed over": sum(shard.links for shard in shards),
        "samples of one name in several shards, each of them read": len(keys) - len(set(keys)),
        "dots before a number are part of the sample's name": sum(shard.dotted for shard in shards),
    }
    notes = tuple(f"{what}: {n:,}" for what, n in counts.items() if n)
    columns = np.array(rows, dtype=np.int64).T  # [4, n]
    cache.mkdir(parents=True, exist_ok=True)
    partial = kept.with_name(f"{kept.name}.{os.getpid()}.partial")  # every rank may write it
    with partial.open("wb") as file:
        np.savez(file, columns=columns, notes=np.array(notes, dtype=np.str_))
    partial.replace(kept)
    return _of_columns(columns, notes)


def _of_columns(columns: NDArray[np.int64], notes: Sequence[str]) -> Index:
    shard, offset, size, label = columns
    return Index(shard, offset, size, label, tuple(notes))


class _Shard:
    """The samples of one tar file.

    rows: (offset, size, label) of each image. keys: names of their samples. unlabelled: of those that have no class.
    """

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self.path = path
        self.hidden = self.links = self.without_image = self.dotted = 0
        self.endings: set[str] = set()
        self.rows: list[tuple[int, int, int]] = []
        self.keys: list[str] = []
        self.unlabelled: list[str] = []
        try:
            with tarfile.open(path, "r:") as shard:
                for key, members in self._samples(shard).items():
                    image = self._image(key, members, wanted.image)
                    if image is None:
                        self.without_image += 1
                        continue
                    label = self._label(shard, key, members, image, wanted)
                    if label is None:
                        self.unlabelled.append(key)
                    self.rows.append((members[image].offset_data, members[image].size, label or 0))
                    self.keys.append(key)
        except tarfile.TarError as error:
            raise UserError(f"{path} cannot be read as an uncompressed tar file ({error}): write it anew.") from error

    def _samples(self, shard: tarfile.TarFile) -> dict[str, dict[str, tarfile.TarInfo]]:
        """Members by the names of their samples and by their endings."""
        samples: dict[str, dict[str, tarfile.TarInfo]] = {}
        up_to_dot: dict[str, str] = {}  # of names that have a dot
        end = 0
        for member in shard:
            name = posixpath.normpath(member.name).lstrip("/")
            if member.isdir():
                continue
            if any(is_hidden(part) for part in name.split("/")):
                self.hidden += 1
                continue
            if not member.isfile():
                self.links += 1
                continue
            end = max(end, member.offset_data + member.size)
            key, short, ending = _name(name)
            if not ending:
                continue
            if ending in samples.setdefault(key, {}):
                raise UserError(f"{self.path} has {key}.{ending} twice: write each member once.")
            samples[key][ending] = member
            self.endings.add(f".{ending}")
            if short != key:
                up_to_dot[key] = short
        if end > self.path.stat().st_size:
            raise UserError(f"{self.path} is cut off: it ends before its last image does; copy it again.")
        for key, short in up_to_dot.items():
            if short in samples:
                raise UserError(
                    f"{self.path} has samples {short} and {key}, and what is called {key}… may be of either: name samples "
                    "without dots."
                )
        self.dotted = len(up_to_dot)
        return samples

    def _image(self, key: str, members: Mapping[str, tarfile.TarInfo], ending: str | None) -> str | None:
        """Return the ending of a sample's image."""
        if ending is not None:
            return ending if ending in members else None
        found = [ending for ending in members if f".{ending.rpartition('.')[2]}" in SUFFIXES]
        if len(found) > 1:
            raise UserError(
                f"{self.path}: the sample {key} has several images ({', '.join(found)}): choose one with data.dataset.image="
                f"{found[0]}; if each is a sample of its own, rename them, for a sample's name ends at its first dot."
            )
        return found[0] if found else None

    def _label(
        self, shard: tarfile.TarFile, key: str, members: Mapping[str, tarfile.TarInfo], image: str, wanted: Wanted
    ) -> int | None:
        """Return a sample's class; None where it has none."""
        beside = image.rpartition(".")[0]  # of photo.left.png: photo.cls, or photo.left.cls
        for kind in ["json"] if wanted.label else ["cls", "cls.txt", "json"]:
            ending = next((e for e in (kind, f"{beside}.{kind}") if e in members), None)
            if ending is None or (kind == "json" and not (wanted.label or wanted.labelled)):
                continue
            text = shard.extractfile(members[ending]).read()  # type: ignore[union-attr]
            where = f"{self.path}: {key}.{ending}"
            if kind != "json":
                word = text.decode(errors="replace").strip()
                return _whole(word, where) if wanted.labelled or word.isdigit() else None
            try:
                content = json.loads(text)
            except ValueError as error:
                raise UserError(f"{where} is no JSON ({error}): write it anew.") from error
            fields = [wanted.label] if wanted.label else FIELDS
            field = next((f for f in fields if isinstance(content, dict) and content.get(f) is not None), None)
            if field is not None:
                return _whole(content[field], f"{where}, {field}")
        return None


def _name(name: str) -> tuple[str, str, str]:
    """The name of a member's sample; the same up to its first dot; and the member's ending, in small letters.

    An ending is all words that follow dots at the end. webdataset begins it at the first dot; here one before a number is part
    of the sample's name.
    """
    folder, file = posixpath.split(name)
    pieces = file.split(".")
    first = len(pieces)
    while first > 1 and WORD.fullmatch(pieces[first - 1]):
        first -= 1
    key, short = (posixpath.join(folder, ".".join(pieces[:end])) for end in (first, 1))
    return key, short, ".".join(pieces[first:]).lower()


def _whole(value: object, where: str) -> int:
    """A class, written as a number or in letters."""
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UserError(
            f"{where} has a class that is no number ({value!r}): write 0, 1, … into .cls, or into a field of .json that "
            "data.dataset.label names."
        )
    return int(text)
