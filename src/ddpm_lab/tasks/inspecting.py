"""What is in a data set, told before anything is trained: in full (inspect=true), or in short at the start of a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from ddpm_lab.data.datamodule import DataModule
from ddpm_lab.data.inspection import Split, copies, copies_across, examine, glance
from ddpm_lab.data.memory import ImageSet
from ddpm_lab.errors import UserError
from ddpm_lab.pixels import KINDS, WITH_ALPHA

LONG = 20.0  # seconds; what takes longer says so
MEASURED = 2.0  # seconds, after which the rest is estimated
SHOWN = 12  # classes, modes, notes
FEW = 6  # classes at the start of a run
NAMED = 5  # images that cannot be read, classes that are absent
RARE = 10  # test images of a class
INTERRUPTED = 130  # exit code, as shells have it

Lines = list[tuple[str, str]]


def inspect(config: DictConfig) -> None:
    """Look at every image of both splits and print what is in them; Ctrl-C prints what was found so far.

    Raises ValueError, once all is printed, if there are images that cannot be read.
    """
    data: DataModule = instantiate(config.data)
    sets = [data.dataset(split=split) for split in ("train", "test")]
    for images in sets:
        data.tell_classes(images)
    found = [Split(len(images)) for images in sets]
    ended = _examine(data, sets, found)
    looked, total = sum(split.looked for split in found), sum(split.n for split in found)
    print(_title(data, sets) + ("" if ended else f"; of {looked:,} of them:"))
    classes = _classes(data, found)
    lines = [*_numbers(classes, SHOWN), *(_missing(classes) if ended else []), *_files(data, found, "transparent")]
    bad = _unreadable(found)
    if bad:
        lines.append(("unreadable", f"{len(bad):,}, at which training stops"))
        lines += [("", error) for _, error in bad[:NAMED]]
    for name, text in [*lines, *_copies(data, found), *_notes(sets)]:
        print(f"  {name:<13}{text}")
    sys.stdout.flush()
    if not ended:
        sys.exit(INTERRUPTED)
    if bad:
        raise UserError(f"{len(bad):,} of {total:,} images cannot be read: replace or remove them")


def briefly(data: DataModule) -> str:
    """The same in a few lines and less than a second or two, from some of the images; for the start of a run."""
    sets = [data.images(split) for split in ("train", "test")]
    found = glance(sets, data.image_size)
    looked, total = sum(split.looked for split in found), sum(split.n for split in found)
    classes = _numbers(_classes(data, found), FEW)
    facts = [f"{name} {text}" for name, text in [*classes, *_files(data, found, "with alpha")]]
    if looked < total:
        facts.append(f"(files: of {looked:,} of {total:,} looked at; inspect=true looks at all)")
    across = copies_across(*sets)
    lines = [_title(data, sets), *(["; ".join(facts)] if facts else [])]
    if across:
        lines.append(
            f"warning: {across:,} of {len(sets[1]):,} test images are training images too (inspect=true tells more)"
        )
    if bad := _unreadable(found):
        names = _some([name for name, _ in bad], NAMED)
        lines.append(f"warning: images that cannot be read, at which training stops: {names}")
    lines += [f"note: {text}" for _, text in _notes(sets)]
    return "\n  ".join(lines)


def _examine(data: DataModule, sets: Sequence[ImageSet], found: list[Split]) -> bool:
    """Fill `found`; whether all was looked at, and no Ctrl-C came before."""
    total, start, told = sum(map(len, sets)), time.perf_counter(), False
    with tqdm(total=total, desc=f"looking at {data.name}", unit="image", disable=None, leave=False) as bar:
        try:
            for k, images in enumerate(sets):
                for found[k] in examine(images, data.declared, data.image_size, data.workers(), data.mirror):
                    looked, seconds = sum(split.looked for split in found), time.perf_counter() - start
                    bar.update(looked - bar.n)
                    if not told and seconds > MEASURED:
                        told, rest = True, seconds / looked * (total - looked)
                        if rest > LONG:
                            text = f"about {rest / 60:.1f} min for {total:,} images; Ctrl-C ends it with what was found so far"
                            print(text, file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            return False
    return True


def _title(data: DataModule, sets: Sequence[ImageSet]) -> str:
    train, test = map(len, sets)
    size = f"{data.image_size}x{data.image_size} {KINDS[data.channels]}"
    first = "" if data.first is None else f" (of which {min(data.first, train):,} are trained on, data.first)"
    mirror = "; training shows their mirror images too (data.mirror=true)" if data.mirror else ""
    return f"{data.name}: {train:,} training{first} and {test:,} test images, as {size}{mirror}"


def _classes(data: DataModule, found: Sequence[Split]) -> list[tuple[str, int, int]]:
    """Each class, its training and its test images; nothing where they were not counted or no classes are meant."""
    train, test = (split.labels for split in found)
    if data.num_classes is None or train is None or test is None:
        return []
    names = dict(enumerate(data.class_names or ()))
    return [(names.get(k, str(k)), train[k], test[k]) for k in range(data.num_classes)]


def _numbers(classes: Sequence[tuple[str, int, int]], most: int) -> Lines:
    each = [f"{name} ({train:,} + {test:,})" for name, train, test in classes]
    return [("classes", f"{len(each)}, training + test: {_some(each, most)}")] if each else []


def _missing(classes: Sequence[tuple[str, int, int]]) -> Lines:
    """Classes without images, or with so few in test that a metric of theirs says little."""
    groups = {
        "no training image": [name for name, train, _ in classes if not train],
        "no test image": [name for name, _, test in classes if not test],
        f"fewer than {RARE} test images": [name for name, _, test in classes if 0 < test < RARE],
    }
    return [("rare", f"{what} of {_some(names, NAMED)}") for what, names in groups.items() if names]


def _files(data: DataModule, found: Sequence[Split], transparent: str) -> Lines:
    """Sizes and modes of encoded images, and what is done to them; nothing of others. transparent: what was counted as that."""
    train, test = found
    sizes, modes = train.sizes + test.sizes, train.modes + test.modes
    if not sizes:
        return []
    least, most = min(sizes, key=lambda size: size[0] * size[1]), max(sizes, key=lambda size: size[0] * size[1])
    ((width, height), often), *_ = sizes.most_common(1)
    looked = sizes.total()
    text = f"{width}x{height}"
    if len(sizes) > 1:
        text = f"{least[0]}x{least[1]} to {most[0]}x{most[1]}, most often {text} ({often:,} of {looked:,})"
    lines = [("sizes", text), ("modes", _some([f"{mode} {count:,}" for mode, count in modes.most_common()], SHOWN))]
    if small := train.small + test.small:
        lines.append(("scaled up", f"{small:,} with a side of less than {data.image_size} pixels"))
    if through := train.transparent + test.transparent:
        kept = data.channels in WITH_ALPHA
        lines.append(
            (transparent, f"{through:,}, " + ("kept as a channel" if kept else f"over {data.background or 'white'}"))
        )
    if deep := sum(count for mode, count in modes.items() if ";16" in mode):
        lines.append(("16 bits", f"{deep:,}, rounded to 8"))
    if rotated := train.rotated + test.rotated:
        lines.append(("rotated", f"{rotated:,}, as their EXIF tells"))
    return lines


def _copies(data: DataModule, found: Sequence[Split]) -> Lines:
    """Equal images, as the network sees them."""
    train, test = found
    equal = copies(train, test, data.mirror)
    parts = [
        f"{number:,} of {of.n:,} {kind} images to {what}"
        for number, of, kind, what in (
            (equal.across, test, "test", "training images"),
            (equal.mirrored, test, "test", "the mirror images of training images"),
            (equal.test, test, "test", "an earlier one"),
            (equal.train, train, "training", "an earlier one"),
        )
        if number
    ]
    return [("equal", f"{', '.join(parts) or 'none'}, as {data.image_size}x{data.image_size} pixels")]


def _unreadable(found: Sequence[Split]) -> list[tuple[str, str]]:
    """Names of images that cannot be read, and why."""
    return [(name, error) for split in found for name, error in split.unreadable.items()]


def _notes(sets: Sequence[ImageSet]) -> Lines:
    """What the sets say themselves about what was passed over; both splits may say the same."""
    notes = dict.fromkeys(note for images in sets for note in getattr(images, "notes", ()))
    return [("note", note) for note in list(notes)[:SHOWN]]


def _some(parts: Sequence[str], most: int) -> str:
    return ", ".join(parts[:most]) + (f", … ({len(parts):,})" if len(parts) > most else "")
