"""Which code a command ran: this package's commit, and every package whose objects its configuration builds."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from omegaconf import DictConfig, OmegaConf

OWN = __package__


class Code(NamedTuple):
    """Where a top-level package comes from; None: not known.

    commit: of the work tree that it is imported from, "+changes" where tracked files of that differ from it or the package has
    Python files that git does not know; or, of what pip installed from a repository, the commit that pip took.
    """

    distribution: str | None
    version: str | None
    folder: str | None
    commit: str | None

    def __str__(self) -> str:
        if self.commit is None:
            return self.version or "unknown"
        return f"{self.version or 'no version'} at {self.commit}"


def origin(*configs: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """For a protocol: the "commit" of this package and, only where others than it and what it needs are built, "packages"."""
    others = {name: str(_code(name)) for name in _built(configs) - {OWN} - _needed()}
    return {"commit": commit()} | ({"packages": dict(sorted(others.items()))} if others else {})


def packages(*configs: DictConfig | Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """For provenance.json: what is known of every top-level package whose objects the configurations build."""
    found = {name: _code(name)._asdict() for name in sorted(_built(configs))}
    return {name: {k: v for k, v in known.items() if v is not None} for name, known in found.items()}


def commit() -> str:
    """The git commit of this package, "+changes" where the tree differs from it; "unknown" outside a checkout."""
    return _code(OWN).commit or "unknown"


def _built(configs: tuple[DictConfig | Mapping[str, Any], ...]) -> set[str]:
    """The top-level packages of what the configurations name, but for the standard library."""
    named = {_top(name) for config in configs for name in _named(_plain(config))}
    return {name for name in named if name not in sys.stdlib_module_names}


def _plain(config: DictConfig | Mapping[str, Any]) -> Any:
    return OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config


def _named(node: Any) -> Iterator[str]:
    """Every _target_, and every other string that is the dotted name of something that was imported."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "_target_":
                yield str(value)
            else:
                yield from _named(value)
    elif isinstance(node, list):
        for value in node:
            yield from _named(value)
    elif isinstance(node, str) and re.fullmatch(r"\w+(\.\w+)+", node):
        found, *names = sys.modules.get(node.partition(".")[0]), *node.split(".")[1:]
        for name in names:
            found = getattr(found, name, None)
        if found is not None:
            yield node


def _top(name: str) -> str:
    """The first part of a dotted name; the first two where the first is a namespace, which several packages share."""
    first, _, rest = name.partition(".")
    spec = _spec(first)
    shared = spec is not None and spec.origin is None and spec.submodule_search_locations is not None
    return f"{first}.{rest.partition('.')[0]}" if shared and rest else first


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


@functools.cache
def _needed() -> set[str]:
    """The modules of what this package requires, as far as they are named like their distributions: torch, lightning, …"""
    try:
        requirements = importlib.metadata.requires("ddpm-lab") or []
    except PackageNotFoundError:
        return set()
    required = [re.split(r"[^\w.-]", line)[0] for line in requirements if "extra ==" not in line]
    return {name.replace("-", "_") for name in required} | {"hydra", "PIL", "sklearn"}


@functools.cache
def _code(name: str) -> Code:
    """Once for each command, so that all that it writes says the same."""
    place = _place(name)
    if place is None:
        return Code(None, None, None, None)
    folder, paths = place
    distributions = _distributions(name, folder)
    version = ", ".join(d.version for d in distributions) or _told(name)
    called = ", ".join(d.name for d in distributions) or None
    if any(_copied(distribution, folder) for distribution in distributions):
        commits = [_direct_url(d).get("vcs_info", {}).get("commit_id", "")[:12] for d in distributions]
        return Code(called, version, None, ", ".join(filter(None, commits)) or None)
    return Code(called, version, str(folder), _commit(folder, paths))


def _told(name: str) -> str | None:
    told = getattr(sys.modules.get(name), "__version__", None)
    return told if isinstance(told, str) else None


def _place(name: str) -> tuple[Path, list[str]] | None:
    """The folder that a package is imported from and all of it; or a module's folder and its file."""
    spec = _spec(name)
    if spec is None or (spec.submodule_search_locations is None and not spec.has_location):
        return None
    if spec.submodule_search_locations is not None:
        return Path(next(iter(spec.submodule_search_locations))).resolve(), ["."]
    file = Path(str(spec.origin)).resolve()
    return file.parent, [file.name]


def _distributions(name: str, folder: Path) -> list[Distribution]:
    """Those that bring the package from this folder, and not from another that it hides."""
    top = name.partition(".")[0]
    with suppress(PackageNotFoundError):
        same = importlib.metadata.distribution(top)
        if top in (same.read_text("top_level.txt") or "").split() and _brings(same, folder):
            return [same]
    names = dict.fromkeys(importlib.metadata.packages_distributions().get(top, []))
    found = [one for one in map(importlib.metadata.distribution, names) if _brings(one, folder)]
    return found or [one for one in importlib.metadata.distributions() if _editable(one, folder)]


def _brings(distribution: Distribution, folder: Path) -> bool:
    return _beside(distribution, folder) or _editable(distribution, folder)


def _beside(distribution: Distribution, folder: Path) -> bool:
    """Whether the distribution's metadata lie beside the package, or around it."""
    metadata = getattr(distribution, "_path", None)
    return metadata is not None and Path(metadata).resolve().parent in (folder, *folder.parents)


def _editable(distribution: Distribution, folder: Path) -> bool:
    url = _direct_url(distribution)
    if not url.get("dir_info", {}).get("editable"):
        return False
    return Path(url2pathname(urlsplit(url["url"]).path)).resolve() in (folder, *folder.parents)


def _copied(distribution: Distribution, folder: Path) -> bool:
    """Whether the package lies where an installation put it, and not in its author's work tree."""
    return _beside(distribution, folder) and Path(getattr(distribution, "_path", "")).suffix == ".dist-info"


def _direct_url(distribution: Distribution) -> dict[str, Any]:
    """What PEP 610 tells of where a distribution was installed from; empty for one from an index."""
    return json.loads(distribution.read_text("direct_url.json") or "{}")


def _commit(folder: Path, paths: list[str]) -> str | None:
    """The commit of the work tree that a folder is in, "+changes" as in Code; None outside one, and where git ignores it."""
    try:
        if not _git(folder, "ls-files", "--", *paths) and _git(folder, "check-ignore", "--", *paths, fine=(0, 1)):
            return None
        revision = _git(folder, "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+changes")
        unknown = _git(folder, "ls-files", "--others", "--exclude-standard", "--", *paths).splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    changed = any(path.endswith(".py") for path in unknown) and not revision.endswith("+changes")
    return revision + "+changes" * changed


def _git(folder: Path, *arguments: str, fine: tuple[int, ...] = (0,)) -> str:
    variables = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}  # a hook's would name another tree
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=variables, capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode not in fine:
        raise subprocess.SubprocessError(done.stderr)
    return done.stdout.strip()
