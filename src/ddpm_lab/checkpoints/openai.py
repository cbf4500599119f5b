"""Weights of improved-diffusion and guided-diffusion, both ways."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ddpm_lab.checkpoints.slots import Slots
from ddpm_lab.checkpoints.tensors import read_tensors
from ddpm_lab.errors import UserError
from ddpm_lab.networks.adm_unet import ADMUNet
from ddpm_lab.networks.blocks import Attention, ResidualBlock
from ddpm_lab.networks.levels import DownLevel, UpLevel
from ddpm_lab.networks.noisy_classifier import (
    AdaptivePool,
    AttentionPool,
    NoisyClassifier,
    NormedSpatialPool,
    SpatialPool,
)
from ddpm_lab.networks.super_resolution import SuperResolutionUNet

Network = ADMUNet | SuperResolutionUNet | NoisyClassifier


def load(
    source: str | os.PathLike[str] | Mapping[str, Tensor],
    *,
    in_channels: int,
    model_channels: int,
    out_channels: int,
    num_res_blocks: int,
    attention_resolutions: Sequence[int],
    image_size: int | None = None,
    dropout: float = 0.0,
    channel_mult: Sequence[float] = (1, 2, 4, 8),
    conv_resample: bool = True,
    dims: int = 2,
    num_classes: int | None = None,
    use_checkpoint: bool = False,
    use_fp16: bool = False,
    num_heads: int = 1,
    num_head_channels: int = -1,
    num_heads_upsample: int = -1,
    use_scale_shift_norm: bool = False,
    resblock_updown: bool = False,
    use_new_attention_order: bool = False,
    pool: str | None = None,
    super_resolution: bool = False,
) -> Network:
    """A published network with its weights, in eval mode, called `network(x, t)` or `network(x, t, y)`.

    The arguments have the names, the meanings and the defaults of the public constructors UNetModel, SuperResModel
    and EncoderUNetModel. Three of them deserve a word: attention_resolutions are downsampling factors there, not
    pixels; `pool` is given for a classifier; `use_fp16` changes nothing, since files hold float32 weights (autocast
    or `.half()` chooses the arithmetic here). `super_resolution=True` stands for the class SuperResModel, whose
    in_channels are those of the large image.

    Args:
        source: a `.pt` file holding a state dict, or such a dict.

    Returns:
        A `NoisyClassifier` with `pool`, a `SuperResolutionUNet` with `super_resolution`, otherwise an `ADMUNet`.

    Raises:
        ValueError: the file holds something other than tensors, its keys or shapes do not fit the flags, or a flag asks
            for what no published network has.
    """
    if dims != 2:
        raise UserError(f"Only images can be loaded, and dims is {dims}: leave it at 2.")
    if num_heads_upsample not in (-1, num_heads):
        raise UserError(
            f"num_heads_upsample is {num_heads_upsample} and num_heads {num_heads}: no published network has "
            "two numbers of heads, leave num_heads_upsample at -1."
        )
    # Without a size, any that can be halved for each level names the same levels as the downsampling factors do.
    size = image_size or 2 ** (len(channel_mult) - 1)
    head_channels = None if num_head_channels == -1 else num_head_channels
    build: Callable[..., Network]
    if pool is not None:
        if num_classes is not None:
            raise UserError("A classifier's number of classes is its out_channels: leave num_classes out.")
        if image_size is None:
            raise UserError("A classifier needs image_size, for the positions of its pool: pass it.")
        build = partial(NoisyClassifier, image_size, in_channels, out_channels, pool=_pool(pool, head_channels))
    else:
        network_class = SuperResolutionUNet if super_resolution else ADMUNet
        build = partial(network_class, size, in_channels, out_channels, num_classes=num_classes)
    with torch.device("meta"):  # no storage, no random numbers: every parameter comes from the file
        network = build(
            model_channels=model_channels,
            channel_mult=channel_mult,
            num_res_blocks=num_res_blocks,
            attention_resolutions=[size // factor for factor in attention_resolutions],
            num_heads=num_heads,
            head_channels=head_channels,
            dropout=dropout,
            scale_shift_norm=use_scale_shift_norm,
            resblock_updown=resblock_updown,
            conv_resample=conv_resample,
            checkpointing=use_checkpoint,
        )
    return fill(network.to_empty(device="cpu"), source, use_new_attention_order=use_new_attention_order)


def fill(
    network: Network,
    source: str | os.PathLike[str] | Mapping[str, Tensor],
    *,
    use_new_attention_order: bool = False,
    advice: str = "Pass the flags it was trained with.",
) -> Network:
    """The network, built from a configuration, with the weights of a `.pt` file or a state dict, in eval mode.

    Raises:
        ValueError: as `load`; a mismatch ends in the advice.
    """
    state = source if isinstance(source, Mapping) else read_tensors(source)
    _slots(network, use_new_attention_order).fill(state, advice)
    return network.eval()


def fits(network: Network, state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the keys and shapes of the network."""
    return not _slots(network, True).complaints(state)


def to_openai(network: Network, *, use_new_attention_order: bool = False) -> dict[str, Tensor]:
    """The state dict that improved-diffusion or guided-diffusion would load: `load` read backwards, bit by bit.

    Args:
        network: as `load` returns it, or trained here.
        use_new_attention_order: the flag with which the dict will be read.

    Raises:
        ValueError: the network rescales its residual branches, which the public code cannot do.
    """
    if any(module.rescale for module in network.modules() if isinstance(module, ResidualBlock)):
        raise UserError("The public code cannot rescale residual branches: only rescale_residual=False can be saved.")
    return _slots(network, use_new_attention_order).read()


