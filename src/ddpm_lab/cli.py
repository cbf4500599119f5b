"""What the doors share: compose the configuration, then the task; errors in one clear sentence.

Nothing heavy is imported until the configuration stands, so that --help and a misspelt option answer at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import OverridesConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ddpm_lab import searchpath, sweeps
from ddpm_lab.arguments import in_order, own_folders, read_arguments
from ddpm_lab.errors import UserError
from ddpm_lab.folders import (
    command_line,
    done,
    folder_of_a_job,
    folder_of_this_command,
    is_empty,
    leave_nothing,
    new_folder,
    remember_command_line,
    stamp,
    swept,
)
from ddpm_lab.jobs import SWEEP, JobFailedError, needs_processes, run_job
from ddpm_lab.sentences import LOST, tell
from ddpm_lab.usage import usage


def door(config_name: str, task: str, *also: str) -> None:
    """Run ddpm_lab.tasks.<task>.<task> with the configuration conf/<config_name>.yaml and the command line's overrides.

    also: tasks, each with a configuration of its own name, that the command line may name as its first word.
    """
    command, conf, groups = Path(sys.argv[0]).name, Path(sys.argv[0]).resolve().parent / "conf", config_name
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing, and the errors are told below
    try:
        given = read_arguments(sys.argv[1:])
        if given.overrides and given.overrides[0] in also:
            groups = config_name = task = given.overrides.pop(0)
            command = f"{command} {task}"
        config_name = given.config_name or config_name
        sys.argv[1:] = in_order(given)
        remember_command_line()
        enter = partial(searchpath.enter, conf, groups, own_folders(given))
        enter()
        if given.help:
            overrides = [line for line in given.overrides if not (given.multirun and "," in line)]
            print(usage(command, config_name, conf / f"{groups}.yaml", overrides))
            return
        main = _job(enter, config_name, task)
        hydra.main(version_base="1.3", config_path=str(conf), config_name=config_name)(main)()
    except Exception as error:
        tell(error, config_name)
        sys.exit(1)
    finally:
        sweeps.end()
    if sweeps.FAILED:
        sys.exit(1)


def _job(enter: Callable[[], None], config_name: str, task: str) -> Callable[[DictConfig], Any]:
    """What Hydra calls with the configuration of a run, or of each job of a sweep."""

    def main(config: DictConfig) -> Any:
        enter()  # again, in a process that a launcher has started
        settings = HydraConfig.get()
        sweep = settings.mode == RunMode.MULTIRUN
        folder = Path(settings.runtime.output_dir)
        note = folder / "error.txt"  # of a sweep's job, for the table at the end
        new = is_empty(folder) and not sweep and SWEEP not in os.environ
        try:
            searchpath.check_choices(settings.runtime.config_sources, settings.runtime.choices)
            missing = sorted(OmegaConf.missing_keys(config))
            if missing:
                raise UserError(f"{', '.join(f'{key}=…' for key in missing)} must be given on the command line")
            if sweep:
                note.unlink(missing_ok=True)
            if config.get("skip_finished") and done(folder) is not None:
                print(f"{folder} is finished, with {done(folder)} steps: skipped", flush=True)
            elif sweep and needs_processes(config):
                sweeps.check_metric(config)
                run_job(_arguments_of(settings.overrides), folder, Path(settings.sweep.dir).name)
            else:
                if sweep:
                    sweeps.check_metric(config)
                module = importlib.import_module(f"ddpm_lab.tasks.{task}")
                getattr(module, task)(config)
            return sweeps.result(config, folder) if sweep else None
        except Exception as error:
            if not isinstance(error, JobFailedError) or not note.exists():
                sentence = tell(error, config_name, config)
                if (sweep or SWEEP in os.environ) and not (sentence == LOST and note.exists()):
                    note.write_text(f"{sentence}\n")
            if not sweep:
                sys.exit(1)
            return None  # the other jobs go on; a sweeper knows by it that this one has failed
        finally:
            if new:
                leave_nothing(folder)

    return main


def _arguments_of(overrides: OverridesConf) -> list[str]:
    """What starts this door again for one job of a sweep: its options, and those of Hydra's that are not the sweep's."""
    flags = [word for word in command_line()[1:] if word.startswith("--config-")]
    of_the_sweep = ("hydra.mode=", "hydra.run.", "hydra.sweep", "hydra/sweep", "hydra.launcher", "hydra/launcher")
    kept = [line for line in overrides.hydra if not line.lstrip("+~").startswith(of_the_sweep)]
    return [*flags, *kept, *overrides.task]


def _output_folder(kind: str, run: str | None, pretrained: str | None, samples: str | None = None) -> str:
    from ddpm_lab.runs import output_folder

    return str(output_folder(kind, run, pretrained, samples))


# Here and not in `door`: a launcher's processes unpickle a job, which imports this, and never pass a door.
OmegaConf.register_new_resolver("output_folder", _output_folder, replace=True)
OmegaConf.register_new_resolver("job_folder", folder_of_a_job, replace=True)
OmegaConf.register_new_resolver("stamp", stamp, replace=True)
OmegaConf.register_new_resolver("swept", swept, replace=True)
# Once per sweep, whose jobs must not each find a folder of their own.
OmegaConf.register_new_resolver("new_folder", new_folder, replace=True, use_cache=True)
OmegaConf.register_new_resolver("this_command", folder_of_this_command, replace=True, use_cache=True)
