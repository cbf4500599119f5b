"""Which checkpoint a run goes on from, and as what: a change since then is applied as a whole, or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from ddpm_lab import folders, runs
from ddpm_lab.errors import FolderInUseError, NoSuchFileError, UserError
from ddpm_lab.metrics.features import Images, fingerprint
from ddpm_lab.tasks.comparing import Difference, differences, shown
from ddpm_lab.training import continuing
from ddpm_lab.training.diffusion import Diffusion
from ddpm_lab.training.say import say

# Options at the top that make a model what it is, and those below them that do not.
MEANING = (
    *("task", "data", "network", "schedule", "prediction", "variance", "weighting", "objective", "timestep_sampler"),
    *("time_scale", "class_conditional", "label_dropout", "ema_rates", "ema_warmup", "seed"),
)
FILLED_IN = ("data.class_names", "data.dataset.num_classes")  # by what is known elsewhere: no change where it was null
FREE = ("data.batch_size", "data.test_batch_size", "data.num_workers", "data.inspect", "network.checkpointing")
TOLD = ("optimizer", "lr_scheduler", *(f"trainer.{key}" for key in ("max_steps", "precision")))
TOLD += ("trainer.gradient_clip_val", "trainer.gradient_clip_algorithm")


class Continuation(NamedTuple):
    """How a run goes on.

    step: that of its checkpoint. before: the configuration that the checkpoint was trained with, None where nobody kept it.
    adapt: puts what is asked for now in the place of what a loaded checkpoint holds.
    """

    step: int
    before: dict[str, Any] | None
    adapt: Callable[[dict[str, Any]], None]


def checkpoint_to_resume(resume: str | None, folder: Path) -> Path | None:
    """The checkpoint that resume=… means, None to start anew.

    Raises FileExistsError where a run would be overwritten, FileNotFoundError where there is none and must be one.
    """
    if resume is None:
        if runs.latest_checkpoint(folder) is not None:
            raise FolderInUseError(
                f"{folder} holds a run already; add resume=auto to continue it, or give another hydra.run.dir"
            )
        return None
    if resume in ("auto", "last"):
        latest = runs.sound_checkpoint(folder)
        if latest is None and resume == "last":
            raise NoSuchFileError(
                f"resume=last found no checkpoint in {folder} and no folder of the same command that holds one; name the "
                "run with hydra.run.dir=…, or take resume=auto, which then starts anew"
            )
        if latest is None:
            say(f"resume=auto found nothing to go on with and starts anew: {folders.why_new(folder)}")
        return latest
    path = Path(resume)
    if not path.is_file():
        raise NoSuchFileError(f"resume={resume} is neither auto, last nor a checkpoint file; omit it to start anew")
    return path


def kept_in_checkpoints(config: DictConfig, images: Images) -> dict[str, Any]:
    """What a checkpoint says of how it was trained: every option, resolved, and a hash of the training images."""
    return {"config": OmegaConf.to_container(config, resolve=True), "images_sha256": fingerprint(images, 32)}


def check(path: Path, module: Diffusion, allowed: Sequence[str] | str) -> Continuation:
    """How the module goes on from a checkpoint, said in a line where it is otherwise than before.

    allowed: of MEANING and "optimizer", the options whose change is meant. Raises
    ValueError for any other change of what the model is, and for a checkpoint of a model of other shapes.
    """
    allowed = [allowed] if isinstance(allowed, str) else list(allowed)
    unknown = [name for name in allowed if name not in (*MEANING, "optimizer")]
    if unknown:
        raise UserError(
            f"allow_changes={unknown} names no option whose change is refused: those are {', '.join(MEANING)}, optimizer"
        )
    loaded = runs.load_checkpoint(path)
    missing = {"optimizer_states", "lr_schedulers", "loops", "callbacks"} - loaded.keys()
    if missing:
        raise UserError(f"{path} holds no {', '.join(sorted(missing))}: it has weights, but no run can go on from it")
    before, now = _trained_with(path, loaded), module.kept
    changed = [] if before is None else differences(before, now["config"])
    changed = _of_the_data(changed, loaded.get("images_sha256"), now["images_sha256"])
    groups = {one.group for one in changed}

    def adapt_weights(state: dict[str, Any]) -> dict[str, Any]:
        if before is not None and "ema_rates" in groups:
            state = continuing.averages(state, before["ema_rates"], now["config"]["ema_rates"])
        if groups & {"timestep_sampler", "schedule"}:  # its history is of other timesteps
            fresh = {name: tensor for name, tensor in module.state_dict().items() if name.startswith("timesteps.")}
            state = {name: tensor for name, tensor in state.items() if not name.startswith("timesteps.")} | fresh
        return state

    try:
        runs.check_same(path, adapt_weights(loaded["state_dict"]), module.state_dict())
    except UserError as error:
        since = f" (since then: {', '.join(map(str, changed))})" if changed else ""
        raise UserError(f"{error}{since}") from None
    refused = [one for one in changed if one.group in MEANING and one.name not in FREE]
    settings, numbers = _settings(loaded, module, changed, known=before is not None)
    anew = settings is not None and not continuing.can_go_on(module.make_optimizer, loaded)
    if anew:
        kinds = [one for one in changed if one.name == "optimizer"]
        refused += kinds or [Difference("optimizer", "of another kind", shown(now["config"]["optimizer"]))]
    meant = [one for one in refused if one.group in allowed]
    _refuse(path, [one for one in refused if one.group not in allowed])

    def adapt(checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = adapt_weights(checkpoint["state_dict"])
        if settings is not None:
            param_groups, checkpoint["lr_schedulers"] = settings
            (old,) = checkpoint["optimizer_states"]
            state = {} if anew else old["state"]
            checkpoint["optimizer_states"] = [{**old, "state": state, "param_groups": param_groups}]

    step = loaded["global_step"]
    applied = [one for one in changed if one.name.startswith(TOLD) and not one.name.endswith(continuing.FASTER)]
    told = dict.fromkeys(map(str, [*meant, *numbers, *applied]))
    if told:
        say(f"note: from step {step} on, otherwise than in its checkpoint: {', '.join(told)}")
    if before is None:
        say(f"note: {path} does not say how it was trained, nor does a config.yaml: the shapes of its weights fit")
    return Continuation(step, before, adapt)


def _trained_with(path: Path, loaded: dict[str, Any]) -> dict[str, Any] | None:
    """The options that a checkpoint was trained with: its own record, or in earlier ones that of its run folder."""
    folder = path.resolve().parent.parent
    if "config" in loaded:
        found = runs.complete(OmegaConf.create(loaded["config"]))
    elif (folder / "config.yaml").is_file():
        found = runs.load_config(folder)
    else:
        return None
    return OmegaConf.to_container(found, resolve=True)  # type: ignore[return-value]


def _of_the_data(changed: list[Difference], before: str | None, now: str) -> list[Difference]:
    """The changes, with one more where the images are others, and without those of the places where the same ones lie.

    Nor does it count that earlier checkpoints lack what the set itself now fills in.
    """
    changed = [one for one in changed if not (one.name in FILLED_IN and one.before == "null")]
    if before is None:
        return changed
    if before != now:
        return [*changed, Difference("data", f"images {before[:8]}", f"other images {now[:8]}")]
    return [one for one in changed if not (one.name.startswith("data.dataset.") and "/" in one.before + one.now)]


def _settings(
    loaded: dict[str, Any], module: Diffusion, changed: list[Difference], *, known: bool
) -> tuple[tuple[list[dict[str, Any]], list[dict[str, Any]]] | None, list[Difference]]:
    """The optimizer's groups and its schedules' states as they are asked for, None where they are the checkpoint's.

    And the optimizer's numbers that differ. known: whether the checkpoint's configuration is.
    """
    (state,) = loaded["optimizer_states"]
    asked = module.make_optimizer(module.denoiser.parameters()).state_dict()["param_groups"]
    numbers = []
    for old, new in zip(state["param_groups"], asked, strict=False):
        before, now = continuing.hyperparameters(old), continuing.hyperparameters(new)
        for name in (name for name in now if name in before and before[name] != now[name]):
            numbers.append(Difference(f"optimizer.{name}", shown(before[name]), shown(now[name])))
    names = {one.name for one in changed}
    if "config" not in loaded and "trainer.max_steps" in names:
        # Checkpoints of before kept no configuration, and a longer run began its new schedule one step later.
        names.discard("lr_scheduler.total")
    otherwise = numbers or any(name.split(".")[0] in ("optimizer", "lr_scheduler") for name in names)
    by_other_means = [
        [old.get(name) != new.get(name) for name in continuing.FASTER]
        for old, new in zip(state["param_groups"], asked, strict=False)
    ]
    if not otherwise and known and not any(map(any, by_other_means)) and len(asked) == len(state["param_groups"]):
        return None, []
    step, parameters = loaded["global_step"], module.denoiser.parameters()
    return continuing.settings_at(step, module.make_optimizer, module.make_lr_scheduler, parameters), numbers


def _refuse(path: Path, changed: list[Difference]) -> None:
    """Raise ValueError if there is any."""
    if not changed:
        return
    names = ", ".join(dict.fromkeys(one.group for one in changed))
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    raise UserError(
        f"{path} was trained otherwise than this: {', '.join(map(str, changed[:4]))}{more}; leave that as it was, or, to train "
        f"on from its weights with that changed, add allow_changes=[{names}], best in a new folder "
        f"(resume={path} hydra.run.dir=…)"
    )
