"""What differs between the configurations of two sessions of a run, by the names of the options."""

from __future__ import annotations

import inspect
import re
from typing import Any, NamedTuple

from hydra.utils import get_object

NOT_SET = "not set"
HOW = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")  # of a node, and no option of what it builds


class Difference(NamedTuple):
    """An option, or a group whose choice is another, with its value before and now, for people."""

    name: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.name} {self.before} -> {self.now}"

    @property
    def group(self) -> str:
        """The option at the top that it belongs to."""
        return self.name.split(".")[0]


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    """The options that differ between two resolved configurations; numbers count as what they are, 1e-3 as 0.001.

    Where one of them lacks an option it stands for the default of what the node builds, and without a node for none at all:
    configurations of other versions have others. What an interpolation has copied to a second place is told once.
    """
    found = list(_walk("", before, now))
    return [one for one in found if not any(_copies(one, other) for other in found)]


def _copies(one: Difference, other: Difference) -> bool:
    return one.name.endswith(f".{other.name}") and one[1:] == other[1:]


def _walk(name: str, before: Any, now: Any) -> Any:
    if not (isinstance(before, dict) and isinstance(now, dict)):
        if not _same(before, now):
            yield Difference(name, shown(before), shown(now))
        return
    target = now.get("_target_")
    if target != before.get("_target_"):
        yield Difference(name, shown(before), shown(now))
        return
    for key in dict.fromkeys([*before, *now]):
        inside = f"{name}.{key}" if name else str(key)
        if key in HOW:
            continue
        if key in before and key in now:
            yield from _walk(inside, before[key], now[key])
        elif target is not None:
            default = _default(target, key)
            one, two = before.get(key, default), now.get(key, default)
            if default != GONE and not _same(one, two):
                yield Difference(inside, shown(one), shown(two))


GONE = "an option that is none any more"


def _default(target: str, key: str) -> Any:
    """What `target` takes for an argument that is not given: NOT_SET if nobody can say, GONE if it has none of that name."""
    try:
        parameters = inspect.signature(get_object(target)).parameters
    except (ImportError, TypeError, ValueError):
        return NOT_SET
    if key in parameters:
        default = parameters[key].default
        return NOT_SET if default is inspect.Parameter.empty else default
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return NOT_SET if takes_any else GONE


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        return len(one) == len(two) and all(map(_same, one, two))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_same(one[key], two[key]) for key in one)
    if isinstance(one, bool) or isinstance(two, bool):
        return one is two
    return one == two or _number(one) == _number(two) is not None


def _number(value: Any) -> float | None:
    """A number, also one that YAML has read as a word."""
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            return None
    return None


def shown(value: Any) -> str:
    """A value as a person would write it: a choice of a group by its name, long lists by their ends."""
    if isinstance(value, dict):
        if "_target_" not in value:
            return "{" + ", ".join(f"{key}: {shown(part)}" for key, part in list(value.items())[:4]) + "}"
        choice = value.get("name") or value["_target_"].rsplit(".", 1)[-1]
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", choice).lower()
    if isinstance(value, (list, tuple)):
        parts = [shown(part) for part in value]
        return f"[{', '.join(parts if len(parts) <= 6 else [*parts[:3], '…', *parts[-2:]])}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
