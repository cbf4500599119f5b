"""Two processes learn one history: what each drew is gathered, whatever the lengths of their batches."""

from pathlib import Path

import torch
import torch.distributed as dist

from ddpm_lab.diffusion.timesteps import LossSecondMoment
from tests.doors import in_two_processes

T, HISTORY = 5, 3
# Rounds of (t, loss) by rank: unlike lengths, shared timesteps, more than HISTORY of one, and an empty batch.
ROUNDS = [
    ([[1, 2, 3, 4, 5, 1], [5, 4, 3]], [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1.5, 1.4, 1.3]]),
    ([[2, 2], [2, 1, 4, 5, 3, 4, 4, 4]], [[2.1, 2.2], [0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.7]]),
    ([[5, 3], []], [[0.05, 7.0], []]),
]


def learn(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    sampler = LossSecondMoment(T, HISTORY)
    for t, loss in ROUNDS:
        sampler.update(torch.tensor(t[rank], dtype=torch.int64), torch.tensor(loss[rank], dtype=torch.float64))
    torch.save((sampler.state_dict(), sampler.probabilities()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_learn_what_one_process_learns_of_all_their_losses(tmp_path: Path) -> None:
    in_two_processes(learn, tmp_path)
    alone = LossSecondMoment(T, HISTORY)
    for t, loss in ROUNDS:
        alone.update(torch.tensor(t[0] + t[1], dtype=torch.int64), torch.tensor(loss[0] + loss[1], dtype=torch.float64))
    assert alone.probabilities().unique().numel() == T  # warm, and no two alike
    for rank in range(2):
        state, probabilities = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(probabilities, alone.probabilities())
        assert all(torch.equal(state[key], value) for key, value in alone.state_dict().items())
