"""What is told of an error: one sentence that says what was wrong, or the traceback where there is none."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from typing import Any

from hydra import compose
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from ddpm_lab import searchpath
from ddpm_lab.errors import UserError
from ddpm_lab.folders import command_line
from ddpm_lab.jobs import JobFailedError
from ddpm_lab.targets import failed_target, meant

LOST = "another process of this job has ended; what it said is above"
NO_COMPILER = (
    "compile=true builds kernels with a C++ compiler (on a GPU with Triton and a C compiler), and none is to be found: install "
    "gcc and g++ (or name them with CC=… and CXX=…), on a GPU also triton, or take compile=false"
)
OF_OPTUNA = {
    "No trials are completed yet": "Optuna has nothing to choose from: every job of the sweep failed",
    "`Study.stop` is supposed to be": "Optuna's grid ended with a job that failed, and wrote no optimization_results.yaml; the "
    "table of the sweep is whole",
}
SPOKEN = (
    JobFailedError,
    UserError,
)  # errors that say what was wrong in their message; others are bugs, but for the few below


def tell(error: Exception, config_name: str, config: DictConfig | None = None) -> str:
    """Print the sentence that says what was wrong, or the traceback where there is none, and return it.

    config_name: of the command's configuration. config: that configuration, where it has been composed.
    """
    sentence = _sentence(list(_causes(error)), config_name, config)
    if sentence is None or "DDPM_LAB_TRACEBACK" in os.environ:
        traceback.print_exception(error)
    if sentence is None:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    print(f"error: {sentence}", file=sys.stderr)
    return sentence


def _sentence(chain: list[BaseException], config_name: str, config: DictConfig | None) -> str | None:
    """chain: the exception, and what has caused it."""
    found = next(filter(None, map(_exhausted, chain)), None)
    if found is not None:
        return found
    for cause in reversed(chain):
        if isinstance(cause, SPOKEN) or type(cause).__name__ == "MisconfigurationException":  # Lightning's
            sentence = str(cause)
            if "in DataLoader worker process" in sentence:  # the worker's whole traceback, its message at the end
                sentence = sentence.strip().splitlines()[-1].split(": ", 1)[-1]
            return sentence
    for said, sentence in OF_OPTUNA.items():
        if said in str(chain[0]):
            return sentence
    found = failed_target(chain, config) or _unknown_option(chain, config_name)
    if found is not None:
        return found
    for cause in reversed(chain):
        found = _out_of_reach(cause)
        if found is not None:
            return found
        if isinstance(cause, RuntimeError) and re.search(r"(closed|reset) by (remote )?peer", str(cause)):
            return LOST
        if re.search(r"No working C\+\+ compiler|Failed to find C compiler|working triton", str(cause)):
            return NO_COMPILER
        if isinstance(cause, OverrideParseException):
            return (
                f"{cause.override} cannot be read as an option: write key=value, and a value with = , ( {{ or spaces "
                f"in two pairs of quotes: 'key=\"…\"'"
            )
        if isinstance(cause, InstantiationException):
            return None  # of an exception in what was built, which is no matter of its options
    for cause in chain:
        if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and cause.full_key:
            group = cause.full_key.split(".")[0]
            return f"there is no {cause.full_key} in the configuration: the YAML file that {group}=… names must have it"
    of_hydra = [cause for cause in chain if isinstance(cause, (HydraException, OmegaConfBaseException))]
    return " ".join(str(of_hydra[0]).split()) if of_hydra else None


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


def _out_of_reach(error: BaseException) -> str | None:
    """Of a place that cannot be written to, or is of another kind."""
    kinds = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
    if not isinstance(error, OSError) or not error.filename:
        return None
    if error.errno in kinds or [f.name for f in traceback.extract_tb(error.__traceback__)][-1:] == ["mkdir"]:
        return f"{error.filename}: {error.strerror}; is it a folder that you may write to? (hydra.run.dir=…)"
    return None


def _unknown_option(chain: list[BaseException], config_name: str) -> str | None:
    """A misspelt option, with the options that exist where it was sought."""
    for error in chain:
        missing = re.search(r"Missing mandatory value: (\S+)", str(error))
        if missing:
            return f"{missing[1]}=… must be given on the command line"
        choice = re.search(r"Could not find '([^']+/[^']+)'", str(error))
        if choice:
            group, names = _choices(choice[1], config_name)
            name = choice[1].removeprefix(f"{group}/")
            return f"there is no {group}={name};{meant(name, names)} choices: {', '.join(names)}"
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
        near = meant(last, options, ".".join([*parents, ""]))
        place = f"in {'.'.join(parents)}" if parents else "at the top"
        return f"there is no option {key};{near} options {place}: {', '.join(options)}"
    return None


def _choices(path: str, config_name: str) -> tuple[str, list[str]]:
    """The group whose choice was sought at `path`, which may be in a folder of it, and all its names."""
    with searchpath.opened():
        try:
            groups = compose(config_name, return_hydra_config=True).hydra.runtime.choices
        except (HydraException, OmegaConfBaseException):
            groups = []
        group = next((group for group in groups if path.startswith(f"{group}/")), path.rpartition("/")[0])
        return group, searchpath.choices(group)


def _options(config_name: str, parents: list[str]) -> list[str]:
    """The keys below `parents` in the configuration that the command line's valid choices of groups make."""
    given = [word for word in command_line()[1:] if "," not in word and not word.startswith("-")]
    try:
        with searchpath.opened():
            groups = compose(config_name, return_hydra_config=True).hydra.runtime.choices
            config = compose(config_name, [word for word in given if word.split("=")[0].lstrip("~") in groups])
        node = OmegaConf.select(config, ".".join(parents)) if parents else config
    except (HydraException, OmegaConfBaseException):
        return []
    return [str(key) for key in node if key != "_target_"] if isinstance(node, DictConfig) else []
