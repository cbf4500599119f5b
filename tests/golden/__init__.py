"""Loads reference numbers, keeps account of those read, and compares with the tolerance that each one's conditioning allows.

DDPM_LAB_GOLDEN names a folder used instead of this one (DDPM_LAB_GOLDEN_SCORE and DDPM_LAB_GOLDEN_LATENT those of its kin). The
tests take from a folder what it holds: names, sizes, timesteps; and a run of all of them fails where one number is neither
read nor left out below.
"""

import fnmatch
import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent
VARIABLES = {"": "DDPM_LAB_GOLDEN", "score": "DDPM_LAB_GOLDEN_SCORE", "latent": "DDPM_LAB_GOLDEN_LATENT"}
# file/array -> why no test compares it
LEFT_OUT = {
    "sampling.npz/loop/*/pred_xstart": "of each step; the x that it leads to is compared",
    "sampling.npz/loop/*/ddim_reverse_clip?/pred_xstart": "as above",
    "sampling.npz/pmv/*/PREVIOUS_X/clip1/mean": "not that of the clipped x_0 beside it, which ours follows",
    "resampler.npz/snapshot_history": "newest last there, a ring here; the weights that follow from it are compared",
    "vlb.npz/dgll/log_prob": "float32, whose tail is quantised there; the float64 beside it is compared",
    "embedding.npz/*_freqs": "of the embeddings, which are compared",
}
read: set[str] = set()


@cache
def folder(kind: str = "") -> Path:
    """Where the numbers of a kind lie. Raises FileNotFoundError for a variable that names no folder of numbers."""
    named = os.environ.get(VARIABLES[kind])
    path = HERE / kind if named is None else Path(named)
    if not list(path.glob("*.npz")):
        raise FileNotFoundError(
            f"{VARIABLES[kind]}={named}: there is no .npz file of reference numbers in {path.absolute()}"
        )
    return path


@cache
def _file(kind: str, name: str) -> dict[str, np.ndarray]:
    with np.load(folder(kind) / name) as arrays:
        return dict(arrays)


@cache
def _index(kind: str) -> dict:
    return json.loads((folder(kind) / "INDEX.json").read_text())


class Golden:
    """One file of reference numbers."""

    def __init__(self, name: str, kind: str = "") -> None:
        self.name, self.kind = name, kind

    def __getitem__(self, key: str) -> Tensor:
        read.add(f"{self.name}/{key}")
        return torch.from_numpy(_file(self.kind, self.name)[key].copy())

    def __contains__(self, key: str) -> bool:
        return key in _file(self.kind, self.name)

    def text(self, key: str) -> dict:
        read.add(f"{self.name}/{key}")
        return json.loads(str(_file(self.kind, self.name)[key]))

    def names(self, pattern: str = "*") -> list[str]:
        """The arrays whose names match."""
        return fnmatch.filter(_file(self.kind, self.name), pattern)

    def groups(self, pattern: str) -> list[str]:
        """What stands before the last part of the names that match, in their order."""
        return list(dict.fromkeys(name.rpartition("/")[0] for name in self.names(pattern)))

    def spread(self, key: str) -> float:
        entry = _index(self.kind)[self.name][key]
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


def all_arrays() -> set[str]:
    """file/array of all that the folder holds."""
    return {f"{path.name}/{name}" for path in folder().glob("*.npz") for name in _file("", path.name)}


def left_out(array: str) -> bool:
    """Whether an array is among those that no test compares."""
    return any(fnmatch.fnmatch(array, pattern) for pattern in LEFT_OUT)
