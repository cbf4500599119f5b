"""A part that stands for a whole set: chosen by a seed from all of it, whatever the order of its files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ddpm_lab.errors import UserError


def part(of: int, n: int | None, seed: int) -> list[int]:
    """n of the indices 0..of-1, ascending: a simple random sample without replacement; all where n is None or `of` and more.

    A function of these three numbers alone, so the same on every machine and rank. Of one seed, a smaller part lies within a
    larger one. Raises ValueError for a negative seed.
    """
    if n is None or n >= of:
        return list(range(of))
    return np.sort(_order(of, seed)[:n]).tolist()


def named(of: int, n: int | None, seed: int, what: str = "") -> str:
    """What `part` chooses, for protocols and people: "256 of 600, seed 0[, test images]", or "all 600[ test images]"."""
    if n is None or n >= of:
        return f"all {of} {what}".rstrip()
    return f"{n} of {of}, seed {seed}" + (f", {what}" if what else "")


def shuffled(of: int, seed: int) -> list[int]:
    """The indices 0..of-1 in an order whose first n are `part(of, n, seed)`. Raises ValueError for a negative seed."""
    return _order(of, seed).tolist()


def _order(of: int, seed: int) -> NDArray[np.int64]:
    """A permutation; of ten million it takes a second.

    The spawn key keeps it apart from the seed's other uses: a part of the training set is not what is trained on first.
    """
    if seed < 0:
        raise UserError(f"a seed must not be negative, got {seed}; set seed to 0 or more")
    # RandomState over MT19937: the one generator whose stream numpy promises never to change (NEP 19).
    generator = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed, spawn_key=(1,))))
    return generator.permutation(of).astype(np.int64)
