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
from types import ModuleType

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

LIBRARIES = (*(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), "<frozen")


def failed_target(chain: list[BaseException], config: DictConfig | None) -> str | None:
    """The sentence, or None where no target has failed or an error in its own code has ended it, which is a bug there.

    chain: an exception and what has caused it. config: of the command.
    """
    for error in chain:
        found = re.match(r"Error locating target '([^']+)'", str(error))
        if isinstance(error, InstantiationException) and found:
            return _lost(found[1], _key(error), chain[-1], config)
        if isinstance(error, TypeError):
            sentence = _mismatch(error, config)
            if sentence is not None:
                return sentence
    return None


def _lost(target: str, key: str, cause: BaseException, config: DictConfig | None) -> str:
    """Of a target that is not there, or whose module cannot be imported."""
    run = None if config is None else config.get("run")
    where = f"run={run}" if run is not None else key or "the configuration"
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
    known = [name for name in (*vars(parent), *modules) if not name.startswith("_")]
    return f"{named}: {kind} {parent.__name__} has no {leaf};{meant(leaf, known)} it has {', '.join(known) or 'none'}"


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
    missing = re.search(r"missing \d+ required (?:positional|keyword-only) arguments?: (.+)", str(error))
    if missing:
        options = [f"{key}.{argument}=…" for argument in re.findall(r"'(\w+)'", missing[1])]
        return f"{' and '.join(options)} must be given: {name} has no default for it"
    return None


def _key(error: BaseException) -> str:
    found = re.search(r"full_key: (\S+)", str(error))
    return found[1] if found else ""


def meant(name: str, known: list[str], prefix: str = "") -> str:
    """The question whether another was meant, where one of those known is like it."""
    near = difflib.get_close_matches(name, known, 1)
    return f" did you mean {prefix}{near[0]}?" if near else ""
