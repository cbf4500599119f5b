"""What the doors share: compose the configuration, then the task; errors in one clear sentence.

Nothing heavy is imported until the configuration stands, so that --help and a misspelt option answer at once.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import math
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ddpm_lab.errors import UserError
from ddpm_lab.folders import (
    command_line,
    done,
    folder_of_a_job,
    folder_of_this_command,
    new_folder,
    remember_command_line,
    remove_if_empty,
    stamp,
    swept,
)
from ddpm_lab.jobs import SWEEP, JobFailedError, needs_processes, run_job
from ddpm_lab.sweeps import FAILED, read_result
from ddpm_lab.usage import usage

# Errors that say what was wrong in their message; anything else is a bug and shows its traceback.
LOST = "another process of this job has ended; what it said is above"
NO_COMPILER = (
    "compile=true builds kernels with a C++ compiler (on a GPU with Triton and a C compiler), and none is to be found: install "
    "gcc and g++ (or name them with CC=… and CXX=…), on a GPU also triton, or take compile=false"
)
SPOKEN = (JobFailedError, UserError)


def door(config_name: str, task: str, *also: str) -> None:
    """Run ddpm_lab.tasks.<task>.<task> with the configuration conf/<config_name>.yaml and the command line's overrides.

    also: tasks, each with a configuration of its own name, that the command line may name as its first word.
    """
    command = Path(sys.argv[0]).name
    if sys.argv[1:2] and sys.argv[1] in also:
        config_name = task = sys.argv.pop(1)
        command = f"{command} {task}"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing, and the errors are told below
    remember_command_line()

    def main(config: DictConfig) -> Any:
        sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        folder = Path(HydraConfig.get().runtime.output_dir)
        note = folder / "error.txt"  # of a sweep's job, for the table at the end
        try:
            if config.get("skip_finished") and done(folder) is not None:
                print(f"{folder} is finished, with {done(folder)} steps: skipped", flush=True)
                return read_result(folder, config.optimized_metric)
            if sweep:
                note.unlink(missing_ok=True)
                if needs_processes(config):
                    run_job(list(HydraConfig.get().overrides.task), folder, Path(HydraConfig.get().sweep.dir).name)
                    return read_result(folder, config.optimized_metric)
            module = importlib.import_module(f"ddpm_lab.tasks.{task}")
            return getattr(module, task)(config)
        except Exception as error:
            if not isinstance(error, JobFailedError) or not note.exists():
                sentence = _tell(error, config_name)
                if (sweep or SWEEP in os.environ) and not (sentence == LOST and note.exists()):
                    note.write_text(f"{sentence}\n")
            if not sweep:
                remove_if_empty(folder)
                sys.exit(1)
            return math.nan  # the other jobs go on

    try:
        if {"--help", "-h"} & set(sys.argv[1:]):
            given = [argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith("-")]
            if {"-m", "--multirun"} & set(sys.argv[1:]):
                given = [argument for argument in given if "," not in argument]
            print(usage(command, config_name, _root(), given))
            return
        hydra.main(version_base="1.3", config_path=str(_root() / "conf"), config_name=config_name)(main)()
    except Exception as error:
        _tell(error, config_name)
        sys.exit(1)
    if FAILED:
        sys.exit(1)


def _root() -> Path:
    """The folder of the doors."""
    return Path(command_line()[0]).parent


def _output_folder(kind: str, run: str | None, pretrained: str | None, samples: str | None = None) -> str:
    from ddpm_lab.runs import output_folder

    return str(output_folder(kind, run, pretrained, samples))


def _tell(error: Exception, config_name: str) -> str:
    """Print the sentence that says what was wrong, or the traceback where there is none, and return it."""
    chain = list(_causes(error))
    sentence = _unknown_option(chain, config_name) or next(filter(None, map(_exhausted, chain)), None)
    if sentence is None:
        for cause in reversed(chain):
            if isinstance(cause, OSError) and cause.strerror and cause.filename:
                sentence = (
                    f"{cause.filename}: {cause.strerror}; is it a folder that you may write to? (hydra.run.dir=…)"
                )
                break
            if isinstance(cause, SPOKEN) or type(cause).__name__ == "MisconfigurationException":  # Lightning's
                sentence = str(cause)
                if "in DataLoader worker process" in sentence:  # the worker's whole traceback, its message at the end
                    sentence = sentence.strip().splitlines()[-1].split(": ", 1)[-1]
                break
            if isinstance(cause, RuntimeError) and re.search(r"(closed|reset) by (remote )?peer", str(cause)):
                sentence = LOST
                break
            if re.search(r"No working C\+\+ compiler|Failed to find C compiler|working triton", str(cause)):
                sentence = NO_COMPILER
                break
            if isinstance(cause, OverrideParseException):
                sentence = (
                    f"{cause.override} cannot be read as an option: write key=value, and a value with = , ( {{ or spaces "
                    f"in two pairs of quotes: 'key=\"…\"'"
                )
                break
            if isinstance(cause, (HydraException, OmegaConfBaseException)):
                sentence = " ".join(str(cause).split())
    if sentence is None or "DDPM_LAB_TRACEBACK" in os.environ:
        traceback.print_exception(error)
    if sentence is None:
        return f"{type(error).__name__}: {error}"
    print(f"error: {sentence}", file=sys.stderr)
    return sentence


def _exhausted(error: BaseException) -> str | None:
    """What to do when the disk or a memory is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"the disk is full ({error.strerror}): free some of it; whatever was written before is whole, so the same command "
            "and resume=auto go on from the last checkpoint"
        )
    memory = re.search(
        r"CUDA out of memory. Tried to allocate [\d.]+ \w+|can't allocate memory: you tried to allocate \d+ bytes",
        str(error),
    )
    if memory is None:
        return None
    return (
        f"{memory[0]}: take a smaller data.batch_size and as much more trainer.accumulate_grad_batches (the same gradient), "
        "trainer.precision=bf16-mixed, or network.checkpointing=true (recomputes activations, in the networks that have it); "
        "more GPUs share data.batch_size (trainer=ddp); for pictures and metrics, data.test_batch_size or batch_size"
    )


