"""The command line, read as Hydra reads it but for the order: flags may stand anywhere among the overrides."""

from __future__ import annotations

import re
from argparse import Namespace
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser

from ddpm_lab.errors import NoSuchFileError, UserError


def read_arguments(arguments: list[str]) -> Namespace:
    """Hydra's own flags by name (help, multirun, config_dir, …), and the overrides.

    Raises ValueError for a flag that is none, for --config-path, and for a --config-dir that is no folder.
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    if "--version" in arguments:
        print(f"ddpm-lab {version('ddpm-lab')}, Hydra {version('hydra-core')}")
        raise SystemExit(0)
    found = parser.parse_intermixed_args(arguments)
    if found.config_path is not None:
        raise UserError(
            f"--config-path={found.config_path} would leave ddpm-lab's own conf out: --config-dir=… adds yours to it"
        )
    if found.config_dir is not None:
        if not Path(found.config_dir).is_dir():
            raise NoSuchFileError(f"--config-dir={found.config_dir} is no folder")
        found.config_dir = str(Path(found.config_dir).resolve())
    found.overrides = [_quoted(line) for line in found.overrides]
    return found


def in_order(found: Namespace) -> list[str]:
    """The same arguments, flags first and each in one word, as Hydra can read them, and with them every process after."""
    flags = {f"--{name.replace('_', '-')}": value for name, value in vars(found).items() if name != "overrides"}
    words = [
        name if value is True else f"{name}={value}" for name, value in flags.items() if value not in (None, False)
    ]
    return [*words, *found.overrides]


def own_folders(found: Namespace) -> list[str]:
    """The folders of --config-dir and hydra.searchpath, which the door's own are added to."""
    folders = [] if found.config_dir is None else [f"file://{found.config_dir}"]
    lines = [line for line in found.overrides if line.lstrip("+").startswith("hydra.searchpath=")]
    for override in OverridesParser.create().parse_overrides(lines):
        value = override.value()
        if not isinstance(value, list):
            raise UserError(f"{override.input_line} must be a list of folders: hydra.searchpath=[…]")
        folders += [str(folder) for folder in value]
    return folders


def _quoted(line: str) -> str:
    """Hydra reads no bare = in a value, and a sweep's jobs lie in folders such as schedule=linear."""
    key, _, value = line.partition("=")
    return f'{key}="{value}"' if re.fullmatch(r"[\w./+:@~-]*=[\w./+:@~=-]*", value) else line


def _refuse(message: str) -> NoReturn:
    flags = "--help, -m, --cfg job, --config-dir=… and --config-name=…"
    if message.startswith("unrecognized arguments: "):
        message = f"there is no {message.split(': ', 1)[1]}"
    raise UserError(f"{message}; options are written without dashes, key=value, and the flags are {flags}")
