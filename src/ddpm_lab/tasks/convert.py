"""Bring a model from one form into another, once both have given the same outputs."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ddpm_lab import runs
from ddpm_lab.checkpoints import diffusers, openai, schedulers
from ddpm_lab.diffusion.process import Process
from ddpm_lab.tasks.building import load_any
from ddpm_lab.tasks.foreign import Foreign, check_walk, is_upsampler, labels_of, read

TOLERANCE = 1e-4  # of the largest output, between both forms
Reader = Callable[[], nn.Module]  # what was written, read again


def convert(config: DictConfig) -> None:
    """Write config.out from config.from, and a model card; nothing is left there unless both agree."""
    writers: dict[str, Callable[[DictConfig, Foreign, Path], Reader]] = {
        "diffusers": _to_diffusers,
        "openai": _to_openai,
        "safetensors": _to_safetensors,
        "export": _to_export,
        "run": _to_run,
    }
    if config.to not in writers:
        raise ValueError(f"to={config.to} is none of {', '.join(writers)}")
    out = Path(config.out)
    if out.exists():
        raise FileExistsError(f"out={out} is there already: remove it, or name another place")
    source = read(config["from"], config.format, config.published, config.weights)
    partial = out.with_name(f"partial.{out.name}")
    _remove(partial)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        reader = writers[config.to](config, source, partial)
        difference, largest = _compare(source, reader())
        if not difference <= TOLERANCE * max(largest, 1e-6):
            raise ValueError(
                f"out={out} is not written: its network differs from that of {config['from']} by {difference:.3g}, with "
                f"outputs up to {largest:.3g}"
            )
    except BaseException:
        _remove(partial)
        raise
    partial.replace(out)
    card = out / "README.md" if out.is_dir() else out.with_name(f"{out.name}.md")
    card.write_text(_card(config, source))
    print(
        f"{source.about} -> {out} ({config.to}); largest difference of outputs {difference:.3g}, outputs up to {largest:.3g}"
    )


def _to_diffusers(config: DictConfig, source: Foreign, out: Path) -> Reader:
    """A DDPMPipeline."""
    if source.time_scale != 1.0:
        raise ValueError(
            f"{config['from']} tells its network (t - 1) * {source.time_scale:g}, and a UNet2DModel is told t - 1: it cannot "
            "be written for diffusers"
        )
    betas, prediction, variance, clip = check_walk(source, config["from"])
    scheduler = schedulers.describe(Process(betas), prediction, variance, clip)
    diffusers.save_pipeline(out, source.network, source.image_size, scheduler)  # type: ignore[arg-type]
    return lambda: _their_network(out / "unet") or diffusers.load(out).network


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


def _to_openai(config: DictConfig, source: Foreign, out: Path) -> Reader:
    """A state dict as improved-diffusion and guided-diffusion load it, in the old order of attention channels."""
    network: Any = source.network
    if not isinstance(network, openai.Network):
        raise ValueError(
            f"A {type(network).__name__} has no place in OpenAI's code: only ADM's networks can be written."
        )
    torch.save(openai.to_openai(network), out)
    return lambda: openai.fill(_blank(network), openai.read(out))


def _to_safetensors(config: DictConfig, source: Foreign, out: Path) -> Reader:
    """raw.safetensors and, of a run with averages, ema.safetensors, under our own names; config.yaml."""
    from safetensors.torch import load_file, save_file

    out.mkdir()
    networks = {str(config.weights): source.network}
    if _is_run(config["from"]):
        rates = list(runs.load_config(runs.checked_run(config["from"])).ema_rates)
        networks = {name: load_any(config["from"], name)[1].network for name in (["raw", "ema"] if rates else ["raw"])}
        shutil.copy(runs.checked_run(config["from"]) / "config.yaml", out / "config.yaml")
    for name, network in networks.items():
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, out / f"{name}.safetensors")
    chosen = "ema" if "ema" in networks else next(iter(networks))

    def again() -> nn.Module:
        network = _blank(source.network)
        network.load_state_dict(
            load_file(out / f"{config.weights if config.weights in networks else chosen}.safetensors")
        )
        return network

    return again


def _to_export(config: DictConfig, source: Foreign, out: Path) -> Reader:
    """torch.export's program: network(x, t) or network(x, t, y) for any batch of two or more, t counted from 0."""
    if out.suffix != ".pt2":
        raise ValueError(f"out={config.out}: the file of an exported program ends in .pt2")
    batch = torch.export.Dim("batch", min=2)
    inputs = _inputs(source)
    program = torch.export.export(source.network, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    torch.export.save(program, out)
    return lambda: torch.export.load(out).module()


def _to_run(config: DictConfig, source: Foreign, out: Path) -> Reader:
    """A run folder that sample.py, evaluate.py and network=pretrained take, of the data that config.data names."""
    if config.data is None:
        raise ValueError("to=run needs the data that the model was trained on, for its labels and metrics: add data=…")
    check_walk(source, config["from"])
    run = _compose(config, source)
    (out / "checkpoints").mkdir(parents=True)
    OmegaConf.save(run, out / "config.yaml", resolve=True)
    state = {f"denoiser.network.{name}": value for name, value in source.network.state_dict().items()}
    torch.save({"state_dict": state, "global_step": source.step}, out / "checkpoints" / "last.ckpt")
    runs.record_provenance(out, [f"from={config['from']}"])
    return lambda: load_any(str(out), "raw")[1].network


def _compose(config: DictConfig, source: Foreign) -> DictConfig:
    """The configuration of a training that would give this model."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    assert source.scheduled is not None
    betas, prediction, variance, _ = source.scheduled
    GlobalHydra.instance().clear()
    root = Path(__file__).parents[3]
    learned = variance.heads == 2
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        run = compose("train", [*(["objective=hybrid"] if learned else []), "schedule=explicit"])
    OmegaConf.set_struct(run, False)
    run.data = OmegaConf.to_container(config.data, resolve=True)  # its interpolations are of this configuration
    run.network = source.node
    run.schedule.betas = betas.tolist()
    run.prediction = {"_target_": f"{type(prediction).__module__}.{type(prediction).__name__}"}
    run.variance = {"_target_": f"{type(variance).__module__}.{type(variance).__name__}"}
    run.update(labels_of(source, config.data))
    run.time_scale = source.time_scale
    run.ema_rates = []
    for node in ("callbacks", "guard", "hydra"):
        run.pop(node, None)  # of a training that there was not
    return run


def _card(config: DictConfig, source: Foreign) -> str:
    """A model card in Markdown: what it is, its options, its numbers."""
    lines = [f"# {source.about}", "", f"Written by ddpm-lab, commit {runs.commit()}, from `{config['from']}`."]
    if source.scheduled is not None:
        betas, prediction, variance, _ = source.scheduled
        lines += [
            "",
            f"Images of {source.channels}x{source.image_size}x{source.image_size}, {source.num_classes or 'no'} labels; "
            f"T = {len(betas)}; the network predicts {type(prediction).__name__}, variance {type(variance).__name__}.",
        ]
    if _is_run(config["from"]):
        folder = runs.checked_run(config["from"])
        numbers = {k: v for k, v in runs.read_metrics(folder).items() if isinstance(v, (int, float))}
        lines += ["", f"Weights: {config.weights}. Numbers of the run:", ""]
        lines += [f"- {name}: {value}" for name, value in sorted(numbers.items())]
        lines += ["", "Options:", "", "```yaml", (folder / "config.yaml").read_text().rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _inputs(source: Foreign) -> tuple[Tensor, ...]:
    """Fixed inputs: three images, timesteps at both ends and between, labels where the network has some."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, source.channels, source.image_size, source.image_size, generator=generator)
    t = torch.tensor([0.0, 499.0, 999.0]) * source.time_scale
    labelled = getattr(getattr(source.network, "time", None), "label", None) is not None
    return (x, t, torch.tensor([0, 1, (source.num_classes or 1) - 1])) if labelled else (x, t)


@torch.no_grad()
def _compare(source: Foreign, written: nn.Module) -> tuple[float, float]:
    """The largest difference of both networks' outputs, and the largest output."""
    inputs = _inputs(source)
    extra = {}
    if is_upsampler(source.network):
        extra["low_res"] = inputs[0][:, :, ::4, ::4].contiguous()
    ours, other = source.network.eval()(*inputs, **extra), written(*inputs, **extra)
    return (ours - other).abs().max().item(), ours.abs().max().item()


def _blank(network: nn.Module) -> Any:
    """The same network with other weights, so that what is read again is all there is."""
    import copy

    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(float("nan"))
    return other.eval()


def _is_run(path: str) -> bool:
    return path.endswith(".ckpt") or (Path(path) / "config.yaml").is_file()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
