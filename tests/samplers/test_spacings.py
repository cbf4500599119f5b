"""Which timesteps a walk visits: as many as asked for, ascending, within 1..T, or a sentence that says why not."""

from itertools import pairwise

import pytest

from ddpm_lab.samplers.spacings import NAMED, Spacing, pairs, timesteps
from tests.worlds import name


@pytest.mark.parametrize(
    ("T", "steps", "spacing", "expected"),
    [
        (4, None, "uniform", [1, 2, 3, 4]),
        (10, 2, "uniform", [1, 10]),
        (10, 4, "uniform", [1, 4, 7, 10]),
        (10, 5, "uniform", [1, 3, 5, 8, 10]),  # strides of 2.25: 0, 2.25, 4.5, 6.75, 9, and 4.5 rounds to even
        (10, 5, "ddim", [1, 3, 5, 7, 9]),
        (10, 4, "ddim", [1, 4, 7, 10]),
        (10, 3, "ddim", [1, 5, 9]),
        (100, 4, "quadratic", [1, 9, 36, 81]),  # floor(80 (i/3)^2) + 1
        (10, None, [2, 3], [1, 5, 6, 8, 10]),
        (11, 5, "2,3", [1, 6, 7, 9, 11]),  # sections of 6 and 5
        (6, None, "1,1,1", [1, 3, 5]),
        (9, 2, lambda T, steps: [steps, T], [2, 9]),
    ],
)
def test_literals(T: int, steps: int | None, spacing: Spacing, expected: list[int]) -> None:
    assert timesteps(T, steps, spacing) == expected


@pytest.mark.parametrize("T", [1, 2, 3, 5, 10, 37, 100])
@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
def test_any_number_of_steps_gives_as_many_ascending_timesteps(spacing: str, T: int) -> None:
    for steps in range(1, T + 1):
        chosen = timesteps(T, steps, spacing)
        assert len(chosen) == steps
        assert chosen == sorted(set(chosen))
        assert chosen[0] == 1
        assert chosen[-1] <= T
    assert timesteps(T, T, spacing) == list(range(1, T + 1))


@pytest.mark.parametrize("T", [100, 1000, 4000])
@pytest.mark.parametrize("steps", [2, 10, 27, 50, 100])
def test_uniform_keeps_both_ends_and_its_strides_differ_by_one_at_most(T: int, steps: int) -> None:
    chosen = timesteps(T, steps, "uniform")
    strides = {after - before for before, after in pairwise(chosen)}
    assert (chosen[0], chosen[-1]) == (1, T)
    assert max(strides) - min(strides) <= 1


@pytest.mark.parametrize("T", [10, 100, 1000])
def test_ddim_has_one_stride_the_smallest_that_fits(T: int) -> None:
    taken = 0
    for steps in range(2, T + 1):
        if not any(len(range(0, T, stride)) == steps for stride in range(1, T)):
            with pytest.raises(ValueError, match=f"no integer stride takes {steps} of T={T} timesteps; take another"):
                timesteps(T, steps, "ddim")
            continue
        chosen = timesteps(T, steps, "ddim")
        strides = {after - before for before, after in pairwise(chosen)}
        assert len(chosen) == steps
        assert len(strides) == 1
        stride = strides.pop()
        assert stride == 1 or len(range(0, T, stride - 1)) > steps
        taken += 1
    assert 0 < taken < T - 1


@pytest.mark.parametrize(("T", "steps"), [(1000, 10), (1000, 20), (1000, 50), (1000, 100), (4000, 50)])
def test_quadratic_is_denser_near_the_image_and_ends_at_four_fifths(T: int, steps: int) -> None:
    chosen = timesteps(T, steps, "quadratic")
    strides = [after - before for before, after in pairwise(chosen)]
    # floor moves every stride by less than one
    assert all(later >= earlier - 1 for earlier, later in pairwise(strides))
    assert strides[-1] > 4 * strides[0]
    assert abs(chosen[-1] - 0.8 * T) <= 1


@pytest.mark.parametrize("counts", [[10, 15, 20], [1, 2, 3, 4], [30], [3, 3, 3, 3, 3, 3, 3]])
@pytest.mark.parametrize("T", [100, 1000, 1003])
def test_sections_have_their_counts_and_both_of_their_ends(T: int, counts: list[int]) -> None:
    chosen = timesteps(T, None, counts)
    assert len(chosen) == sum(counts)
    assert chosen == sorted(set(chosen))
    assert timesteps(T, sum(counts), ",".join(map(str, counts))) == chosen
    sizes = [T // len(counts) + (i < T % len(counts)) for i in range(len(counts))]
    start = 1
    for size, count in zip(sizes, counts, strict=True):
        inside = [t for t in chosen if start <= t < start + size]
        assert len(inside) == count
        assert inside[0] == start
        assert count == 1 or inside[-1] == start + size - 1
        start += size
    assert start == T + 1


def test_pairs_lead_from_the_last_timestep_to_the_image() -> None:
    assert pairs([1, 4, 9]) == [(9, 4), (4, 1), (1, 0)]
    assert pairs([7]) == [(7, 0)]


@pytest.mark.parametrize("spacing", [*NAMED, lambda T, steps: [1]], ids=name)
@pytest.mark.parametrize("steps", [0, -1, 11])
def test_more_steps_than_timesteps_or_none_are_refused(spacing: Spacing, steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps={steps} does not fit a process of T=10 .* take between 1 and 10"):
        timesteps(10, steps, spacing)


@pytest.mark.parametrize(
    ("steps", "spacing", "message"),
    [
        (5, "unifrom", "spacing='unifrom' is none of uniform, ddim, quadratic, karras, log_snr, nor counts of sections"),
        (None, "10,x", "spacing='10,x' is none of"),
        (None, "", "spacing='' is none of"),
        (None, "2,9", "cannot take 9 timesteps from a section of 5"),
        (None, [0, 2], "cannot take 0 timesteps from a section of 5"),
        (None, [11], "cannot take 11 timesteps from a section of 10"),
        (4, [2, 3], r"spacing=\[2, 3\] makes 5 steps, but steps=4; set steps=5 or null"),
        (4, "2,3", "makes 5 steps, but steps=4"),
        (None, [], "spacing"),
        (None, [1] * 11, "spacing"),
        (3, lambda T, steps: [1, 2], "steps=3"),
        (2, lambda T, steps: [0, 5], "1 and 10|1..10|1..T"),
        (2, lambda T, steps: [5, 11], "1 and 10|1..10|1..T"),
        (2, lambda T, steps: [5, 2], "ascending"),
        (2, lambda T, steps: [5, 5], "ascending"),
    ],
    ids=[
        "misspelt", "not a number", "empty name", "too many in a section", "none in a section", "more than T",
        "not the sum", "not the sum, named", "no sections", "more sections than timesteps", "too few from a function",
        "zero from a function", "beyond T from a function", "descending from a function", "twice from a function",
    ],
)  # fmt: skip
def test_a_spacing_that_cannot_be_is_refused(steps: int | None, spacing: Spacing, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timesteps(10, steps, spacing)
