"""Which arguments of Lightning's Trainer a run takes: the others would do nothing, or break what a run promises."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from ddpm_lab.errors import UserError
from ddpm_lab.tasks.comparing import shown

ENDLESS = "the stream of training images has no end and no epochs"
# Argument: the values that it may have, and what a person who sets another is to know.
FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "min_epochs": ((None, 0), f"{ENDLESS}; only trainer.max_time ends it before max_steps"),
    "min_steps": ((None,), "past trainer.max_time Lightning would validate after every batch; give max_time alone"),
    "check_val_every_n_epoch": ((None,), f"{ENDLESS}: trainer.val_check_interval counts batches"),
    "reload_dataloaders_every_n_epochs": ((0,), f"{ENDLESS} after which it could be loaded anew"),
    "limit_train_batches": (
        (None,),
        f"{ENDLESS} to cut off: take data.first=… for fewer images, or trainer.max_steps=… for fewer steps",
    ),
    "overfit_batches": ((0,), "take debug=overfit, or data.first=…: so many images over and over"),
    "fast_dev_run": ((False,), "take debug=one_batch: two steps, and everything that a run ends with"),
    "limit_test_batches": (
        (None,),
        "training tests nothing by batches: callbacks.bits_per_dim.bound.images=… says on how many",
    ),
    "limit_predict_batches": (
        (None,),
        "training predicts nothing: callbacks.sample_grid.n=… says how many images are drawn",
    ),
    "use_distributed_sampler": (
        (False,),
        "the ranks have been dealt their share of each batch, and a second time would be wrong",
    ),
    "enable_checkpointing": (
        (False,),
        "checkpoints are made by callbacks.checkpoint: checkpoint.every=… and checkpoint.keep=…",
    ),
    "enable_progress_bar": ((True, False), "say true or false"),
    "enable_autolog_hparams": ((False,), "every logger is given the whole configuration anyway"),
    "barebones": ((False,), "it forbids what a run folder is made by; take debug=profile to see where the time goes"),
    "sync_batchnorm": ((False,), "no network here has batch norm; one that has can convert it in its own constructor"),
    "model_registry": ((None,), "checkpoints stay in the run folder; callbacks.artifacts.files=… sends them to W&B"),
}
STRATEGIES = ("auto", "single_device", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")


def check_trainer(trainer: DictConfig) -> None:
    """Raise ValueError, naming what to take instead, for an argument that a run cannot take."""
    for name, (allowed, instead) in FIXED.items():
        if name in trainer and not any(trainer[name] is value or trainer[name] == value for value in allowed):
            raise UserError(f"trainer.{name}={shown(trainer[name])} has no place in a run here: {instead}")
    for name, least in (("accumulate_grad_batches", 1), ("val_check_interval", 1), ("log_every_n_steps", 0)):
        value = trainer.get(name)
        if isinstance(value, int) and value < least:
            raise UserError(f"trainer.{name}={value} must be at least {least}")
    if trainer.get("max_steps") == 0 or trainer.get("max_epochs") == 0:
        raise UserError(
            "trainer.max_steps=0 or max_epochs=0 trains nothing: take sample.py or evaluate.py for a finished run"
        )
    strategy = trainer.get("strategy")
    if isinstance(strategy, str) and strategy not in STRATEGIES:
        raise UserError(
            f"trainer.strategy={strategy} is none of {', '.join(STRATEGIES)}: every rank keeps whole weights and averages, and "
            "is started anew; optimizer=adam_sharded deals the optimizer's state out over the ranks"
        )
    if str(trainer.get("precision")).startswith("transformer-engine"):
        raise UserError(f"trainer.precision={trainer.precision}: take 32-true, 16-mixed or bf16-mixed")
