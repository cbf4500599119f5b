"""From guidance=… and labels=… to what is sampled; everything that cannot be is refused here, before sampling starts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor

from ddpm_lab import runs
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.guidance import Autoguided, ClassifierFree, ClassifierGuided
from ddpm_lab.errors import UserError
from ddpm_lab.tasks.building import load_classifier, load_run

Interval = Sequence[int] | None
SHOWN = 20  # names of classes in an error


def guiding_runs(guidance: DictConfig) -> list[DictConfig]:
    """The configurations of the runs that a guidance takes beside the one that it steers."""
    named = (guidance.get("weak"), guidance.get("classifier"))
    return [runs.load_config(runs.checked_run(run)) for run in named if run is not None]


class Steered(NamedTuple):
    """What is sampled.

    denoiser: with its guidance around it. num_classes: labels are below it; None where there are none to give. null_label:
    the label that stands for none, if the network knows one. about: the guidance, for protocols and captions. data: whose
    labels are meant. class_names: of the labels, empty where they have none.
    """

    denoiser: Denoiser
    num_classes: int | None
    null_label: int | None
    about: dict[str, Any]
    data: str
    class_names: Sequence[str] = ()


def guide(guidance: DictConfig, run: DictConfig, denoiser: Denoiser) -> Steered:
    """What a guidance of conf/guidance makes of a run's denoiser. Raises ValueError where it lacks an option."""
    for option in {"classifier", "weak"} & set(guidance):  # `in` alone would not see one that is missing
        if OmegaConf.is_missing(guidance, option) or not isinstance(guidance[option], str):
            raise UserError(
                f"guidance.{option}=… must be given on the command line: a run folder, or a checkpoint in one"
            )
    return instantiate(guidance)(run, denoiser)


def unguided(run: DictConfig, denoiser: Denoiser) -> Steered:
    """guidance=none."""
    return Steered(denoiser, _classes(run), _null_label(run), {"guidance": None}, run.data.name, _names(run))


def classifier_free(
    run: DictConfig, denoiser: Denoiser, *, scale: float, interval: Interval, rescale: float
) -> Steered:
    """guidance=classifier_free. Raises ValueError for a run that has learnt no unconditional half."""
    null_label = _null_label(run)
    if null_label is None:
        lacks = "was trained without dropping labels" if run.class_conditional else "is unconditional"
        raise UserError(
            f"guidance=classifier_free needs a class-conditional model with an unconditional half, and this run {lacks}: train "
            "with class_conditional=true label_dropout=0.1, or take guidance=classifier or guidance=autoguidance"
        )
    guided = ClassifierFree(denoiser, null_label, scale, _pair(interval), rescale)
    return Steered(guided, _classes(run), null_label, _about("classifier_free", guided), run.data.name, _names(run))


def autoguidance(
    run: DictConfig,
    denoiser: Denoiser,
    *,
    weak: str,
    weights: str | int,
    scale: float,
    interval: Interval,
    rescale: float,
) -> Steered:
    """guidance=autoguidance, away from the run `weak`. Raises ValueError if it is not of the same kind."""
    of_weak, weaker, step = load_run(weak, weights)
    _check_images(f"guidance.weak={weak}", of_weak, run)
    if _labels(of_weak) != _labels(run):
        raise UserError(f"guidance.weak={weak} knows other labels than the run: both must be trained with the same")
    if run.class_conditional:
        _check_names(f"guidance.weak={weak}", of_weak, run)
    weaker.to(_device(denoiser))
    guided = Autoguided(denoiser, weaker, scale, _pair(interval), rescale)
    about = {
        **_about("autoguidance", guided),
        "guidance.weak": weak,
        "guidance.weights": str(weights),
        "guidance.weak_step": step,
    }
    return Steered(guided, _classes(run), _null_label(run), about, run.data.name, _names(run))


def classifier(
    run: DictConfig,
    denoiser: Denoiser,
    *,
    classifier: str,
    weights: str | int,
    scale: float,
    unconditional: bool,
    min_alpha_bar: float,
) -> Steered:
    """guidance=classifier, by the run `classifier` of train.py task=classifier.

    unconditional: guide the unconditional half of a network trained with dropped labels. Raises ValueError if the classifier
    was trained on other images, classes or noise.
    """
    of_classifier, judge, step = load_classifier(classifier, weights)
    judge.to(_device(denoiser)).requires_grad_(False)
    name = f"guidance.classifier={classifier}"
    _check_images(name, of_classifier, run)
    if not denoiser.process.same_as(judge.process):
        raise UserError(
            f"{name} was trained on another schedule ({_schedule(of_classifier)}) than the model ({_schedule(run)}): its "
            "images of timestep t have other noise; train it with the model's schedule"
        )
    if run.class_conditional and of_classifier.data.num_classes != run.data.num_classes:
        raise UserError(
            f"{name} knows {of_classifier.data.num_classes} classes and the model {run.data.num_classes}: take one of the same "
            "data"
        )
    if run.class_conditional:
        _check_names(name, of_classifier, run)
    null_label = _null_label(run)
    if unconditional and null_label is None:
        raise UserError(
            "guidance.unconditional=true guides the unconditional half of a model trained with label_dropout, and this run has "
            "none"
        )

    def labels(y: Tensor) -> Tensor | None:
        if not run.class_conditional:
            return None
        return torch.full_like(y, null_label) if unconditional else y  # type: ignore[arg-type]

    guided = ClassifierGuided(denoiser, judge.log_prob, scale, labels, min_alpha_bar)
    about = {
        "guidance": "classifier",
        "guidance.scale": guided.scale,
        "guidance.classifier": classifier,
        "guidance.weights": str(weights),
        "guidance.classifier_step": step,
        "guidance.unconditional": unconditional,
        "guidance.min_alpha_bar": guided.min_alpha_bar,
    }
    judged = of_classifier.data
    return Steered(guided, judged.num_classes, None, about, judged.name, _names(of_classifier))


