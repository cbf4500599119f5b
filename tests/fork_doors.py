"""Forks a door's process per line of its input, from one that has imported what doors import: 4 s a run are saved.

A line in: a JSON object of door, arguments, cwd, environment and output (the file that takes what the door prints).
A line out: the process's number; then, when it has ended, another of its exit code.
"""

import atexit
import importlib
import json
import os
import pkgutil
import runpy
import sys
import traceback
from pathlib import Path

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
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            code = become(**json.loads(line))
            atexit._run_exitfuncs()
            sys.stdout.flush()
            os._exit(code)  # to take apart all that is imported would cost a second
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def become(door: str, arguments: list[str], cwd: str, environment: dict[str, str], output: str) -> int:
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = [str(ROOT / f"{door}.py"), *arguments]
    sys.path[:1] = [str(ROOT), *environment.get("PYTHONPATH", "").split(":")]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
