"""Where what can be chosen is found: conf/, conf/<door>/ and experiments/, then the same of a user's own repository.

A user's own folders come from a SearchPathPlugin in their package (docs/own_repository.md), --config-dir, or hydra.searchpath.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from ddpm_lab.errors import UserError


class Entered(NamedTuple):
    """The door of this process. conf: its folder conf/. door: its name. given: a user's own folders, of the command line."""

    conf: Path
    door: str
    given: list[str]


_entered: list[Entered] = []  # the last is where choices are sought


def enter(conf: Path, door: str, given: Iterable[str] = ()) -> None:
    """Let Hydra find the groups of this door in this process, and what is in the folders that the command line has given."""
    _entered[:] = [Entered(conf, door, list(given))]
    Plugins.instance().register(DoorFolders)


@contextmanager
def opened(door: str | None = None) -> Iterator[None]:
    """Compose configurations inside (`hydra.compose`), those of another door where one is named."""
    entered = _entered[-1] if door is None else _entered[-1]._replace(door=door)
    _entered.append(entered)
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(entered.conf), version_base="1.3"):
            yield
    finally:
        _entered.pop()
        GlobalHydra.instance().hydra = outer


def is_ddpm_lab(search_path: ConfigSearchPath) -> bool:
    """Whether this is the search path of one of ddpm-lab's doors: a plugin sees that of every Hydra app of its environment."""
    main = [element.path for element in search_path.get_path() if element.provider == "main"]
    return bool(_entered) and [Path(str(path).removeprefix("file://")) for path in main] == [_entered[-1].conf]


class DoorFolders(SearchPathPlugin):
    """Adds what a door has beside conf/, to which hydra.searchpath adds. Registered last, it has seen the user's plugins."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append conf/<door>, the folder of experiments/, the user's own folders, and in each of them <door>/."""
        if not is_ddpm_lab(search_path):
            return
        conf, door, given = _entered[-1]
        for path in given:
            search_path.append("command-line", path)
        for element in list(search_path.get_path()):
            folder = None if element.provider == "hydra" else _folder(str(element.path))
            if folder is not None and (folder / door).is_dir():
                search_path.append(element.provider, f"file://{folder / door}")
        search_path.append("ddpm-lab", f"file://{conf.parent}")  # of experiments/


def choices(group: str) -> list[str]:
    """The names that a group can take, those in its folders' folders too; inside `opened`."""
    loader = GlobalHydra.instance().config_loader()
    inside = [f"{name}/{choice}" for name in loader.list_groups(group) for choice in choices(f"{group}/{name}")]
    return sorted({*loader.get_group_options(group, ObjectType.CONFIG), *inside})


def check_choices(sources: Iterable[Any], chosen: Mapping[str, Any]) -> None:
    """Raise ValueError where a chosen file hides another of the same name in a user's folder, which would never be read.

    sources: hydra.runtime.config_sources, in the order of reading. chosen: group -> choice, hydra.runtime.choices.
    """
    folders = [_folder(f"{source.schema}://{source.path}") for source in sources]
    for group, choice in chosen.items():
        files = [folder / group / f"{choice}.yaml" for folder in folders if folder is not None]
        files = list(dict.fromkeys(path for path in files if path.is_file()))
        hidden = [path for path in files if path.read_bytes() != files[0].read_bytes()]
        if hidden:
            raise UserError(
                f"{group}={choice} is read from {files[0]}, which hides {hidden[0]}: give that file another name"
            )


def _folder(path: str) -> Path | None:
    """The folder of a search path's element; None where it is none, as of structured:// and what is not installed."""
    scheme, _, place = path.rpartition("://")
    if scheme == "pkg":
        try:
            found = importlib.util.find_spec(place.replace("/", "."))
        except ImportError:
            return None
        places = list(found.submodule_search_locations or []) if found is not None else []
        return Path(places[0]) if places else None
    return Path(place).absolute() if scheme in ("", "file") else None
