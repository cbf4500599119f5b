"""Errors that are told to a person in their own sentence; every other exception is a bug and keeps its traceback."""

from __future__ import annotations

from collections.abc import Sequence


def brief(values: Sequence[object], n: int = 6) -> str:
    """The first n of them, and how many there are: a sentence is no place for a thousand numbers."""
    said = ", ".join(map(str, values[:n]))
    return f"[{said}]" if len(values) <= n else f"[{said}, … ({len(values)} of them)]"


def form(value: object) -> str:
    """What came in another's place: a tensor's shape, or the name of a type."""
    return str(list(value.shape)) if hasattr(value, "shape") else f"a {type(value).__name__}"


class UserError(ValueError):
    """Says in one sentence what was wrong, what came instead, and what to do."""


class NoSuchFileError(UserError, FileNotFoundError):
    """Of a file or folder that is not there."""


class FolderInUseError(UserError, FileExistsError):
    """Of a place that holds something that would be overwritten."""


class WrongTypeError(UserError, TypeError):
    """Of a data set or a tensor of another type than is needed."""


class NotFiniteError(UserError, FloatingPointError):
    """Of a loss or a gradient that is infinite or not a number."""