def _causes(error: BaseException | None) -> Any:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unknown_option(chain: list[BaseException], config_name: str) -> str | None:
    """A misspelt option, with the options that exist where it was sought."""
    for error in chain:
        missing = re.search(r"Missing mandatory value: (\S+)", str(error))
        if missing:
            return f"{missing[1]}=… must be given on the command line"
        choices = re.search(r"Could not find '([^']+)'\s+Available options in '([^']+)':\n((?:\t\S+\n?)+)", str(error))
        if choices:
            name, group, options = choices[1].rsplit("/", 1)[-1], choices[2], choices[3].split()
            near = difflib.get_close_matches(name, options, 1)
            meant = f" did you mean {near[0]}?" if near else ""
            return f"there is no {group}={name};{meant} choices: {', '.join(options)}"
        recipe = re.search(r"Could not find 'experiments/([^']+)'", str(error))
        if recipe:
            recipes = sorted(
                str(p.relative_to(_root() / "experiments").with_suffix(""))
                for p in _root().glob("experiments/*/*.yaml")
            )
            return f"there is no experiments={recipe[1]}; choices: {', '.join(recipes)}"
        found = re.search(r"Could not override '([^']+)'", str(error))
        if not found:
            continue
        key = found[1].lstrip("+~")
        *parents, last = key.split(".")
        while True:
            options = _options(config_name, parents)
            if options or not parents:
                break
            last = parents.pop()
        near = difflib.get_close_matches(last, options, 1)
        meant = f" did you mean {'.'.join([*parents, near[0]])}?" if near else ""
        place = f"in {'.'.join(parents)}" if parents else "at the top"
        return f"there is no option {key};{meant} options {place}: {', '.join(options)}"
    return None


def _options(config_name: str, parents: list[str]) -> list[str]:
    """The keys below `parents` in the configuration that the command line's valid choices of groups make."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    folders = [_root() / "conf", _root() / "conf" / config_name]  # the second: groups of this door alone
    groups = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()}
    chosen = [argument for argument in sys.argv[1:] if argument.split("=")[0] in groups and "," not in argument]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(_root() / "conf"), version_base="1.3"):
            config = compose(config_name, chosen)
        node = OmegaConf.select(config, ".".join(parents)) if parents else config
    except (HydraException, OmegaConfBaseException):
        return []
    return [str(key) for key in node if key != "_target_"] if isinstance(node, DictConfig) else []


# Here and not in `door`: a launcher's processes unpickle a job, which imports this, and never pass a door.
OmegaConf.register_new_resolver("experiments", lambda: f"file://{_root()}", replace=True)
OmegaConf.register_new_resolver("groups_of", lambda name: f"file://{_root()}/conf/{name}", replace=True)
OmegaConf.register_new_resolver("output_folder", _output_folder, replace=True)
OmegaConf.register_new_resolver("job_folder", folder_of_a_job, replace=True)
OmegaConf.register_new_resolver("stamp", stamp, replace=True)
OmegaConf.register_new_resolver("swept", swept, replace=True)
# Once per sweep, whose jobs must not each find a folder of their own.
OmegaConf.register_new_resolver("new_folder", new_folder, replace=True, use_cache=True)
OmegaConf.register_new_resolver("this_command", folder_of_this_command, replace=True, use_cache=True)
