"""What is told of a `_target_` that cannot be found, imported or called: which, why, and in which line."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import pkgutil
import re
import sysconfig
import traceback
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from ddpm_lab.errors import brief

LIBRARIES = (*(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), "<frozen")


def failed_target(chain: list[BaseException], config: DictConfig | None) -> str | None:
    """The sentence, or None where no target has failed or an error in its own code has ended it, which is a bug there.

    chain: an exception and what has caused it. config: of the command.
    """
    for error in chain:
        found = re.match(r"Error (?:locating target|loading) '([^']+)'", str(error))
        if isinstance(error, (InstantiationException, ImportError)) and found:
            loading = [cause for cause in chain if str(cause).startswith("Error loading ")] or [error]
            return _lost(found[1], _key(error), loading[-1].__cause__ or loading[-1], config)
        if isinstance(error, TypeError):
            sentence = _mismatch(error, config)
            if sentence is not None:
                return sentence
    return None


def _lost(target: str, key: str, cause: BaseException, config: DictConfig | None) -> str:
    """Of a target that is not there, or whose module cannot be imported."""
    run = None if config is None else config.get("run")
    key = key or _key_of(target, config) or "the configuration"
    where = key if run is None else f"run={run}: {key}"
    named = f"{where}: _target_ {target}"
    if isinstance(cause, SyntaxError):
        return f"{named}: {cause.filename}, line {cause.lineno}: {type(cause).__name__}: {cause.msg}"
    if isinstance(cause, ModuleNotFoundError) and cause.name and f"{target}.".startswith(f"{cause.name}."):
        parent, _, leaf = cause.name.rpartition(".")
        if not parent:
            return f"{where} needs the package {leaf} for {target}, and it is not installed here ({cause})"
        return _misspelt(named, importlib.import_module(parent), leaf)
    if (
        isinstance(cause, AttributeError)
        and isinstance(cause.obj, (ModuleType, type))
        and cause.name in target.split(".")
    ):
        return _misspelt(named, cause.obj, cause.name)
    frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if not frame.filename.startswith(LIBRARIES)]
    line = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
    return f"{named}: {line}{type(cause).__name__}: {cause}"


def _misspelt(named: str, parent: ModuleType | type, leaf: str) -> str:
    modules = [module.name for module in pkgutil.iter_modules(getattr(parent, "__path__", []))]
    kind = "the class" if isinstance(parent, type) else "the package" if hasattr(parent, "__path__") else "the module"
    names = [
        name for name, value in vars(parent).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    ]
    known = [*names, *modules]
    return f"{named}: {kind} {parent.__name__} has no {leaf};{meant(leaf, known)} it has {brief(known, 12)}"


def _mismatch(error: TypeError, config: DictConfig | None) -> str | None:
    """Of a target that was called with other arguments than it takes; None for any other TypeError."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    inside = frames[-1].f_locals if frames else {}
    call = inside.get("self")
    if isinstance(call, functools.partial) and hasattr(call, "_hydra_full_key"):  # Hydra's own, called by us
        target, key = call.func, str(call._hydra_full_key)
    elif "_target_" in inside and "full_key" in inside:
        target, key = inside["_target_"], inside["full_key"]
    else:
        return None
    name = f"{target.__module__}.{target.__qualname__}"
    unknown = re.search(r"got an unexpected keyword argument '(\w+)'", str(error))
    if unknown:
        node = None if config is None else OmegaConf.select(config, key)
        given = isinstance(node, DictConfig) and unknown[1] in node
        takes = [p for p in inspect.signature(target).parameters if p != "self"]
        why = "" if given else f", which every {key} is given beside its own options"
        return f"{key}: {name} takes no {unknown[1]}{why};{meant(unknown[1], takes)} it takes {', '.join(takes) or 'nothing'}"
    abstract = re.match(r"Can't instantiate abstract class .+ abstract methods? (.+)", str(error))
    if abstract:
        return f"{key}: {name} lacks what its base class asks for: {abstract[1]}"
    missing = re.search(r"missing \d+ required (?:positional|keyword-only) arguments?: (.+)", str(error))
    if missing and inspect.isfunction(target) and not isinstance(call, functools.partial):
        asked = ", ".join(re.findall(r"'(\w+)'", missing[1]))
        return (
            f"{key}: {name} needs {asked} too: give {key}.…=…, or, where it is what is to be called with them later, as an "
            "objective is, add _partial_: true beside its _target_"
        )
    if missing:
        options = [f"{key}.{argument}=…" for argument in re.findall(r"'(\w+)'", missing[1])]
        return f"{' and '.join(options)} must be given: {name} has no default for it"
    return None


def _key_of(target: str, node: DictConfig | None) -> str:
    """Where a configuration names the target; "" where it does not."""
    plain = {} if node is None else OmegaConf.to_container(node)
    found = [key for key, value in _targets(plain, ()) if value == target]
    return ".".join(found[0]) if found else ""


def _targets(node: Any, key: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node["_target_"]
        for name, child in node.items():
            yield from _targets(child, (*key, str(name)))


def _key(error: BaseException) -> str:
    found = re.search(r"full_key: (\S+)", str(error))
    return found[1] if found else ""


def meant(name: str, known: list[str], prefix: str = "") -> str:
    """The question whether another was meant, where one of those known is like it."""
    near = difflib.get_close_matches(name, known, 1)
    return f" did you mean {prefix}{near[0]}?" if near else ""
