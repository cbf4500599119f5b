"""Which files below a folder are its images, and what was passed over."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from PIL import features

from ddpm_lab.errors import NoSuchFileError, UserError

SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"),
    *([".avif"] if features.check("avif") else []),  # Pillow 11.3 and later
}
NEVER = {"__MACOSX", "@eaDir", "lost+found", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information"}
"""Folders that file managers, archivers and file systems make for themselves."""
SHOWN = 5  # names in a note


class Listing(NamedTuple):
    """Images below a folder.

    paths: relative to it, sorted. notes: sentences about what was passed over.
    """

    paths: list[str]
    notes: tuple[str, ...]


def images_below(folder: Path) -> Listing:
    """Return the images below a folder.

    Names beginning with a dot and folders of the system's own are passed over. A link to a folder is followed, unless what it
    leads to is read already or holds the folder itself: no image is found twice by way of folders.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if a folder cannot be listed.

    """
    found: list[str] = []
    again: list[str] = []
    hidden: list[str] = []
    broken: list[str] = []
    endings: Counter[str] = Counter()
    top, seen, links = os.path.realpath(folder), set[str](), [""]  # "": the folder itself
    while links:
        link = links.pop(0)
        real = os.path.realpath(os.path.join(folder, link))
        inside = [(link, real)]
        if link and (real == top or top.startswith(os.path.join(real, ""))):
            again.append(link)
            continue
        while inside:
            here, real = inside.pop()
            if real in seen:
                again.append(here)
                continue
            seen.add(real)
            for entry in _entries(os.path.join(folder, here)):
                path = os.path.join(here, entry.name)
                ending = os.path.splitext(entry.name)[1].lower()
                is_folder = _is_folder(entry)
                if is_folder:
                    if is_hidden(entry.name):
                        hidden.append(entry.name)
                    elif entry.is_symlink():
                        links.append(path)
                    else:
                        inside.append((path, os.path.join(real, entry.name)))
                elif is_folder is None:
                    broken.append(path)
                elif is_hidden(entry.name):
                    hidden += [entry.name] if ending in SUFFIXES else []
                elif ending in SUFFIXES:
                    found.append(path)
                else:
                    endings[ending or "without an ending"] += 1
        links.sort()  # the same ones are followed on every machine
    others = ", ".join(
        f"{n:,} {ending}" for ending, n in sorted(endings.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    )
    if not found:
        raise NoSuchFileError(
            f"No image below {folder.resolve()}: put {', '.join(sorted(SUFFIXES))} files there, or name another folder "
            f"(data.dataset.root=… for a data set).{f' Its files are {others}.' if others else ''}"
        )
    passed_over = {
        "files that by their endings are no images that can be read": others,
        "hidden files and folders": counted(hidden),
        "links to folders that are read already, or that hold this one,": counted(again),
        "broken links": counted(broken),
    }
    notes = tuple(f"{what} are passed over: {names}" for what, names in passed_over.items() if names)
    return Listing(sorted(found), notes)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of its owner's."""
    return name.startswith(".") or name in NEVER


def _entries(folder: str) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(
            f"Cannot list the folder {folder} ({error.strerror}): make it readable or remove it."
        ) from error


def _is_folder(entry: "os.DirEntry[str]") -> bool | None:
    """Whether it is a folder or a file; None for a link that leads to neither."""
    try:
        return entry.is_dir() or (False if entry.is_file() else None)
    except OSError:  # a link to itself
        return None


def counted(names: Iterable[str]) -> str:
    """Return the first names in words, each with its number where it is there more than once."""
    counts = Counter(names)
    shown = [name if n == 1 else f"{n:,} {name}" for name, n in sorted(counts.items())[:SHOWN]]
    return ", ".join(shown) + (f", … ({len(counts):,})" if len(counts) > SHOWN else "")
