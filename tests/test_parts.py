"""A part of a set: a fair choice, the same for ever."""

from itertools import combinations, islice

import pytest
import torch

from ddpm_lab.data.stream import EndlessBatches
from ddpm_lab.parts import named, part, shuffled


def test_the_choice_is_the_same_for_ever() -> None:
    """Numbers that are written in protocols by their seed alone."""
    assert part(600, 6, 0) == [46, 226, 307, 339, 417, 536]
    assert part(600, 6, 1) == [1, 163, 392, 433, 454, 465]
    assert shuffled(8, 2) == [0, 5, 2, 3, 4, 6, 7, 1]


def test_every_choice_is_as_likely() -> None:
    found = [tuple(part(5, 2, seed)) for seed in range(4000)]
    count = torch.tensor([found.count(pair) for pair in combinations(range(5), 2)]).double()
    assert count.sum() == 4000
    assert ((count - 400) ** 2 / 400).sum() < 21.7  # chi-squared of 9 degrees of freedom, 99 of 100


def test_parts_of_one_seed_lie_within_each_other_and_begin_its_order() -> None:
    for n in range(1, 31):
        assert set(part(30, n - 1, 4)) < set(part(30, n, 4))
        assert part(30, n, 4) == sorted(shuffled(30, 4)[:n])


def test_all_where_no_part_is_asked_for() -> None:
    for n in (None, 7, 8):
        assert part(7, n, 3) == list(range(7))
        assert named(7, n, 3) == "all 7"
    assert named(7, None, 3, "test images") == "all 7 test images"


def test_a_part_is_named_by_its_seed() -> None:
    assert named(600, 256, 0) == "256 of 600, seed 0"
    assert named(600, 256, 1, "test images of digits") == "256 of 600, seed 1, test images of digits"


def test_it_is_not_what_training_shows_first() -> None:
    (shown,) = islice(EndlessBatches(1000, 50, 3, lambda: 0), 1)
    assert len(set(shown) & set(part(1000, 50, 3))) < 15  # 2.5 of 50 by chance


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="a seed must not be negative, got -1"):
        part(10, 3, -1)
