"""Which folder a command writes to, that of an earlier, equal command or a new one; and whether its run is finished."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from ddpm_lab.errors import UserError

COMMAND = "DDPM_LAB_COMMAND"
KINDS = ("evaluations", "drawn")  # of folders of a run, in which evaluate.py and sample.py make their own
GO_ON = ("resume=auto", "resume=last", "skip_finished=true", "skip_finished=True")


def remember_command_line() -> None:
    """Keep the command line for the processes that a launcher may run a sweep's jobs in, whose own is another."""
    os.environ[COMMAND] = json.dumps([str(Path(sys.argv[0]).resolve()), *sys.argv[1:]])


def command_line() -> list[str]:
    """The door's path and its arguments, as the user gave them."""
    return json.loads(os.environ[COMMAND])


def folder_of_this_command(new: str, config_name: str) -> str:
    """The newest folder beside `new` of a command that differs from this one only in whether it goes on; `new` if none.

    config_name: the configuration whose options it overrides, which --config-name can change.
    Where this command does not ask to go on (resume=auto, resume=last, skip_finished=true), it is `new`.
    """
    arguments = command_line()[1:]
    if not any(argument in GO_ON for argument in arguments):
        return new
    mine = _what_matters(argument for argument in arguments if not argument.startswith("-"))
    sweep = "--multirun" in arguments or "hydra.mode=MULTIRUN" in arguments
    record = "multirun.yaml" if sweep else ".hydra/overrides.yaml"
    equal = [path for path in Path(new).parent.glob(f"*/{record}") if _what_matters(overrides_of(path)) == mine]
    equal = [path for path in equal if _config_name_of(path) in (None, config_name)]
    if not equal:
        return new
    newest = max(equal, key=lambda path: path.stat().st_mtime)
    return str(newest.parents[0 if sweep else 1])


def why_new(folder: Path) -> str:
    """Why a command that asked to go on has nothing to go on with in its folder."""
    record = folder / ".hydra" / "overrides.yaml"
    arguments = command_line()[1:]
    if record.is_file() or any(argument.startswith(("hydra.run.", "hydra.sweep.")) for argument in arguments):
        return f"{folder} holds no checkpoint"
    beside = sorted(folder.parent.glob("*/.hydra/overrides.yaml"), key=lambda path: path.stat().st_mtime)
    if not beside:
        return f"there is no run in {folder.parent}"
    mine, its = (_what_matters(o) for o in (HydraConfig.get().overrides.task, overrides_of(beside[-1])))
    differs = [f"{o} here" for o in sorted(mine - its)] + [f"{o} there" for o in sorted(its - mine)]
    more = f" and {len(differs) - 4} more" if len(differs) > 4 else ""
    return (
        f"none of the {len(beside)} runs in {folder.parent} is of the same command (the newest, {beside[-1].parents[1].name}, "
        f"differs in {', '.join(differs[:4])}{more}); hydra.run.dir=… names one"
    )


def keep_command(folder: Path, composed: DictConfig) -> None:
    """Write what Hydra has composed, its own settings and the overrides to .hydra, as it does where it may write at once."""
    record = folder / ".hydra"
    record.mkdir(exist_ok=True)
    OmegaConf.save(composed, record / "config.yaml")
    OmegaConf.save(HydraConfig.instance().cfg, record / "hydra.yaml")
    OmegaConf.save(HydraConfig.get().overrides.task, record / "overrides.yaml")


def is_empty(folder: Path) -> bool:
    """Whether there is nothing in it."""
    return not any(folder.iterdir())


def leave_nothing(folder: Path) -> None:
    """Take a folder away that was empty when this command began, and in which it has done no more than prepare its work."""
    later_rank = any(os.environ.get(name, "0") != "0" for name in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))
    prepared = {"scalars.csv", "wandb", "tensorboard"}  # by a run whose first step has not come
    if not later_rank and folder.is_dir() and folder.resolve() != Path.cwd() and set(os.listdir(folder)) <= prepared:
        shutil.rmtree(folder)
        if folder.parent.name in KINDS:
            with suppress(OSError):
                folder.parent.rmdir()


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


def _what_matters(overrides: Iterable[str]) -> set[str]:
    """The overrides but for Hydra's own, those that say whether to go on, and what changes no run."""
    others = ("hydra.", "hydra/", "resume=", "allow_changes=", "skip_finished=", "data.inspect=")
    return {override for override in overrides if not override.startswith(others)}


def overrides_of(record: Path) -> list[str]:
    """The overrides that a run or a sweep was made with, from Hydra's record of it."""
    found = OmegaConf.load(record)
    return list(found.hydra.overrides.task if record.name == "multirun.yaml" else found)


def _config_name_of(record: Path) -> str | None:
    """The configuration that a run or a sweep was made with; None where Hydra has left no record of it."""
    path = record if record.name == "multirun.yaml" else record.with_name("hydra.yaml")
    return OmegaConf.load(path).hydra.job.config_name if path.is_file() else None