def _pool(name: str, head_channels: int | None) -> Callable[[Sequence[int], int, int], nn.Module]:
    pools: dict[str, Callable[[Sequence[int], int, int], nn.Module]] = {
        "adaptive": AdaptivePool,
        "spatial": SpatialPool,
        "spatial_v2": NormedSpatialPool,
    }
    if head_channels is not None:
        pools["attention"] = partial(AttentionPool, head_channels=head_channels)
    if name not in pools:
        raise UserError(
            f"No pool {name!r}: choose from adaptive, spatial, spatial_v2, attention (which needs num_head_channels)."
        )
    return pools[name]


def _slots(network: Network, new_order: bool) -> Slots:
    """Public key -> slot, for every parameter of the network."""
    if isinstance(network, SuperResolutionUNet):
        network = network.unet
    table = _Table(network, new_order)
    table.slots.module("time_embed.0", network.time.mlp[0])
    table.slots.module("time_embed.2", network.time.mlp[2])
    if network.time.label is not None:
        table.slots.module("label_emb", network.time.label)
    table.slots.module("input_blocks.0.0", network.conv_in)
    n = 1
    for level in network.down:
        assert isinstance(level, DownLevel)
        for block in level.blocks:
            table.block(f"input_blocks.{n}", block)
            n += 1
        if level.resample is not None:
            table.resample(f"input_blocks.{n}.0", "op", level.resample)
            n += 1
    table.residual("middle_block.0", network.middle.before)
    table.attention("middle_block.1", network.middle.attention)
    table.residual("middle_block.2", network.middle.after)
    if isinstance(network, NoisyClassifier):
        table.pool(network.pool)
        return table.slots
    n = 0
    for level in network.up:
        assert isinstance(level, UpLevel)
        for block in level.blocks:
            table.block(f"output_blocks.{n}", block)
            n += 1
        if level.resample is not None:  # belongs to the level's last block there
            position = 1 if block.attention is None else 2
            table.resample(f"output_blocks.{n - 1}.{position}", "conv", level.resample)
    table.slots.module("out.0", network.norm_out)
    table.slots.module("out.2", network.conv_out)
    return table.slots


class _Table:
    """Collects slots. Residual blocks come in the order in which they run: they share the time projection's rows."""

    def __init__(self, network: ADMUNet | NoisyClassifier, new_order: bool) -> None:
        self.slots = Slots()
        self.new_order = new_order
        time = network.time
        self.rows: Iterator[tuple[Tensor, Tensor]] = zip(
            time.projection.weight.detach().split(time.widths),
            time.projection.bias.detach().split(time.widths),
            strict=True,
        )

    def block(self, key: str, block: nn.Module) -> None:
        assert isinstance(block.residual, ResidualBlock)
        self.residual(f"{key}.0", block.residual)
        if isinstance(block.attention, Attention):
            self.attention(f"{key}.1", block.attention)

    def residual(self, key: str, block: ResidualBlock) -> None:
        self.slots.module(f"{key}.in_layers.0", block.norm_1)
        self.slots.module(f"{key}.in_layers.2", block.conv_1)
        weight, bias = next(self.rows)
        self.slots.add(f"{key}.emb_layers.1.weight", weight)
        self.slots.add(f"{key}.emb_layers.1.bias", bias)
        self.slots.module(f"{key}.out_layers.0", block.norm_2)
        self.slots.module(f"{key}.out_layers.3", block.conv_2)
        self.slots.module(f"{key}.skip_connection", block.shortcut)

    def resample(self, key: str, name: str, layer: nn.Module) -> None:
        if isinstance(layer, ResidualBlock):
            self.residual(key, layer)
        elif isinstance(layer.conv, nn.Module):
            self.slots.module(f"{key}.{name}", layer.conv)

    def attention(self, key: str, block: Attention) -> None:
        self.slots.module(f"{key}.norm", block.norm)
        self.qkv(f"{key}.qkv", block.qkv, block.num_heads)
        self.slots.module(f"{key}.proj_out", block.proj, ones=1)

    def qkv(self, key: str, layer: nn.Linear, num_heads: int) -> None:
        """Rows go (q k v, head, channel) here and in the new order, (head, q k v, channel) in the old one."""
        if self.new_order:
            self.slots.module(key, layer, ones=1)
            return
        for name, parameter in layer.named_parameters():
            rows = parameter.detach().unflatten(0, (3, num_heads, -1)).transpose(0, 1)
            self.slots.add(f"{key}.{name}", rows, parameter.shape + (1,) * (name == "weight"))

    def pool(self, pool: nn.Module) -> None:
        if isinstance(pool, AdaptivePool):
            self.slots.module("out.0", pool.norm)
            self.slots.module("out.3", pool.linear, ones=2)
        elif isinstance(pool, AttentionPool):
            self.slots.module("out.0", pool.norm)
            self.slots.add("out.2.positional_embedding", pool.positions.T)
            self.slots.module("out.2.qkv_proj", pool.qkv, ones=1)  # the new order whatever the flag says
            self.slots.module("out.2.c_proj", pool.proj, ones=1)
        elif isinstance(pool, NormedSpatialPool):
            self.slots.module("out.0", pool.hidden)
            self.slots.module("out.1", pool.norm)
            self.slots.module("out.3", pool.linear)
        elif isinstance(pool, SpatialPool):
            self.slots.module("out.0", pool.hidden)
            self.slots.module("out.2", pool.linear)
