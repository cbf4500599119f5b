"""Bring a model from one form into another, once both have given the same outputs."""

from __future__ import annotations

import copy
import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ddpm_lab import runs, searchpath
from ddpm_lab.checkpoints import diffusers, openai, schedulers
from ddpm_lab.checkpoints.tensors import read_tensors
from ddpm_lab.diffusion.process import Process
from ddpm_lab.errors import FolderInUseError, UserError
from ddpm_lab.tasks.building import load_any
from ddpm_lab.tasks.card import card as model_card
from ddpm_lab.tasks.foreign import Foreign, check_walk, is_upsampler, labels_of, read

TOLERANCE = 1e-4  # of the largest output, between both forms
Pairs = list[tuple[nn.Module, nn.Module]]  # a network, and what was written of it, read again


def convert(config: DictConfig) -> None:
    """Write config.out from config.from, and a model card; nothing is left there unless both agree."""
    writers: dict[str, Callable[[DictConfig, Foreign, Path], Pairs]] = {
        "diffusers": _to_diffusers,
        "openai": _to_openai,
        "safetensors": _to_safetensors,
        "export": _to_export,
        "run": _to_run,
    }
    if config.to not in writers:
        raise UserError(f"to={config.to} is none of {', '.join(writers)}")
    out = Path(config.out)
    # Beside a file, inside a folder.
    card = out.with_name(f"{out.name}.md") if config.to in ("openai", "export") else out / "README.md"
    for path in (out, card):
        if path.exists():
            raise FolderInUseError(f"{path} is there already: remove it, or give another out=…")
    nearest = next(parent for parent in out.absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise UserError(f"out={out}: {nearest} is a file, and no folder can be made there")
    source = read(config["from"], config.format, config.published, config.weights)
    with tempfile.TemporaryDirectory(dir=nearest, prefix=".converting.") as folder:
        written = Path(folder) / out.name
        pairs = writers[config.to](config, source, written)
        compared = [_compare(source, ours, again) for ours, again in pairs]
        for difference, largest in compared:
            if not difference <= TOLERANCE * max(largest, 1e-6):
                raise UserError(
                    f"out={out} is not written: its network differs from that of {config['from']} by {difference:.3g}, with "
                    f"outputs up to {largest:.3g}"
                )
        (Path(folder) / card.relative_to(out.parent)).write_text(model_card(config, source))
        out.parent.mkdir(parents=True, exist_ok=True)
        for path in Path(folder).iterdir():
            path.replace(out.parent / path.name)
    difference, largest = max(compared)
    print(
        f"{source.about} -> {out} ({config.to}); largest difference of outputs {difference:.3g}, outputs up to {largest:.3g}"
    )


def _to_diffusers(config: DictConfig, source: Foreign, out: Path) -> Pairs:
    """A DDPMPipeline."""
    betas, prediction, variance, clip = check_walk(source, config["from"])
    if source.time_scale != 1.0:
        raise UserError(
            f"{config['from']} tells its network (t - 1) * {source.time_scale:g}, and a UNet2DModel is told t - 1: it cannot "
            "be written for diffusers"
        )
    scheduler = schedulers.describe(Process(betas), prediction, variance, clip)
    diffusers.save_pipeline(out, source.network, source.image_size, scheduler)  # type: ignore[arg-type]
    return [(source.network, _their_network(out / "unet") or diffusers.load(out).network)]


def _their_network(unet: Path) -> nn.Module | None:
    """What diffusers itself makes of the folder, called as our networks are; None where it is not installed."""
    if importlib.util.find_spec("diffusers") is None:
        return None
    from diffusers import UNet2DModel

    class Theirs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = UNet2DModel.from_pretrained(unet, low_cpu_mem_usage=False)

        def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
            return self.model(x, t, y).sample

    return Theirs().eval()


def _to_openai(config: DictConfig, source: Foreign, out: Path) -> Pairs:
    """A state dict as improved-diffusion and guided-diffusion load it, in the old order of attention channels."""
    network: Any = source.network
    if not isinstance(network, openai.Network):
        raise UserError(
            f"A {type(network).__name__} has no place in OpenAI's code: only ADM's networks can be written."
        )
    torch.save(openai.to_openai(network), out)
    return [(network, openai.fill(_blank(network), out))]


def _to_safetensors(config: DictConfig, source: Foreign, out: Path) -> Pairs:
    """The weights under our own names: of a run raw, ema and its further averages; and the network's options."""
    from safetensors.torch import save_file

    out.mkdir()
    networks = {"weights": source.network}
    if source.folder is not None:
        averages = len(runs.load_config(source.folder).ema_rates)
        names = ["raw", *(["ema"] if averages else []), *map(str, range(1, averages))]
        networks = {name: load_any(config["from"], name)[1].network for name in names}
        shutil.copy(source.folder / "config.yaml", out / "config.yaml")
    OmegaConf.save(source.node, out / "network.yaml")
    pairs = []
    for name, network in networks.items():
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, out / f"{name}.safetensors")
        again = _blank(network)
        again.load_state_dict(read_tensors(out / f"{name}.safetensors"))
        pairs.append((network, again))
    return pairs


