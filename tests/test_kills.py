"""The short version of `make kills`: the kinds of moment that tests/test_doors.py leaves out, and two ranks."""

from pathlib import Path

import pytest

from tests.kills import Case, survive


@pytest.mark.parametrize(
    ("case", "moments"),
    [
        (Case("hybrid", "loss_second_moment", processes=2, accumulate=4), ("checkpoint",)),
        (Case("simple", "uniform"), ("samples",)),
    ],
)
def test_a_killed_run_ends_as_one_never_killed(case: Case, moments: tuple[str, ...], tmp_path: Path) -> None:
    kills, found = survive(case, tmp_path, moments, seed=0)
    assert found == []
    assert kills == len(moments)
