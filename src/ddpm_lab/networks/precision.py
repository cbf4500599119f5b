"""Networks held in fewer bits than their inputs and outputs."""

import copy

import torch
from torch import Tensor, nn


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
