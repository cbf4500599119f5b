"""Two processes find the bound that one finds, whatever is left over for the last of them."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ddpm_lab.data.memory import MemorySet
from ddpm_lab.evaluation.likelihood import Bound, Exact, Fast
from tests.doors import in_two_processes
from tests.evaluation.toy import toy_denoiser

IMAGES = torch.randint(0, 256, (19, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
BOUNDS = {
    "exact": Exact(None, None, True, 64),  # blocks of 16 and 3
    "strided": Exact(17, 7, True, 64),
    "fast": Fast(None, 4, True, 8),  # blocks of 8, 8 and 3
    "few": Fast(3, 4, True, 8),  # one block: the second process has none
}


def measure() -> dict[str, Bound]:
    model = toy_denoiser()
    return {
        name: bound(
            model,
            MemorySet(IMAGES),
            split="test",
            name="toys",
            conditional=False,
            seed=0,
            device=torch.device("cpu"),
            progress=True,
        )
        for name, bound in BOUNDS.items()
    }


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save([tuple(bound) for bound in measure().values()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_find_the_number_of_one(tmp_path: Path) -> None:
    in_two_processes(work, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    assert first == second
    for (name, alone), found in zip(measure().items(), (Bound(*values) for values in first), strict=True):
        for field in ("value", "standard_error", "estimator_error", "prior", "decoder"):
            assert getattr(found, field) == pytest.approx(getattr(alone, field), abs=1e-9), (name, field)
        assert found.protocol == alone.protocol
        if alone.terms is not None:
            for ours, theirs in zip(found.terms, alone.terms, strict=True):
                assert ours == pytest.approx(theirs, abs=1e-9), name
