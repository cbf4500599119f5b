"""Which folder a command writes to, that of an earlier, equal command or a new one; and whether its run is finished."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from ddpm_lab.errors import UserError

COMMAND = "DDPM_LAB_COMMAND"
GO_ON = ("resume=auto", "resume=last", "skip_finished=true", "skip_finished=True")


def remember_command_line() -> None:
    """Keep the command line for the processes that a launcher may run a sweep's jobs in, whose own is another."""
    os.environ[COMMAND] = json.dumps([str(Path(sys.argv[0]).resolve()), *sys.argv[1:]])


def command_line() -> list[str]:
    """The door's path and its arguments, as the user gave them."""
    return json.loads(os.environ[COMMAND])


def folder_of_this_command(new: str) -> str:
    """The newest folder beside `new` of a command that differs from this one only in whether it goes on; `new` if none.

    Where this command does not ask to go on (resume=auto, resume=last, skip_finished=true), it is `new`.
    """
    arguments = command_line()[1:]
    if not any(argument in GO_ON for argument in arguments):
        return new
    mine = _what_matters(argument for argument in arguments if not argument.startswith("-"))
    sweep = "-m" in arguments or "--multirun" in arguments
    record = "multirun.yaml" if sweep else ".hydra/overrides.yaml"
    equal = [path for path in Path(new).parent.glob(f"*/{record}") if _what_matters(overrides_of(path)) == mine]
    if not equal:
        return new
    newest = max(equal, key=lambda path: path.stat().st_mtime)
    return str(newest.parents[0 if sweep else 1])


def stamp(now: str) -> str:
    """A new folder's name: `now`, or for processes that a launcher has started one that they agree in without a word.

    Raises ValueError where they could not: torchrun on several nodes without a name for the run.
    """
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return f"slurm-{os.environ['SLURM_JOB_ID']}-{os.environ['SLURM_STEP_ID']}"
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "TORCHELASTIC_RUN_ID" not in os.environ:
        return now
    name = os.environ["TORCHELASTIC_RUN_ID"]
    if name != "none":
        return f"torchrun-{name}"
    if int(os.environ["GROUP_WORLD_SIZE"]) > 1:
        raise UserError("torchrun on several nodes needs a name that they share: add --rdzv-id=…, or hydra.run.dir=…")
    return f"torchrun-{os.getppid()}-{int(Path(f'/proc/{os.getppid()}').stat().st_ctime)}"


@functools.cache  # what names the folder is asked more than once, and makes it the first time
def new_folder(parent: str, now: str) -> str:
    """A folder below `parent` of this command's own, named `stamp(now)`, with _2, _3, … where that is another's."""
    name = stamp(now)
    for k in itertools.count(1):
        folder = Path(parent) / (name if k == 1 else f"{name}_{k}")
        if name != now:  # processes of one command, none of which writes before all are here
            if not folder.is_dir() or not any(folder.iterdir()):
                break
            continue
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    return str(folder)


def remove_if_empty(folder: Path) -> None:
    """Leave nothing of a command that has written nothing: neither its folder, nor those above that hold nothing else."""
    with suppress(OSError):
        os.removedirs(folder)


def shown(path: Path) -> Path:
    """The path as people read it: from here where it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def folder_of_a_job(overrides: str) -> str:
    """A job's overrides, joined by commas, as the name of one folder; one that is too long for a folder ends in a hash."""
    name = overrides.replace("/", "_")
    return name if len(name) <= 150 else f"{name[:140]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def swept(overrides: list[str]) -> str:
    """Those of a job's overrides that its sweep varies, joined by commas; all where it varies none."""
    given = OverridesParser.create().parse_overrides([a for a in command_line()[1:] if not a.startswith("-")])
    fixed = {override.key_or_group for override in given if not override.is_sweep_override()}
    varied = [override for override in overrides if override.split("=")[0].lstrip("+~") not in fixed]
    return ",".join(varied or sorted(_what_matters(overrides)) or ["job"])


def mark_done(folder: Path, step: int) -> None:
    """Say that the run, its end phase included, is finished after `step` steps: the file DONE."""
    partial = folder / "DONE.partial"
    partial.write_text(f"{step}\n")
    partial.replace(folder / "DONE")


def mark_undone(folder: Path) -> None:
    """Say that the run goes on."""
    (folder / "DONE").unlink(missing_ok=True)


def done(folder: Path) -> int | None:
    """The steps of a finished run; None where there is no DONE, or not of a finished one."""
    try:
        return int((folder / "DONE").read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _what_matters(overrides: object) -> set[str]:
    """The overrides but for Hydra's own and those that say whether to go on."""
    return {o for o in overrides if not o.startswith(("hydra.", "hydra/", "resume=", "skip_finished="))}  # type: ignore[attr-defined]


def overrides_of(record: Path) -> list[str]:
    """The overrides that a run or a sweep was made with, from Hydra's record of it."""
    found = OmegaConf.load(record)
    return list(found.hydra.overrides.task if record.name == "multirun.yaml" else found)
