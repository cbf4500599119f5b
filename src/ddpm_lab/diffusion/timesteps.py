"""Which timesteps to train on: draw(batch) -> (t, weight), with E[weight] = 1 so that any choice stays unbiased."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ddpm_lab.diffusion.coefficients import Float64Buffers


class TimestepSampler(Protocol):
    """An nn.Module, so that what it learns is saved with the model."""

    def draw(self, batch: int) -> tuple[Tensor, Tensor]: ...  # noqa: D102

    def update(self, t: Tensor, loss: Tensor) -> None: ...  # noqa: D102

    def probabilities(self) -> Tensor: ...  # noqa: D102


class Uniform(Float64Buffers):
    """t uniform on 1..T, weight 1."""

    p: Tensor

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = T
        self.register_buffer("p", torch.full((T,), 1 / T, dtype=torch.float64), persistent=False)

    def draw(self, batch: int) -> tuple[Tensor, Tensor]:
        """t: [batch] int64; weight: [batch] float32, of torch's global random numbers."""
        device = self.p.device
        return torch.randint(1, self.T + 1, (batch,), device=device), torch.ones(batch, device=device)

    def update(self, t: Tensor, loss: Tensor) -> None:
        """Learn nothing."""

    def probabilities(self) -> Tensor:
        """p(t) for t = 1..T, [T] float64."""
        return self.p


class LossSecondMoment(Float64Buffers):
    """p(t) ~ sqrt(E[loss_t^2]) over the last `history` losses of each t (Nichol & Dhariwal 2021, equation 18).

    Uniform until every t has its history; then mixed with `uniform_probability` of uniform. The history is gathered over
    all ranks, identical on each, and saved with the module. Give `update` the unweighted training losses.
    """

    losses: Tensor
    counts: Tensor

    def __init__(self, T: int, history: int = 10, uniform_probability: float = 0.001) -> None:
        super().__init__()
        self.T = T
        self.history = history
        self.uniform_probability = uniform_probability
        self.register_buffer("losses", torch.zeros(T, history, dtype=torch.float64))  # a ring: slot = count % history
        self.register_buffer("counts", torch.zeros(T, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        """p(t) for t = 1..T, [T] float64."""
        p = (self.losses**2).mean(1).sqrt()
        p = (1 - self.uniform_probability) * p / p.sum() + self.uniform_probability / self.T
        warm = (self.counts >= self.history).all()
        return torch.where(warm & torch.isfinite(p).all(), p, 1 / self.T)

    def draw(self, batch: int) -> tuple[Tensor, Tensor]:
        """t: [batch] int64; weight = 1 / (T p(t)): [batch] float32, of torch's global random numbers."""
        p = self.probabilities()
        index = torch.multinomial(p, batch, replacement=True)
        return index + 1, (1 / (self.T * p[index])).float()

    @torch.no_grad()
    def update(self, t: Tensor, loss: Tensor) -> None:
        """Remember the losses [B] of timesteps t [B], those of all ranks. A collective: call it on every rank."""
        index, loss = _gather(t - 1, loss)
        index, loss = index.to(self.losses.device), loss.to(self.losses.device, torch.float64)
        # Equal timesteps in one batch take consecutive slots, in their order; of more than `history` the last stay.
        index, order = torch.sort(index, stable=True)
        loss = loss[order]
        occurrences = torch.bincount(index, minlength=self.T)
        first = torch.cumsum(occurrences, 0) - occurrences
        occurrence = torch.arange(len(index), device=index.device) - first[index]
        kept = occurrences[index] - occurrence <= self.history
        slot = (self.counts[index] + occurrence) % self.history
        self.losses[index[kept], slot[kept]] = loss[kept]
        self.counts += occurrences


def _gather(t: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    """Concatenate the ranks' [B] tensors, which may differ in length, in the order of the ranks."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return t, loss
    world = dist.get_world_size()
    size = torch.tensor([len(t)], device=t.device)
    sizes = [torch.empty_like(size) for _ in range(world)]
    dist.all_gather(sizes, size)
    longest = max(int(n) for n in sizes)
    padded = torch.zeros(2, longest, dtype=torch.float64, device=t.device)
    padded[0, : len(t)], padded[1, : len(t)] = t, loss
    gathered = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(gathered, padded)
    both = torch.cat([g[:, : int(n)] for g, n in zip(gathered, sizes, strict=True)], dim=1)
    return both[0].long(), both[1]
