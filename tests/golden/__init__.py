"""Loads the reference numbers, and compares with the tolerance that each one's conditioning allows."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent


@cache
def _file(name: str) -> dict[str, np.ndarray]:
    with np.load(HERE / name) as arrays:
        return dict(arrays)


@cache
def _index() -> dict:
    return json.loads((HERE / "INDEX.json").read_text())


class Golden:
    """One file of reference numbers."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(_file(self.name)[key].copy())

    def text(self, key: str) -> dict:
        return json.loads(str(_file(self.name)[key]))

    def names(self) -> list[str]:
        return list(_file(self.name))

    def spread(self, key: str) -> float:
        entry = _index()[self.name][key]
        return entry[3] if len(entry) > 3 else 0.0

    def close(self, value: Tensor, key: str, where: Tensor | None = None, floor: float = 1e-7) -> None:
        """|value - reference| <= 10 spread + 1e-5 |reference| + floor, for float32 numbers.

        floor: what may be lost where terms cancel, in the units of the terms.
        """
        reference = self[key].double()
        value = value.double()
        assert value.shape == reference.shape, (key, value.shape, reference.shape)
        excess = (value - reference).abs() - (10 * self.spread(key) + 1e-5 * reference.abs() + floor)
        if where is not None:
            excess = excess[where]
        assert excess.max() <= 0, f"{key}: exceeds its tolerance by {excess.max():.3g}"
