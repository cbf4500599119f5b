"""Train a model; leave a run folder."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from ddpm_lab import runs
from ddpm_lab.errors import UserError
from ddpm_lab.folders import done, keep_command, mark_done, mark_undone
from ddpm_lab.jobs import SWEEP
from ddpm_lab.tasks import cautions
from ddpm_lab.tasks.arguments import check_trainer
from ddpm_lab.tasks.building import build_module, count_classes, set_threads
from ddpm_lab.tasks.foreign import settle
from ddpm_lab.tasks.inspecting import briefly, inspect
from ddpm_lab.tasks.precisions import settle_training
from ddpm_lab.wording import counted


def fit(config: DictConfig) -> None:
    """Train; leave a run folder.

    Raises FileExistsError for a folder that holds a run, unless it is to be resumed.
    """
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    composed = config.copy()
    set_threads(config.threads)
    from lightning.pytorch.callbacks import LambdaCallback

    from ddpm_lab.tasks import resuming
    from ddpm_lab.training.saving import DirectCheckpointIO
    from ddpm_lab.training.say import say

    _hush()
    if config.inspect:
        _inspect(config)
        return
    first = _is_first_process()
    sweep = Path(hydra_config.sweep.dir).name if hydra_config.mode == RunMode.MULTIRUN else os.environ.get(SWEEP)
    if first and sweep and not (folder / ".hydra").exists():
        keep_command(folder, composed)  # a sweep's report counts its jobs by these, failed ones too
    _settle_trainer(config)
    instantiate(config.task).check(config)
    checkpoint = resuming.checkpoint_to_resume(config.resume, folder)
    data = instantiate(config.data)
    count_classes(config.data, data)
    _count_epochs(config, len(data.trained_on()))
    module = build_module(config)
    settle(config)
    module.guard = instantiate(config.guard)
    module.kept = resuming.kept_in_checkpoints(config, data.images("train"))
    step, before = 0, None
    if checkpoint:
        step, before, module.adapt = resuming.check(checkpoint, module, config.allow_changes)
        if done(folder) == step and 0 <= config.trainer.max_steps <= step:
            say(f"{folder} is complete, with {step} steps; a greater trainer.max_steps would train on")
            return
    provenance = runs.provenance_of(folder, config, list(hydra_config.overrides.task)) if first else {"id": None}

    def begin() -> None:
        """Only now, when nothing can be refused any more, does the folder become that of this session."""
        mark_undone(folder)
        keep_command(folder, composed)
        runs.record_session(folder, config, provenance, step, checkpoint, before)

    loggers = _loggers(config, folder, step, provenance["id"], sweep)
    callbacks = _callbacks(config)
    trainer = instantiate(
        config.trainer,
        callbacks=[*callbacks, *([LambdaCallback(on_train_start=lambda *_: begin())] if first else [])],
        logger=loggers,
        plugins=[DirectCheckpointIO(), *(instantiate(config.trainer.plugins) or [])],
    )
    for logger in loggers:
        logger.log_hyperparams({**module.kept["config"], "provenance": provenance})
    say(_headline(config, module, data) + (f", resumed at step {step}" if checkpoint else "") + f" -> {folder}")
    if config.data.inspect and first:
        say(briefly(data))
    for sentence in _cautions(config, module, data, callbacks):
        say(sentence)
    _run(trainer, module, data, checkpoint, folder)


def _settle_trainer(config: DictConfig) -> None:
    """Choose what is left to this machine; refuse what it or this project cannot do."""
    from ddpm_lab.training.say import say

    if config.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(f"trainer.accelerator={config.trainer.accelerator}: this machine has no GPU; take auto or cpu")
    note = settle_training(config.trainer)
    if note is not None:
        say(note)
    check_trainer(config.trainer)
    if str(config.trainer.precision) in ("16-mixed", "16") and "fused" in config.optimizer:
        # torch's fused optimizers unscale gradients themselves, after the clipping that needs them unscaled.
        config.optimizer.fused = False


def _headline(config: DictConfig, module: Any, data: Any) -> str:
    """What is trained, on what, for how long."""
    parameters = sum(p.numel() for p in module.denoiser.network.parameters())
    batch = data.batch_size * config.trainer.accumulate_grad_batches
    steps = config.trainer.max_steps
    return (
        f"{parameters / 1e6:.2f}M parameters, {len(data.trained_on())} images of {data.name}, global batch {batch}, "
        f"{counted(steps, 'step') if steps > 0 else 'no end of steps'}"
    )


def _cautions(config: DictConfig, module: Any, data: Any, callbacks: list[Any]) -> list[str]:
    """What may be other than was meant."""
    from ddpm_lab.training.ema import never_bind

    found = [f"warning: {sentence}" for sentence in cautions.of_training(module.denoiser, data, callbacks)]
    steps = config.trainer.max_steps
    idle = never_bind(config.ema_rates, steps) if config.ema_warmup and steps > 0 else None
    return found if idle is None else [*found, idle]


def _run(trainer: Any, module: Any, data: Any, checkpoint: str | Path | None, folder: Path) -> None:
    """Train to the end, close the loggers whatever happens, and note what it took; DONE if nothing is missing."""
    from ddpm_lab.training.say import say

    seconds = runs.read_metrics(folder).get("train/seconds", 0.0) if checkpoint else 0.0
    start = time.perf_counter()
    status = "failed"
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        status = "success"
    finally:
        for logger in trainer.loggers:
            logger.finalize(status)
        _finish_wandb(status)
        if trainer.is_global_zero and trainer.global_step:
            runs.add_metrics(folder, {"train/seconds": round(seconds + time.perf_counter() - start, 1)})
    if trainer.is_global_zero:
        runs.add_metrics(folder, {"step": trainer.global_step})
        mark_done(folder, trainer.global_step)
    say(f"done in {time.perf_counter() - start:.0f} s -> {folder}")


def _inspect(config: DictConfig) -> None:
    """inspect=true: what is in the data set, and nothing trained or left behind."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError("inspect=true looks at one data set: leave -m out")
    if _is_first_process():
        inspect(config)


