"""Checkpoints that a crash cannot damage: last.ckpt every so many steps and when asked to stop, and the best by any metric."""

from __future__ import annotations

import math
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
from torch import Tensor

from ddpm_lab.errors import UserError
from ddpm_lab.training.diffusion import Diffusion
from ddpm_lab.training.say import say


class Checkpoint(lightning.Callback):
    """Keeps checkpoints/last.ckpt, and for each pair file: metric of `best` the checkpoint of the metric's least value.

    every: optimizer steps between two saves of last.ckpt; one more is made at the end and on Ctrl-C, SIGTERM and, under
    SLURM, SIGUSR1 (#SBATCH --signal=USR1@120), after which the job is put back into its queue. Each is
    written beside its predecessor and then takes its place, so a crash while writing leaves the predecessor. keep: how many
    are kept; those before the last are last-1.ckpt, last-2.ckpt, …. best: a metric is what stands under its name in
    trainer.callback_metrics; one that never does is never saved by.

    Saves happen between two batches, where every counter of the Trainer tells the same. Where a run was stopped between its
    last step and the end of its end phase (the other callbacks' on_train_end), resuming it repeats that phase.
    """

    def __init__(self, folder: str, every: int, best: Mapping[str, str], keep: int = 2) -> None:
        if every < 1 or keep < 1:
            raise UserError(
                f"checkpoint.every counts steps and checkpoint.keep files: both must be positive, got {every} and {keep}"
            )
        for name in best:
            if not name.endswith(".ckpt") or name.startswith("last") or "/" in name:
                raise UserError(
                    f"callbacks.checkpoint.best names files such as best.ckpt, got {name}; last….ckpt is what a run is "
                    "resumed from"
                )
        self.folder = Path(folder) / "checkpoints"
        self.run = folder
        self.every = every
        self.keep = keep
        self.best = dict(best)
        self.least: dict[str, float] = {}
        self.saved_at: int | None = None  # the step of the last.ckpt that this session wrote or read
        self.interrupted: int | None = None
        self.ended = False
        self._seen: dict[str, Tensor] = {}
        self._told: set[str] = set()  # files of `best` of which it has been said that there will be none
        self._max_steps: int | None = None
        self._handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """The least values so far."""
        return {"least": self.least}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the least values so far."""
        self.least = dict(state_dict["least"])

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make Lightning begin a loop that has no step left: it would not even call on_train_end."""
        loop = trainer.fit_loop.epoch_loop
        if 0 <= loop.max_steps <= checkpoint["global_step"]:
            self._max_steps, loop.max_steps = loop.max_steps, checkpoint["global_step"] + 1

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Remember who handled the signals."""
        asks = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else [])]
        self._handlers = {number: signal.getsignal(number) for number in asks}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """From here on a first Ctrl-C or SIGTERM waits for the step to end; Lightning has just registered its own."""
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps, self._max_steps = self._max_steps, None
        if trainer.ckpt_path and Path(trainer.ckpt_path).resolve() == (self.folder / "last.ckpt").resolve():
            self.saved_at = trainer.global_step
        for number in self._handlers:
            signal.signal(number, self._ask_to_stop)
        assert isinstance(pl_module, Diffusion)
        why = _no_validation(trainer, pl_module.batches_done)
        for name in self.best if why else ():
            if self.best[name].startswith("val/") and name not in self.least:
                say(f"note: there will be no {name}: {why}")
                self._told.add(name)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save the state after the previous batch, if it is time; leave, if asked to."""
        if batch_idx % trainer.accumulate_grad_batches:
            return  # gradients are in no checkpoint
        self._keep_best(trainer, pl_module)
        step = trainer.global_step
        self._leave_if_asked(trainer, pl_module)
        if step and step % self.every == 0 and step != self.saved_at:
            self._save(trainer, pl_module, "last.ckpt")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep the best."""
        if not trainer.sanity_checking:
            self._keep_best(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the end. What follows can be repeated, so a signal stops it at once."""
        self._keep_best(trainer, pl_module)
        if trainer.global_step != self.saved_at:
            self._save(trainer, pl_module, "last.ckpt")
        self._leave_if_asked(trainer, pl_module)
        for name in self.best.keys() - self.least.keys() - self._told:
            say(f"note: there is no {name}: {self.best[name]} has not been measured")
        self.ended = True

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take back the batch that is ready but not trained on, which Lightning would count twice after a resume."""
        for count in checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"].values():
            if isinstance(count, dict):
                count["ready"] = count["started"] = count["completed"]

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        if self.ended and isinstance(exception, KeyboardInterrupt):
            say(f"\nstopped after the last step; make up for what is missing with {self._command()}")
        self._give_back()

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._give_back()

    def _keep_best(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        for name, monitor in self.best.items():
            metric = trainer.callback_metrics.get(monitor)
            # Reading a value waits for the device, so it is read once.
            if metric is None or metric is self._seen.get(name):
                continue
            self._seen[name] = metric
            # Saving is a collective: the ranks must not differ by the last digit of a mean.
            value = trainer.strategy.broadcast(float(metric))
            if value < self.least.get(name, math.inf):
                self.least[name] = value
                self._save(trainer, module, name)

    def _leave_if_asked(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Leave together: a signal may reach one rank alone, or reach the ranks in different steps."""
        # One number per step and rank; Lightning has waited for the device in this place already (its own SIGTERM flag).
        if not trainer.strategy.reduce_boolean_decision(self.interrupted is not None, all=False):
            return
        if trainer.global_step != self.saved_at:
            self._save(trainer, module, "last.ckpt")
        by = "a signal" if self.interrupted is None else signal.Signals(self.interrupted).name
        if (
            trainer.strategy.reduce_boolean_decision(self.interrupted == signal.SIGUSR1, all=False)
            and trainer.is_global_zero
        ):
            _requeue()
        say(f"\nstopped by {by} after step {trainer.global_step}; nothing is lost: continue with {self._command()}")
        # Not KeyboardInterrupt: Lightning would kill the other ranks, and for that its watchdog the first, while it finishes.
        raise SystemExit(1 if trainer.is_global_zero else 0)

    def _save(self, trainer: lightning.Trainer, module: lightning.LightningModule, name: str) -> None:
        assert isinstance(module, Diffusion)
        partial = self.folder / f"{name}.partial"
        with module.stopwatch.paused():
            try:
                trainer.save_checkpoint(partial)
            except Exception:  # a full disk: half a checkpoint is of no use and in the way
                partial.unlink(missing_ok=True)
                raise
            if trainer.is_global_zero:
                if name == "last.ckpt":
                    self._age()
                os.replace(partial, self.folder / name)
            trainer.strategy.barrier()
        if name == "last.ckpt":
            self.saved_at = trainer.global_step

    def _age(self) -> None:
        """Make room for a new last.ckpt. Stopped halfway, it leaves all of them, under other names."""
        names = ["last.ckpt", *(f"last-{i}.ckpt" for i in range(1, self.keep))]
        for older, newer in reversed(list(zip(names[1:], names, strict=False))):
            if (self.folder / newer).exists():
                os.replace(self.folder / newer, self.folder / older)

    def _command(self) -> str:
        return f"the same command and resume=auto hydra.run.dir={self.run}"

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted is not None or self.ended:
            raise KeyboardInterrupt
        self.interrupted = number
        say("\nstopping after this step and saving; once more to stop at once")

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def _no_validation(trainer: lightning.Trainer, batches_done: int) -> str | None:
    """Why a run that has begun will not be validated any more; None if it will, or nobody can say."""
    every = trainer.val_check_batch
    if not trainer.enable_validation or every == math.inf:
        return "trainer.limit_val_batches or val_check_interval leaves validation out"
    end = trainer.max_steps * trainer.accumulate_grad_batches
    if end < 0 or not isinstance(every, int) or end // every > batches_done // every:
        return None
    return f"validation comes every {every:,} batches (trainer.val_check_interval), and the run ends after {end:,}"


def _requeue() -> None:
    """Have SLURM run this job again, under its number, as soon as there is room."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=False)
        trouble = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        trouble = str(error)
    say(f"scontrol requeue {job} failed: {trouble}" if trouble else f"job {job} is in SLURM's queue again")
