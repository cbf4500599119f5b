"""Which times a walk visits: by number, (T, steps) -> ascending timesteps in 1..T, or by noise, where they are reals.

The public codes count timesteps from 0; every rule here adds 1 to theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddpm_lab.diffusion.process import GaussianPath
from ddpm_lab.errors import UserError, brief

Spacing = str | Sequence[int] | Callable[[int, int], list[int]]


def uniform(T: int, steps: int) -> list[int]:
    """Evenly spaced from the first to the last timestep (Nichol & Dhariwal 2021, section 4; the public code's "N")."""
    return sections(T, [steps])


def ddim(T: int, steps: int) -> list[int]:
    """The smallest integer stride that gives `steps` timesteps, from the first on (the public code's "ddimN").

    Usually misses the last timestep. Raises ValueError where no stride does.
    """
    for stride in range(1, T + 1):
        timesteps = list(range(1, T + 1, stride))
        if len(timesteps) == steps:
            return timesteps
    raise UserError(f"spacing ddim: no integer stride takes {steps} of T={T} timesteps; take another number of steps")


def quadratic(T: int, steps: int) -> list[int]:
    """floor(c i^2) up to 0.8 T, denser near the image (Song et al. 2021, appendix D.2, and public code: CIFAR-10).

    Where two fall on one timestep the later moves up by one, so that `steps` are as many different timesteps.
    """
    timesteps: list[int] = []
    for root in torch.linspace(0, (0.8 * T) ** 0.5, steps, dtype=torch.float64).tolist():
        timesteps.append(max(int(root**2) + 1, timesteps[-1] + 1 if timesteps else 1))
    return timesteps


def sections(T: int, counts: Sequence[int]) -> list[int]:
    """Cut 1..T into len(counts) sections, as equal as can be, and space counts[i] timesteps evenly in the i-th.

    The stride is a float, accumulated, each position rounded half to even (public code). A count of 1 takes the first.
    """
    if not 1 <= len(counts) <= T:
        raise UserError(f"spacing: T={T} timesteps cannot be cut into {len(counts)} sections; take 1..{T}")
    size, extra = divmod(T, len(counts))
    timesteps: list[int] = []
    start = 1
    for i, count in enumerate(counts):
        length = size + (1 if i < extra else 0)
        if not 1 <= count <= length:
            raise UserError(
                f"spacing: cannot take {count} timesteps from a section of {length} (T={T} cut into {len(counts)}); take "
                f"between 1 and {length}"
            )
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        position = 0.0
        for _ in range(count):
            timesteps.append(start + round(position))
            position += stride
        start += length
    return timesteps


NAMED: dict[str, Callable[[int, int], list[int]]] = {"uniform": uniform, "ddim": ddim, "quadratic": quadratic}


def timesteps(T: int, steps: int | None, spacing: Spacing) -> list[int]:
    """The ascending timesteps of a walk of `steps` steps (all T if None).

    spacing: a rule's name, a function (T, steps) -> timesteps, or the counts of sections as "10,15,20" or [10, 15, 20],
    whose sum is the number of steps. Raises ValueError for anything that does not give `steps` timesteps of 1..T.
    """
    if isinstance(spacing, str) and spacing not in NAMED:
        try:
            spacing = [int(count) for count in spacing.split(",")]
        except ValueError:
            raise UserError(
                f"spacing={spacing!r} is none of {', '.join([*NAMED, *BY_NOISE])}, nor counts of sections such as '10,15,20'"
            ) from None
    if isinstance(spacing, Sequence) and not isinstance(spacing, str):
        chosen = sections(T, spacing)
        if steps not in (None, len(chosen)):
            raise UserError(
                f"spacing={brief(spacing)} makes {len(chosen)} steps, but steps={steps}; set steps={len(chosen)} or null"
            )
        return chosen
    given, steps = steps, T if steps is None else steps
    if not 1 <= steps <= T:
        raise UserError(f"steps={steps} does not fit a process of T={T} timesteps; take between 1 and {T}")
    if isinstance(spacing, str):
        return NAMED[spacing](T, steps)
    chosen = spacing(T, steps)
    if (
        not chosen
        or chosen != sorted(set(chosen))
        or not 1 <= chosen[0] <= chosen[-1] <= T
        or given not in (None, len(chosen))
    ):
        raise UserError(
            f"spacing: the function must return steps={given} ascending, different timesteps of 1..T = 1..{T}, got "
            f"{brief(chosen)}"
        )
    return chosen


def spaced(process: GaussianPath, steps: int | None, spacing: Spacing) -> list[float]:
    """The ascending times of a walk that begins in noise, by step number as `timesteps`, or by how noisy they are.

    A single step, by any rule with a name, is from T: the public code takes t = 1 there, as it does the first of any section
    of one, and returns the noise that it was given.
    """
    if isinstance(spacing, str) and steps == 1 and spacing in {**NAMED, **BY_NOISE}:
        return [process.T]
    if isinstance(spacing, str) and spacing in BY_NOISE:
        return _by_noise(process, steps, spacing)
    return list(timesteps(process.T, steps, spacing))  # type: ignore[arg-type]


def explicit(process: GaussianPath, times: Sequence[float]) -> list[float]:
    """The times themselves. Raises ValueError unless they ascend within the process."""
    found = list(times)
    numbers = all(isinstance(t, (int, float)) and not isinstance(t, bool) for t in found)
    if not found or not numbers or found != sorted(set(found)) or not 1 <= found[0] <= found[-1] <= process.T:
        raise UserError(
            f"sampler.times={brief(found)} must be ascending, different numbers from 1 to T={process.T}, the last where the "
            "walk starts"
        )
    return found


def karras(lowest: Tensor, highest: Tensor, fraction: Tensor, rho: float = 7.0) -> Tensor:
    """log SNRs whose sigma = exp(-log SNR / 2) to the power 1 / rho is even (Karras et al. 2022, arXiv 2206.00364, eq. 5)."""
    ends = [torch.exp(-end / 2) ** (1 / rho) for end in (highest, lowest)]
    return -2 * torch.log((ends[0] + fraction * (ends[1] - ends[0])) ** rho)


def log_snr(lowest: Tensor, highest: Tensor, fraction: Tensor) -> Tensor:
    """Evenly spaced log SNRs (Lu et al. 2022, arXiv 2206.00927)."""
    return highest + fraction * (lowest - highest)


BY_NOISE: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"karras": karras, "log_snr": log_snr}