def _hush() -> None:
    """Keep Lightning's advertisements and known false alarms from the screen; warnings that matter still show."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "Found .* module.* in eval mode", module="lightning")  # the averages are
    warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", module="lightning")
    warnings.filterwarnings("ignore", "torch.distributed.nn.functional.all_gather is deprecated", module="lightning")
    warnings.filterwarnings("ignore", "The `srun` command is available", module="lightning")  # not all there is a job
    warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many workers", module="lightning")


def _callbacks(config: DictConfig) -> list[Any]:
    """One by one: instantiating a dict of them would turn what they hold into config nodes."""
    from lightning.pytorch.callbacks import ProgressBar

    # A debug group's settings of a callback that this task does not have are no callback.
    nodes = [node for node in config.callbacks.values() if node is not None and "_target_" in node]
    built = [instantiate(node) for node in nodes]
    wanted = config.trainer.enable_progress_bar
    return [callback for callback in built if wanted or not isinstance(callback, ProgressBar)]


def _loggers(config: DictConfig, folder: Path, step: int, run_id: str | None, sweep: str | None) -> list[Any]:
    from ddpm_lab.callbacks.scalars import Scalars

    loggers: list[Any] = [Scalars(str(folder), step)]
    for name, node in config.logger.items():
        extra = {"id": run_id, "group": node.group or sweep, "start": step} if name == "wandb" else {}
        loggers.append(instantiate(node, **extra))
    return loggers


def _finish_wandb(status: str) -> None:
    if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
        sys.modules["wandb"].finish(exit_code=0 if status == "success" else 1)


def _is_first_process() -> bool:
    """Whether this process writes what one of all nodes' may write; the Trainer knows too, but is built later."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    node = os.environ.get("NODE_RANK", "0")
    return node == "0" and rank_zero_only.rank == 0  # type: ignore[attr-defined]


def _count_epochs(config: DictConfig, images: int) -> None:
    """The stream has no end, so max_epochs=E is told to the Trainer as the steps of E passes over the data."""
    epochs = config.trainer.max_epochs
    with open_dict(config):
        steps = config.trainer.max_steps
        config.trainer.max_steps = -1 if steps is None else steps
        if epochs is not None and epochs >= 0:
            batch = config.data.batch_size * config.trainer.accumulate_grad_batches
            passes = math.ceil(epochs * images / batch)
            config.trainer.max_steps = passes if steps in (None, -1) else min(passes, steps)
        config.trainer.max_epochs = -1