def _to_export(config: DictConfig, source: Foreign, out: Path) -> Pairs:
    """torch.export's program: network(x, t) or network(x, t, y) for any batch of two or more, t counted from 0."""
    if out.suffix != ".pt2":
        raise UserError(f"out={config.out}: the file of an exported program ends in .pt2")
    if is_upsampler(source.network):
        raise UserError(f"{config['from']} is an upsampler, whose small image has no place in an exported program")
    batch = torch.export.Dim("batch", min=2)
    inputs = _inputs(source)
    program = torch.export.export(source.network, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    torch.export.save(program, out)
    return [(source.network, torch.export.load(out).module())]


def _to_run(config: DictConfig, source: Foreign, out: Path) -> Pairs:
    """A run folder that takes part wherever run=… does, of the data that config.data names."""
    if config.data is None:
        raise UserError("to=run needs the data that the model was trained on, for its labels and metrics: add data=…")
    if not source.is_classifier:
        check_walk(source, config["from"])
    run = _compose(config, source)
    (out / "checkpoints").mkdir(parents=True)
    OmegaConf.save(run, out / "config.yaml", resolve=True)
    state = {f"denoiser.network.{name}": value for name, value in source.network.state_dict().items()}
    torch.save({"state_dict": state, "global_step": source.step}, out / "checkpoints" / "last.ckpt")
    runs.write_json(out / "provenance.json", runs.provenance_of(out, run, [f"from={config['from']}"]))
    return [(source.network, load_any(str(out), "raw")[1].network)]


def _compose(config: DictConfig, source: Foreign) -> DictConfig:
    """The configuration of a training that would give this model."""
    from hydra import compose

    choices = ["schedule=explicit"]
    if source.is_classifier:
        choices.append("task=classifier")
    elif source.scheduled is not None and source.scheduled.variance.heads == 2:
        choices.append("objective=hybrid")
    with searchpath.opened("train"):
        run = compose("train", choices)
    OmegaConf.set_struct(run, False)
    run.data = OmegaConf.to_container(config.data, resolve=True)  # its interpolations are of this configuration
    run.network = source.node
    run.schedule.betas = source.betas.tolist()  # type: ignore[union-attr]
    if source.scheduled is not None:
        for name in ("prediction", "variance"):
            part = getattr(source.scheduled, name)
            run[name] = {"_target_": f"{type(part).__module__}.{type(part).__name__}"}
    run.update(labels_of(source, config.data))
    run.time_scale = source.time_scale
    run.ema_rates = []
    for node in ("callbacks", "guard", "hydra"):
        run.pop(node, None)  # of a training that there was not
    return run


def _inputs(source: Foreign) -> tuple[Tensor, ...]:
    """Fixed inputs: three images, timesteps at both ends and between, labels where the network has some."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, source.channels, source.image_size, source.image_size, generator=generator)
    t = torch.tensor([0.0, 499.0, 999.0]) * source.time_scale
    if source.num_classes is None or source.is_classifier:
        return x, t
    return x, t, torch.tensor([0, min(1, source.num_classes - 1), source.num_classes - 1])


@torch.no_grad()
def _compare(source: Foreign, ours: nn.Module, written: nn.Module) -> tuple[float, float]:
    """The largest difference of both networks' outputs, and the largest output."""
    inputs = _inputs(source)
    extra = {}
    if is_upsampler(source.network):
        extra["low_res"] = inputs[0][:, :, ::4, ::4].contiguous()
    wanted, found = ours.eval()(*inputs, **extra), written(*inputs, **extra)
    return (found - wanted).abs().max().item(), wanted.abs().max().item()


def _blank(network: nn.Module) -> Any:
    """The same network with other weights, so that what is read again is all there is."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(float("nan"))
    return other.eval()
