"""What train.py can train: task=diffusion, task=classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from ddpm_lab.errors import UserError
from ddpm_lab.networks.compiling import GRAPHS, compile_network
from ddpm_lab.tasks import contracts
from ddpm_lab.tasks.building import build_classifier, build_denoiser, channels_last

if TYPE_CHECKING:
    from ddpm_lab.diffusion.denoiser import Denoiser
    from ddpm_lab.training.diffusion import Diffusion


def check_callbacks(config: DictConfig, misfits: Sequence[str], task: str, choice: str) -> None:
    """Raise ValueError for callbacks that are for another task."""
    for name, node in config.callbacks.items():
        if node is not None and "_target_" in node and node._target_.rsplit(".", 1)[-1] in misfits:
            raise UserError(f"callbacks.{name} has nothing to do in task={task}: take callbacks={choice}")


class DiffusionModel:
    """A denoiser, by the objective that the configuration names."""

    def __init__(self, name: str) -> None:
        self.name = name

    def check(self, config: DictConfig) -> None:
        """Refuse, before anything large is built or read, what cannot be trained: ValueError says what to set."""
        takes = contracts.takes(config)
        if "out_channels" not in takes and "**" not in takes:
            raise UserError(
                f"network {config.network._target_.rsplit('.', 1)[-1]} has no images as output: it is for task=classifier "
                "(one that makes images takes out_channels, how many channels it is to return)"
            )
        check_callbacks(config, ["NoisyAccuracy"], "diffusion", "default or generation_metrics")
        if "weighting" not in config.objective and not config.weighting._target_.endswith(".uniform"):
            raise UserError(
                f"weighting={config.weighting._target_.rsplit('.', 1)[-1]} has no part in this objective: the bound's "
                "weights are what they are; leave weighting=uniform, or set objective=simple or hybrid"
            )
        contracts.check_parts(config)
        if config.class_conditional and config.data.num_classes is None and config.data.get("classes") is None:
            raise UserError(
                f"class_conditional=true needs labels, and data={config.data.name} has none: declare how many classes there "
                "are with data.num_classes=…, or name those of a folder of images with data.classes=folders (or prefix)"
            )
        if not isinstance(config.label_dropout, (int, float)) or not 0 <= config.label_dropout < 1:
            raise UserError(f"label_dropout={config.label_dropout} is a probability: take 0 or more, and less than 1")
        if config.label_dropout > 0 and not config.class_conditional:
            raise UserError(
                "label_dropout drops labels that only a class-conditional model has: add class_conditional=true"
            )

    def build(self, config: DictConfig) -> Diffusion:
        """The LightningModule."""
        return _module(
            config,
            build_denoiser(config),
            instantiate(config.objective),
            conditional=config.class_conditional,
            label_dropout=config.label_dropout,
            null_label=config.data.num_classes or 0,
        )


class ClassifierModel:
    """A classifier of noisy images, by cross entropy."""

    NO_PART = ("objective", "weighting", "prediction", "variance", "sampler", "class_conditional", "label_dropout")

    def __init__(self, name: str) -> None:
        self.name = name

    def check(self, config: DictConfig) -> None:
        """As of `DiffusionModel`."""
        takes = contracts.takes(config)
        if "out_channels" in takes and "path" not in takes:  # pretrained may be either
            raise UserError(
                "task=classifier needs a network that ends in classes, such as network=classifier_tiny or classifier_small, "
                f"and {config.network._target_.rsplit('.', 1)[-1]} ends in images"
            )
        counted_later = config.data.num_classes is None and config.data.get("classes") is not None
        if not counted_later and (config.data.num_classes or 0) < 2:
            raise UserError(
                f"task=classifier learns to tell classes apart and data={config.data.name} has "
                f"{config.data.num_classes or 'no'} labelled classes: declare how many with data.num_classes=…, or name those "
                "of a folder of images with data.classes=folders (or prefix)"
            )
        check_callbacks(config, ["SampleGrid", "BitsPerDimension", "GenerationMetrics"], "classifier", "classifier")
        given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
        idle = [option for option in given if option.lstrip("+~").split("=")[0].split(".")[0] in self.NO_PART]
        if idle:
            raise UserError(f"{idle[0]} has no part in task=classifier, which trains by cross entropy: leave it out")

    def build(self, config: DictConfig) -> Diffusion:
        """The LightningModule."""
        from ddpm_lab.diffusion.classifier import CrossEntropy

        # In the denoiser's place: CrossEntropy asks no more of it than it has.
        return _module(config, cast("Denoiser", build_classifier(config)), CrossEntropy(), conditional=True)


def _module(config: DictConfig, denoiser: Denoiser, objective: object, **options: object) -> Diffusion:
    from ddpm_lab.training.diffusion import Diffusion

    timesteps = instantiate(config.timestep_sampler, T=denoiser.process.T)
    contracts.check_network(denoiser)
    contracts.check_timesteps(timesteps, int(denoiser.process.T))
    module = Diffusion(
        denoiser,
        objective,  # type: ignore[arg-type]
        timesteps,
        instantiate(config.optimizer),
        instantiate(config.lr_scheduler),
        ema_rates=config.ema_rates,
        ema_warmup=config.ema_warmup,
        seed=config.seed,
        channels_last=channels_last(config),
        **options,  # type: ignore[arg-type]
    )
    if config.compile in GRAPHS and config.trainer.accumulate_grad_batches > 1:
        raise UserError(
            f"compile={config.compile} replays CUDA graphs, which overwrite the gradients that accumulate_grad_batches="
            f"{config.trainer.accumulate_grad_batches} keeps: take compile=true or max-autotune-no-cudagraphs"
        )
    compile_network(denoiser.network, config.compile)
    return module
