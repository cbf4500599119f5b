"""Timestep subsets against the public code, which counts from 0."""

import json

import pytest

from ddpm_lab.samplers.spacings import timesteps
from tests.golden import folder

CASES = json.loads((folder() / "respacing.json").read_text())


def chosen(case: dict) -> list[int]:
    T, counts = case["num_timesteps"], case["section_counts"]
    if isinstance(counts, str) and counts.startswith("ddim"):
        return timesteps(T, int(counts[4:]), "ddim")
    return timesteps(T, None, counts)


@pytest.mark.parametrize("case", CASES["results"], ids=lambda case: f"{case['num_timesteps']}-{case['section_counts']}")
def test_timesteps(case: dict) -> None:
    assert [t - 1 for t in chosen(case)] == case["timesteps"]


@pytest.mark.parametrize("case", CASES["results"], ids=lambda case: f"{case['num_timesteps']}-{case['section_counts']}")
def test_a_single_count_is_the_uniform_spacing(case: dict) -> None:
    if str(case["section_counts"]).isdigit():
        assert timesteps(case["num_timesteps"], int(case["section_counts"]), "uniform") == chosen(case)


@pytest.mark.parametrize("case", CASES["errors"])
def test_refused(case: dict) -> None:
    with pytest.raises(ValueError, match="take"):
        chosen(case)
