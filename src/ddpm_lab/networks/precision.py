"""Networks held in fewer bits than their inputs and outputs, and whether a device computes in them."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

CPU_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # of x86, and of Arm


def has_bf16(device: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether a "cpu" or "cuda" device has instructions for bfloat16; without them it is emulated. None: not known."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu" or not cpuinfo.is_file():
        return None
    lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
    flags = {flag for name, _, values in lines if name.strip() in ("flags", "Features") for flag in values.split()}
    return not flags.isdisjoint(CPU_FLAGS) if flags else None


class InBfloat16(nn.Module):
    """A copy of a network whose weights and activations are bfloat16; images come and go in their own type.

    For sampling: no weight is cast at any call, as autocast would.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(torch.bfloat16)
        if next(self.network.parameters()).is_cuda:
            self.network.to(memory_format=torch.channels_last)  # that of its convolutions in 16 bits

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """As the network; x [B, C, H, W], t [B] in float32: bfloat16 cannot tell neighbouring timesteps apart."""
        return self.network(x.to(torch.bfloat16), t, y).to(x.dtype)
