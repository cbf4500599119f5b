"""Which images make up which batch. Pure functions of the seed and the position: there is nothing to store."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from ddpm_lab.errors import UserError


class EndlessBatches(Sampler[list[int]]):
    """The endless training stream, one rank's part of it.

    Sample k is item order_p[k % n] with p = k // n, where order_p is a permutation of the n items drawn from
    (seed, p) alone. The global batch at position k is the samples k .. k + G - 1, rank r of W takes the r-th of W equal
    slices. So the stream is the same for any number of ranks and workers, and can start anywhere.

    Args:
        n: number of items in the set.
        batch_size: global batch G over all ranks.
        seed: a non-negative integer.
        first: called whenever an iteration begins; returns k, the number of samples consumed so far by all ranks.
        rank: r.
        world_size: W.

    Raises:
        ValueError: if there is no item, the seed is negative, or G is not a positive multiple of W.

    """

    def __init__(
        self, n: int, batch_size: int, seed: int, first: Callable[[], int], rank: int = 0, world_size: int = 1
    ) -> None:
        if n < 1:
            raise UserError("The training set is empty: it needs at least one image.")
        if seed < 0:
            raise UserError(f"The seed of the data stream must be 0 or more and is {seed}.")
        if batch_size < 1 or batch_size % world_size:
            raise UserError(
                f"data.batch_size is the global batch over all ranks: it must be positive and divisible by their "
                f"number, {world_size}, and is {batch_size}. The next that "
                f"works: {max(1, batch_size // world_size) * world_size}."
            )
        self.n, self.batch_size, self.seed, self.first = n, batch_size, seed, first
        self.rank, self.local = rank, batch_size // world_size
        self._pass: tuple[int, NDArray[np.int64]] | None = None

    def __iter__(self) -> Iterator[list[int]]:
        k = self.first()
        while True:
            yield self._items(k + self.rank * self.local, self.local)
            k += self.batch_size

    def _items(self, k: int, count: int) -> list[int]:
        """Return items of the samples k .. k + count - 1."""
        items: list[int] = []
        while len(items) < count:
            number, offset = divmod(k + len(items), self.n)
            items += self._order(number)[offset : offset + count - len(items)].tolist()
        return items

    def _order(self, number: int) -> NDArray[np.int64]:
        """Return the permutation [n] of one pass; the latest is kept, for it costs milliseconds on a large set."""
        if self._pass is None or self._pass[0] != number:
            # RandomState over MT19937: the one generator whose stream numpy promises never to change (NEP 19).
            generator = np.random.RandomState(np.random.MT19937(np.random.SeedSequence((self.seed, number))))
            self._pass = number, generator.permutation(self.n).astype(np.int64)
        return self._pass[1]


class OrderedBatches(Sampler[list[int]]):
    """Every item once, in the order given: rank r of W takes the r-th, r + W-th, … and neither pads nor repeats.

    Ranks may differ by one item, so the caller reduces sums and counts, not means.

    Args:
        order: of the items.
        batch_size: items in one batch of one rank; the last may be smaller.
        rank: r.
        world_size: W.

    """

    def __init__(self, order: Sequence[int], batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.items, self.batch_size = order[rank::world_size], batch_size

    def __len__(self) -> int:
        return -(-len(self.items) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.items), self.batch_size):
            yield list(self.items[start : start + self.batch_size])
