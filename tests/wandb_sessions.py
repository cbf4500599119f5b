"""A session of a run that logs to W&B: `run("tests/wandb_sessions", …)`.

Arguments: the run's folder and id, the step before its first, its last, "killed" or "ended", and variables (NAME=value).
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_lab.callbacks.loggers import wandb
from ddpm_lab.callbacks.scalars import Scalars
from ddpm_lab.callbacks.wandb_file import delivered, history, sessions


def session(folder: Path, run_id: str, start: int, last: int, how: str) -> None:
    import wandb as client

    dashboard = wandb(str(folder), "project", None, None, run_id, start, ["first", "small"], "what it is")
    for logger in (Scalars(str(folder), start), dashboard):
        logger.log_hyperparams({"lr": 0.1})
        for step in range(start + 1, last + 1):
            logger.log_metrics({"loss": 1 / step, "epoch": 0}, step=step)
            if step % 5 == 0:
                logger.log_metrics({"bits_per_dim": float(step)}, step=step)
            if step == 10 and logger is dashboard:
                Image.fromarray(np.full((8, 8), step, np.uint8)).save(folder / "samples.png")
                logger.log_image("samples", [str(folder / "samples.png")], step=step)
                logger.log_table("table", ["step"], [[step]], step=step)
                counts = client.Histogram(np_histogram=(np.arange(2), np.arange(3)))
                logger.log_metrics({"timesteps": counts}, step=step)
    if how == "killed":
        (*_, mine) = sessions(folder / "wandb", run_id)
        written, answered = 0, 0
        # The last row is unfinished until the next one begins. What is offline waits for no server.
        while written < last - 1 or (answered < written and not mine.name.startswith("offline-")):
            time.sleep(0.1)
            written = max((step for step, _ in history(mine)), default=0)
            answered = delivered(mine, written)
        os.kill(os.getpid(), signal.SIGKILL)
    client.finish()


if __name__ == "__main__":
    folder, name, start, last, how = sys.argv[1:6]
    os.environ |= dict(pair.split("=", 1) for pair in sys.argv[6:])
    session(Path(folder), name, int(start), int(last), how)
