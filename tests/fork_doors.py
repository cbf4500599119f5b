"""Forks a door's process from one that has imported what doors import: 4 s of a processor are saved each time.

A line in: {"start": arguments of `forked`}, answered by the number of a new process, which leads a group of its own; or
{"ended": number}, answered by its exit code, that of a signal below 0, or null while it runs.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

import lightning
import matplotlib.pyplot
import sklearn.datasets
import torchmetrics

import ddpm_lab

ROOT = Path(__file__).parent.parent
# Not wandb, whose temporary folder the first fork to end would remove.
IMPORTED = (lightning, matplotlib.pyplot, sklearn.datasets, torchmetrics)


def main() -> None:
    for module in pkgutil.walk_packages(ddpm_lab.__path__, "ddpm_lab."):
        importlib.import_module(module.name)
    gc.freeze()  # else every collection in a fork would look through all of it, and copy its pages
    for line in sys.stdin:
        ((kind, value),) = json.loads(line).items()
        print(json.dumps(start(value) if kind == "start" else ended(value)), flush=True)


def start(request: dict[str, Any]) -> int:
    process = os.fork()
    if process == 0:
        code = forked(**request)
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)  # to take apart all that is imported would cost a second
    return process


def ended(process: int) -> int | None:
    found, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def forked(entry: str, arguments: list[Any], cwd: str, environment: dict[str, str], printed: str) -> int:
    """Be a door, or call a function, file:name; the exit code."""
    os.setsid()
    file = os.open(printed, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    file_of, _, function = entry.partition(":")
    sys.path[:1] = [str(ROOT), *environment.get("PYTHONPATH", "").split(":")]
    try:
        if function:
            runpy.run_path(file_of)[function](*arguments)
        else:
            sys.argv = [str(ROOT / f"{entry}.py"), *arguments]
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