def _by_noise(process: GaussianPath, steps: int | None, spacing: str) -> list[float]:
    """Reals between the first timestep and T, both of them included, whose noise is spaced by a rule of BY_NOISE."""
    if steps is None or steps < 2:
        raise UserError(f"sampler.spacing={spacing} needs sampler.steps=…, how many times there are; got steps={steps}")
    highest, lowest = (2 * process.at(torch.tensor(t)).half_log_snr.cpu() for t in (1, process.T))
    if torch.isinf(lowest):
        raise UserError(
            f"sampler.spacing={spacing} starts at the noise of T={process.T}, which is infinite in this schedule: take "
            "sampler.spacing=uniform"
        )
    fraction = torch.linspace(0, 1, steps, dtype=torch.float64)
    between = process.time_at(BY_NOISE[spacing](lowest, highest, fraction[1:-1])).tolist()
    found: list[float] = [1.0, *between, float(process.T)]
    if found != sorted(set(found)):
        raise UserError(
            f"sampler.spacing={spacing} has no {steps} different times between 1 and T={process.T}: take fewer steps"
        )
    return found


def pairs(chosen: Sequence[int]) -> list[tuple[int, int]]:
    """The steps (t, s) of a walk down the ascending timesteps `chosen`, from the last to the image at s = 0."""
    return list(zip(reversed(chosen), [*reversed(chosen[:-1]), 0], strict=True))
