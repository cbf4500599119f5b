"""Where each tensor of a foreign state dict lies in a network of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddpm_lab.errors import UserError


@dataclass(frozen=True)
class Slot:
    """One tensor of a foreign state dict: a view into our parameters, and the shape it has there."""

    view: Tensor
    shape: torch.Size

    def fits(self, tensor: Tensor) -> bool:
        """Whether `fill` keeps all that the tensor, of the foreign shape, holds."""
        return True

    def fill(self, tensor: Tensor) -> None:
        """Copy a tensor of the foreign shape in."""
        self.view.copy_(tensor.reshape(self.view.shape))

    def read(self) -> Tensor:
        """A copy, in the foreign shape."""
        return self.view.reshape(self.shape).clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class ColumnsSlot(Slot):
    """A foreign matrix that has more columns than ours; ours lie at `columns`, and the others are zero."""

    columns: Sequence[int]

    def fits(self, tensor: Tensor) -> bool:
        """Whether the other columns are zero."""
        return bool(tensor.count_nonzero() == tensor[:, self.columns].count_nonzero())

    def fill(self, tensor: Tensor) -> None:
        """Copy our columns in."""
        self.view.copy_(tensor[:, self.columns])

    def read(self) -> Tensor:
        """A copy, in the foreign shape."""
        wide = self.view.new_zeros(self.shape)
        wide[:, self.columns] = self.view
        return wide


class Slots(dict[str, Slot]):
    """Foreign key -> slot, for every parameter of a network."""

    def add(self, key: str, view: Tensor, shape: Sequence[int] | None = None) -> None:
        """view: of a parameter, and its shape there, its own if None."""
        view = view.detach()
        self[key] = Slot(view, view.shape if shape is None else torch.Size(shape))

    def module(self, key: str, module: nn.Module, *, ones: int = 0) -> None:
        """Parameters under their own names; a linear layer may stand for a convolution of `ones` 1-wide axes."""
        for name, parameter in module.named_parameters(recurse=False):
            self.add(f"{key}.{name}", parameter, parameter.shape + (1,) * (ones if name == "weight" else 0))

    def fill(self, state: Mapping[str, Tensor], advice: str) -> None:
        """Copy a state dict in. Raises ValueError, ending in the advice, for keys or shapes that do not fit."""
        complaints = self.complaints(state)
        if not complaints:
            complaints = [
                f"{key} has numbers where the network has none" for key in self if not self[key].fits(state[key])
            ]
        if complaints:
            raise UserError(f"The checkpoint does not fit: {'; '.join(complaints)}. {advice}")
        for key, slot in self.items():
            slot.fill(state[key])

    def complaints(self, state: Mapping[str, Tensor]) -> list[str]:
        """What does not fit: the first missing, unexpected and misshapen key, and how many there are of each."""
        missing = [key for key in self if key not in state]
        unexpected = [key for key in state if key not in self]
        misshapen = [key for key in self if key in state and state[key].shape != self[key].shape]
        found = []
        if missing:
            found.append(f"{len(missing)} keys are missing, first {missing[0]}")
        if unexpected:
            found.append(f"{len(unexpected)} are unexpected, first {unexpected[0]}")
        if misshapen:
            key = misshapen[0]
            found.append(
                f"{len(misshapen)} have another shape, first {key} with {list(state[key].shape)} "
                f"where the network has {list(self[key].shape)}"
            )
        return found

    def read(self) -> dict[str, Tensor]:
        """The foreign state dict."""
        return {key: slot.read() for key, slot in self.items()}
