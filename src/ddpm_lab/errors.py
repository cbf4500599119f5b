"""Errors that are told to a person in their own sentence; every other exception is a bug and keeps its traceback."""

from __future__ import annotations


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
