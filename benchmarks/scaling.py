"""The arithmetic of docs/scaling.md: `python -m benchmarks.scaling`. Operations and bytes are counted, nothing is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

CONF = Path(__file__).parent.parent / "conf" / "network"
# preset: image size, channels of the output, labels, what the paper trained: images, and in whose words
MODELS: dict[str, tuple[int, int, int | None, float, str]] = {
    "ho_cifar10": (32, 3, None, 800e3 * 128, "Ho et al.: 800k steps of 128"),
    "ho_256": (256, 3, None, 500e3 * 64, "Ho et al., CelebA-HQ: 500k steps of 64"),
    "improved_cifar10": (32, 6, None, 500e3 * 128, "Nichol & Dhariwal: 500k steps of 128"),
    "improved_imagenet64": (64, 6, None, 1500e3 * 128, "Nichol & Dhariwal: 1.5M steps of 128"),
    "improved_imagenet64_270m": (64, 6, 1000, 250e3 * 2048, "Nichol & Dhariwal: 250k steps of 2048"),
    "adm_64": (64, 6, 1000, 540e3 * 2048, "Dhariwal & Nichol: 540k steps of 2048"),
    "adm_128": (128, 6, 1000, 4360e3 * 256, "Dhariwal & Nichol: 4.36M steps of 256"),
    "adm_256": (256, 6, 1000, 1980e3 * 256, "Dhariwal & Nichol: 1.98M steps of 256"),
    "adm_512": (512, 6, 1000, 1940e3 * 256, "Dhariwal & Nichol: 1.94M steps of 256"),
}
PEAK, SHARES = 790e12, (0.35, 0.5)  # an H100's dense bf16 in practice; the share that convolutional U-Nets reach
STATE = 4 + 4 + 8 + 4  # bytes a parameter: weight, gradient, Adam's two moments, one average


def counted(preset: str) -> tuple[int, float, float]:
    """Parameters, operations of a forward pass of one image, bytes that one image leaves for the backward pass in fp32."""
    size, outputs, classes, *_ = MODELS[preset]
    config = OmegaConf.load(CONF / f"{preset}.yaml")
    with torch.device("meta"):
        network = instantiate(
            config, image_size=size, in_channels=3, out_channels=outputs, num_classes=classes, _convert_="all"
        )
        x, t = torch.empty(1, 3, size, size), torch.empty(1)
        arguments: tuple[Any, ...] = (x, t) if classes is None else (x, t, torch.empty(1, dtype=torch.int64))
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = tensor
        return tensor

    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        output = network.train()(*arguments)
    saved = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del output
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops(), saved


def main() -> None:
    """Print the tables."""
    found = {preset: counted(preset) for preset in MODELS}
    print(
        "| network | parameters | forward, GFLOP/image | training, images/s at 35 to 50 % | sampling, network calls/s | "
        "the paper's run | on 8 H100 |"
    )
    print("|" + "---|" * 7)
    for preset, (parameters, flops, _) in found.items():
        *_, images, words = MODELS[preset]
        low, high = (share * PEAK / (3 * flops) for share in SHARES)
        calls = [share * PEAK / flops for share in SHARES]
        days = [images / (8 * rate) / 86400 for rate in (high, low)]
        unit, scale = ("days", 1) if days[1] >= 2 else ("hours", 24)
        print(
            f"| `{preset}` | {parameters / 1e6:.1f}M | {flops / 1e9:,.1f} | {low:,.0f} to {high:,.0f} | "
            f"{calls[0]:,.0f} to {calls[1]:,.0f} | {words} | {scale * days[0]:.1f} to {scale * days[1]:.1f} {unit} |"
        )
    print(
        "\n| network | state, GiB: one GPU / DDP / DDP with `adam_sharded` over 8 / over 64 | FSDP over 8 / over 64 | "
        "activations of an image, GiB in fp32 | images in 78 GiB of one GPU, fp32 |"
    )
    print("|" + "---|" * 5)
    for preset, (parameters, _, saved) in found.items():
        # DDP keeps a second copy of the gradients, in the buckets that it sends.
        states = [
            parameters * size / 2**30 for size in (STATE, STATE + 4, STATE + 4 - 8 + 8 / 8, STATE + 4 - 8 + 8 / 64)
        ]
        sharded = [states[0] / 8, states[0] / 64]
        image = saved / 2**30
        told, in_shards = (" / ".join(f"{size:.2f}" for size in sizes) for sizes in (states, sharded))
        print(f"| `{preset}` | {told} | {in_shards} | {image:.3f} | {(78 - states[0]) / image:,.0f} |")


if __name__ == "__main__":
    main()
