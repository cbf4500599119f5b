"""diffusers' UNet2DModel and DDPMPipeline, both ways, without diffusers itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ddpm_lab.checkpoints.slots import ColumnsSlot, Slots
from ddpm_lab.checkpoints.tensors import read_tensors
from ddpm_lab.errors import NoSuchFileError, UserError
from ddpm_lab.networks.adm_unet import ADMUNet
from ddpm_lab.networks.blocks import Attention, Downsample, ResidualBlock
from ddpm_lab.networks.ho_unet import EPS, HoUNet
from ddpm_lab.networks.levels import DownLevel

Network = ADMUNet | HoUNet
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# What no network of ours can do otherwise, as diffusers has it by default.
FIXED: dict[str, Any] = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "add_attention": True,
    "class_embed_type": None,
}
# The two families that are published: Ho et al.'s network, and Nichol & Dhariwal's.
HO = {"flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0, "norm_eps": EPS}
ADM = {"flip_sin_to_cos": True, "freq_shift": 0, "downsample_padding": 1, "norm_eps": 1e-5}
DEFAULTS: dict[str, Any] = {
    **FIXED,
    **ADM,
    "time_embedding_dim": None,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownBlock2D", *["AttnDownBlock2D"] * 3),
    "up_block_types": (*["AttnUpBlock2D"] * 3, "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "attention_head_dim": 8,
    "resnet_time_scale_shift": "default",
    "attn_norm_num_groups": None,
    "num_class_embeds": None,
    "sample_size": None,
}


class Plan(NamedTuple):
    """How to build a network: its class, and all arguments but image_size, in_channels, out_channels and num_classes."""

    network_class: type[Network]
    options: dict[str, Any]
    in_channels: int
    out_channels: int
    num_classes: int | None

    def build(self, image_size: int) -> Network:
        """The network, its weights not yet filled."""
        with torch.device("meta"):
            network = self.network_class(
                image_size, self.in_channels, self.out_channels, num_classes=self.num_classes, **self.options
            )
        return network.to_empty(device="cpu")


class Loaded(NamedTuple):
    """A network in eval mode, how it was built, for images of which size (None: not said), and its scheduler_config.json."""

    network: Network
    plan: Plan
    image_size: int | None
    scheduler: dict[str, Any] | None


def load(folder: str | Path) -> Loaded:
    """Read a folder of a UNet2DModel, or of a pipeline with unet/ and scheduler/; its weights as safetensors or bin.

    The network is called `network(x, t)` or `network(x, t, y)`, t counted from 0 as there.

    Raises:
        FileNotFoundError: there is no such folder, or a file of it is missing.
        ValueError: a file is damaged, the network is of a kind that is not here, or weights and config do not fit.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NoSuchFileError(f"There is no folder {folder}: give one that holds a UNet2DModel or a DDPMPipeline.")
    parts = _json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {"unet": []}
    if "unet" not in parts:
        raise UserError(f"{folder} is a pipeline without unet ({', '.join(parts)}): give one of a UNet2DModel.")
    # The first pipelines that were published have all their files in one folder.
    schedulers = [folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json"]
    scheduler = next((_json(path) for path in schedulers if path.is_file()), None)
    folder = folder / "unet" if (folder / "unet").is_dir() else folder
    if not (folder / "config.json").is_file():
        raise NoSuchFileError(f"{folder} holds no config.json: it is not the folder of a UNet2DModel or of a pipeline.")
    config = _json(folder / "config.json")
    kind = config.get("_class_name", "UNet2DModel")
    if kind not in ("UNet2DModel", "UNetUnconditionalModel"):
        raise UserError(f"{folder} holds a {kind}, and only UNet2DModel can be read.")
    try:
        size = _size(config.get("sample_size"))
        # Without a size, any that can be halved as often names the same levels.
        drawn = size or 8 * 2 ** (len(config.get("block_out_channels", DEFAULTS["block_out_channels"])) - 1)
        planned = plan(config, drawn, str(folder / "config.json"))
        network = planned.build(drawn)
    except (TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise UserError(f"{folder}/config.json has options that make no network ({error}): get it again.") from None
    paths = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not paths:
        raise NoSuchFileError(f"{folder} holds no weights: neither {WEIGHTS[0]} nor {WEIGHTS[1]}.")
    slots(network).fill(
        _current(read_tensors(paths[0])), f"Its config.json describes another network than {paths[0].name}."
    )
    return Loaded(network.eval(), planned, size, scheduler)


def plan(config: Mapping[str, Any], image_size: int, name: str = "this config") -> Plan:
    """What a UNet2DModel's config describes, its attention counted in pixels of images of image_size.

    Raises ValueError for options that no network of ours has.
    """
    said = {**DEFAULTS, **config}
    if said["act_fn"] == "swish":
        said["act_fn"] = "silu"  # the same function
    for option, value in FIXED.items():
        if said[option] != value:
            raise UserError(f"{name} has {option}={said[option]!r}: only {value!r} can be read.")
    channels, down, up = said["block_out_channels"], list(said["down_block_types"]), list(said["up_block_types"])
    base = channels[0] if said["time_embedding_dim"] is None else said["time_embedding_dim"] // 4
    family = {option: said[option] for option in HO} | {"freq_shift": said["freq_shift"] - _unused(channels[0], base)}
    if family not in (HO, ADM) or said["time_embedding_dim"] not in (None, 4 * base):
        family |= {option: said[option] for option in ("freq_shift", "time_embedding_dim")}
        raise UserError(
            f"{name} has {family}, which is neither Ho et al.'s network ({HO}) nor Nichol & Dhariwal's ({ADM})."
        )
    known = {"DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"}
    mirrored = [kind.replace("Downsample", "Upsample").replace("Down", "Up") for kind in reversed(down)]
    if not set(down) <= known or up != mirrored:
        raise UserError(
            f"{name} has blocks {down} and {up}: only {sorted(known)} and the same on the way up can be read."
        )
    resnet = said["downsample_type"] == "resnet"
    if (
        said["upsample_type"] != said["downsample_type"]
        or ("DownBlock2D" if resnet else "ResnetDownsampleBlock2D") in down
    ):
        raise UserError(
            f"{name} changes resolution in more than one way: all blocks must do it by convolutions, or in residual blocks."
        )
    # Without a number, the middle's attention has a norm only where the timestep is added.
    scale_shift = said["resnet_time_scale_shift"] == "scale_shift"
    if said["attn_norm_num_groups"] != 32 and (said["attn_norm_num_groups"] is not None or scale_shift):
        raise UserError(f"{name} has attn_norm_num_groups={said['attn_norm_num_groups']}: only 32 can be read.")
    if said["resnet_time_scale_shift"] not in ("default", "scale_shift"):
        raise UserError(
            f"{name} has resnet_time_scale_shift={said['resnet_time_scale_shift']!r}: only 'default' and 'scale_shift' can "
            "be read."
        )
    depth = len(channels) - 1
    if image_size % 2**depth:
        raise UserError(f"{name} halves images {depth} times, which {image_size} pixels cannot be.")
    options: dict[str, Any] = {
        "model_channels": base,
        "channel_mult": [width // base if width % base == 0 else width / base for width in channels],
        "num_res_blocks": said["layers_per_block"],
        "attention_resolutions": [
            image_size // 2**level for level, kind in enumerate(down) if kind == "AttnDownBlock2D"
        ],
        "dropout": said["dropout"],
    }
    head = said["attention_head_dim"]
    sizes = said["in_channels"], said["out_channels"], said["num_class_embeds"]
    if family == HO:
        if head is not None or scale_shift or resnet:
            raise UserError(
                f"{name} has attention_head_dim={head!r} and resnet_time_scale_shift={said['resnet_time_scale_shift']!r}: "
                "Ho et al.'s network has one head and adds the timestep."
            )
        return Plan(HoUNet, options, *sizes)
    of_adm = {"head_channels": head, "scale_shift_norm": scale_shift, "resblock_updown": resnet}
    return Plan(ADMUNet, options | of_adm, *sizes)


def describe(network: nn.Module, image_size: int) -> dict[str, Any]:
    """The config of the UNet2DModel that computes what the network does: `plan` backwards.

    Raises ValueError for what a UNet2DModel cannot do.
    """
    if not isinstance(network, ADMUNet | HoUNet):
        raise UserError(f"A {type(network).__name__} is no UNet2DModel: only ADMUNet and HoUNet can be written.")
    attentions = [module for module in network.modules() if isinstance(module, Attention)]
    residuals = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    if any(module.rescale for module in residuals):
        raise UserError("A UNet2DModel cannot rescale residual branches: only rescale_residual=false can be written.")
    heads = {module.num_heads for module in attentions}
    widths = {module.qkv.in_features // module.num_heads for module in attentions}
    if heads == {1}:
        head = None
    elif len(widths) == 1:
        (head,) = widths
    else:
        raise UserError(
            f"A UNet2DModel has heads of one width, and this network has some of {', '.join(map(str, sorted(widths)))} "
            "channels: it was built with num_heads, where head_channels could be written."
        )
    family = HO if isinstance(network, HoUNet) else ADM
    base, first_level = network.time.channels, network.conv_in.out_channels
    if first_level < base or (first_level > base and base % 2):
        raise UserError(
            f"A UNet2DModel tells the time by {first_level} sinusoids, as many as its first level has channels, and this "
            f"network takes {base}: only an even model_channels, and a channel_mult that starts with 1 or more, can be written."
        )
    resamples = [level.resample for level in network.down if level.resample is not None]
    if any(isinstance(layer, Downsample) and layer.conv is None for layer in resamples):
        raise UserError("A UNet2DModel halves by convolutions: conv_resample=false cannot be written.")
    resnet = any(isinstance(layer, ResidualBlock) for layer in resamples)
    down_levels = [level for level in network.down if isinstance(level, DownLevel)]
    first: list[Any] = [level.blocks[0] for level in down_levels]
    plain = "ResnetDownsampleBlock2D" if resnet else "DownBlock2D"
    down = [plain if block.attention is None else "AttnDownBlock2D" for block in first]
    up = [kind.replace("Downsample", "Upsample").replace("Down", "Up") for kind in reversed(down)]
    return {
        "_class_name": "UNet2DModel",
        **FIXED,
        **family,
        "freq_shift": family["freq_shift"] + _unused(first_level, base),
        "time_embedding_dim": None if first_level == base else 4 * base,
        "sample_size": image_size,
        "in_channels": network.in_channels,
        "out_channels": network.conv_out.out_channels,
        "block_out_channels": [block.residual.conv_2.out_channels for block in first],
        "layers_per_block": len(down_levels[0].blocks),
        "down_block_types": down,
        "up_block_types": up,
        "downsample_type": "resnet" if resnet else "conv",
        "upsample_type": "resnet" if resnet else "conv",
        "dropout": residuals[0].dropout.p,
        "attention_head_dim": head,
        "attn_norm_num_groups": 32,
        "resnet_time_scale_shift": "scale_shift" if residuals[0].scale_shift_norm else "default",
        "num_class_embeds": None if network.time.label is None else network.time.label.num_embeddings,
    }


def slots(network: Network) -> Slots:
    """UNet2DModel's key -> slot, for every parameter of the network."""
    table = Slots()
    _sinusoids(table, network.time.mlp[0], network.conv_in.out_channels)
    table.module("time_embedding.linear_2", network.time.mlp[2])
    if network.time.label is not None:
        table.module("class_embedding", network.time.label)
    projections = zip(
        network.time.projection.weight.split(network.time.widths),
        network.time.projection.bias.split(network.time.widths),
        strict=True,
    )
    table.module("conv_in", network.conv_in)
    for i, level in enumerate(network.down):
        _level(table, f"down_blocks.{i}", level, "downsamplers", projections)
    _residual(table, "mid_block.resnets.0", network.middle.before, projections)
    _attention(table, "mid_block.attentions.0", network.middle.attention)
    _residual(table, "mid_block.resnets.1", network.middle.after, projections)
    for i, level in enumerate(network.up):
        _level(table, f"up_blocks.{i}", level, "upsamplers", projections)
    table.module("conv_norm_out", network.norm_out)
    table.module("conv_out", network.conv_out)
    return table


def save_unet(folder: Path, network: Network, image_size: int) -> None:
    """Write config.json and the weights as safetensors. Raises ValueError for what a UNet2DModel cannot do."""
    config = describe(network, image_size)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(slots(network).read(), folder / WEIGHTS[0], metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def save_pipeline(folder: Path, network: Network, image_size: int, scheduler: Mapping[str, Any]) -> None:
    """Write a DDPMPipeline: unet/, scheduler/ and model_index.json, which comes last and makes the folder one."""
    save_unet(folder / "unet", network, image_size)
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(dict(scheduler), indent=2) + "\n")
    index = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": "0.35.0",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _unused(first_level: int, base: int) -> int:
    """How many frequencies a UNet2DModel has that a network of model_channels=base does not ask for.

    It has half as many as its first level has channels, 10000^(-i / (first_level // 2 - freq_shift)). With this on top of
    freq_shift its first base // 2 are the network's, and weights of zero leave the others out.
    """
    return first_level // 2 - base // 2


def _sinusoids(table: Slots, linear: Any, first_level: int) -> None:
    """The layer that reads the sinusoids: sines and cosines of all frequencies there, of the first ones alone here."""
    half = linear.in_features // 2
    if linear.in_features == first_level:
        table.module("time_embedding.linear_1", linear)
        return
    columns = [*range(half), *range(first_level // 2, first_level // 2 + half)]
    shape = torch.Size((linear.out_features, first_level))
    table["time_embedding.linear_1.weight"] = ColumnsSlot(linear.weight.detach(), shape, columns)
    table.add("time_embedding.linear_1.bias", linear.bias)


Projections = Iterator[tuple[Tensor, Tensor]]


def _level(table: Slots, key: str, level: Any, resampler: str, projections: Projections) -> None:
    for k, block in enumerate(level.blocks):
        _residual(table, f"{key}.resnets.{k}", block.residual, projections)
        if block.attention is not None:
            _attention(table, f"{key}.attentions.{k}", block.attention)
    layer = level.resample
    if isinstance(layer, ResidualBlock):
        _residual(table, f"{key}.{resampler}.0", layer, projections)
    elif layer is not None:
        table.module(f"{key}.{resampler}.0.conv", layer.conv)


def _residual(table: Slots, key: str, block: ResidualBlock, projections: Projections) -> None:
    table.module(f"{key}.norm1", block.norm_1)
    table.module(f"{key}.conv1", block.conv_1)
    weight, bias = next(projections)
    table.add(f"{key}.time_emb_proj.weight", weight)
    table.add(f"{key}.time_emb_proj.bias", bias)
    table.module(f"{key}.norm2", block.norm_2)
    table.module(f"{key}.conv2", block.conv_2)
    table.module(f"{key}.conv_shortcut", block.shortcut)


def _attention(table: Slots, key: str, block: Attention) -> None:
    table.module(f"{key}.group_norm", block.norm)
    for name, parameter in block.qkv.named_parameters():
        for part, rows in zip("qkv", parameter.chunk(3), strict=True):
            table.add(f"{key}.to_{part}.{name}", rows)
    table.module(f"{key}.to_out.0", block.proj)


def _current(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys as diffusers has them since 0.11."""
    renamed = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    found = {}
    for key, value in state.items():
        parts = key.split(".")
        if "attentions" in parts and parts[-2] in renamed:
            key = ".".join([*parts[:-2], renamed[parts[-2]], parts[-1]])
        found[key] = value
    return found


def _size(sample_size: object) -> int | None:
    """Of square images: n of n or [n, n]; None where it is not said."""
    if isinstance(sample_size, list) and len(sample_size) == 2 and sample_size[0] == sample_size[1]:
        sample_size = sample_size[0]
    if sample_size is not None and (not isinstance(sample_size, int) or sample_size < 1):
        raise UserError(f"sample_size={sample_size}: only square images can be read.")
    return sample_size


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): get it again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no options: get it again.")
    return found