def chosen_labels(given: object, steered: Steered) -> list[int] | None:
    """The labels that images get in turn, from labels=…: null or "balanced" for all classes, one, a list, or "none".

    Each is a class's number or its name. None for a model without labels. Raises ValueError for labels that there are not, and
    for a number that is the name of another class.
    """
    K = steered.num_classes
    if K is None:
        if given is None:
            return None
        raise UserError(
            f"labels={given} cannot be asked of an unconditional model: leave labels out, or take guidance=classifier"
        )
    if given in (None, "balanced"):
        return list(range(K))
    if given == "none":
        if steered.null_label is None:
            raise UserError(
                "labels=none needs a model trained with label_dropout, and no classifier that guides it; take labels=0 "
                f"to {K - 1}, or balanced"
            )
        if steered.about["guidance"] == "classifier_free":
            raise UserError(
                "guidance=classifier_free guides towards a class, and labels=none asks for none: leave the guidance out"
            )
        return [steered.null_label]
    chosen: list[Any] = list(given) if isinstance(given, (list, ListConfig)) else [given]
    if not chosen:
        raise UserError(f"labels=[] names no class; take one of 0 to {K - 1}, a list of them, or balanced")
    return [_label(label, K, list(steered.class_names)) for label in chosen]


def _label(given: Any, K: int, names: list[str]) -> int:
    """The number of a class that a number or a name is given of."""
    number = given if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < K else None
    named = names.index(str(given)) if str(given) in names else None
    if number is not None and named not in (None, number):
        raise UserError(
            f"labels={given} is the number of the class {names[number]} and the name of another: give names, in two pairs of "
            f"quotes, as in 'labels=\"{names[number]}\"'"
        )
    label = named if number is None else number
    if label is not None:
        return label
    if not names:
        raise UserError(
            f"labels={given} is none of this model's classes 0 to {K - 1}; take one, a list such as [0,1], or balanced"
        )
    near = difflib.get_close_matches(str(given), names, 1)
    meant = f"; did you mean {near[0]}?" if near else ";"
    shown = ", ".join(names[:SHOWN]) + (f", … ({len(names)})" if len(names) > SHOWN else "")
    raise UserError(
        f"labels={given} is none of this model's classes 0 to {K - 1}{meant} take one, a list such as [0,1], or balanced; "
        f"their names: {shown}"
    )


def guidance_of(about: Mapping[str, Any]) -> str:
    """The guidance as a part of a caption."""
    return "" if about["guidance"] is None else f"{about['guidance']} at {about['guidance.scale']:g}, "


def _classes(run: DictConfig) -> int | None:
    return run.data.num_classes if run.class_conditional else None


def _names(run: DictConfig) -> Sequence[str]:
    """Of the classes of a run's data; runs of earlier versions have none."""
    return list(run.data.get("class_names") or ())


def _null_label(run: DictConfig) -> int | None:
    return run.data.num_classes if run.class_conditional and run.label_dropout > 0 else None


def _labels(run: DictConfig) -> tuple[int | None, int | None]:
    return _classes(run), _null_label(run)


def _about(name: str, guided: ClassifierFree | Autoguided) -> dict[str, Any]:
    return {
        "guidance": name,
        "guidance.scale": guided.scale,
        "guidance.interval": None if guided.interval is None else list(guided.interval),
        "guidance.rescale": guided.rescale,
    }


def _pair(interval: Interval) -> tuple[int, int] | None:
    if interval is None:
        return None
    ends = list(interval) if isinstance(interval, Sequence) and not isinstance(interval, str) else []
    if len(ends) != 2 or any(isinstance(end, bool) or not isinstance(end, int) for end in ends):
        raise UserError(f"guidance.interval={interval} is to be two timesteps, such as [100,700], or null for all")
    return ends[0], ends[1]


def _device(denoiser: Denoiser) -> torch.device:
    return next(denoiser.parameters()).device


def _schedule(run: DictConfig) -> str:
    options = ", ".join(
        f"{len(value)} {key}" if isinstance(value, ListConfig) else f"{key}={value}"
        for key, value in run.schedule.items()
        if key != "_target_"
    )
    return f"{run.schedule._target_.rsplit('.', 1)[-1]} with {options}"


def _check_names(name: str, found: DictConfig, wanted: DictConfig) -> None:
    """The same number must mean the same class, where both know what it is called."""
    pairs = zip(_names(found), _names(wanted), strict=False)
    differs = next(((k, *pair) for k, pair in enumerate(pairs) if pair[0] != pair[1]), None)
    if differs is not None:
        k, theirs, ours = differs
        raise UserError(
            f"{name} calls class {k} {theirs} and the model {ours}: both must be trained with the same classes"
        )


def _check_images(name: str, found: DictConfig, wanted: DictConfig) -> None:
    shapes = [f"{run.data.channels}x{run.data.image_size}x{run.data.image_size}" for run in (found, wanted)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"{name} was trained on images of {shapes[0]} and the model on {shapes[1]}: take one of the same size"
        )
