"""What is done about a loss or gradient that is no finite number."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_lab.errors import NotFiniteError, UserError


class Seen(NamedTuple):
    """A batch that gradients were made of: images [B, C, H, W], labels [B], timesteps [B], losses by name [B]."""

    images: Tensor
    labels: Tensor
    t: Tensor
    losses: dict[str, Tensor]


class Guard:
    """Stops a run before the optimizer step that would spoil its weights, or leaves up to `skip` such steps in a row out.

    Either way the batches, timesteps and losses of the first such step of a row are kept in <folder>/nonfinite.
    Raises ValueError for a negative `skip`.
    """

    def __init__(self, folder: str | Path, skip: int = 0) -> None:
        if skip < 0:
            raise UserError(f"guard.skip counts steps and must not be negative, got {skip}")
        self.folder = Path(folder) / "nonfinite"
        self.skip = skip
        self.skipped = 0
        self._seen: list[Seen] = []

    def watch(self, images: Tensor, labels: Tensor, t: Tensor, losses: dict[str, Tensor]) -> None:
        """Keep a batch until its step is made."""
        self._seen.append(Seen(images, labels, t, {name: loss.detach() for name, loss in losses.items()}))

    def losses_are_bad(self) -> bool:
        """Whether this rank's losses since the last step are not all finite. Waits for the device."""
        return not all(bool(torch.isfinite(seen.losses["loss"]).all()) for seen in self._seen)

    def check(self, bad: bool, step: int, rank: int) -> bool:
        """Whether step number `step` is to be left out; `bad` is the same on every rank.

        Raises FloatingPointError if it is one too many.
        """
        seen, self._seen = self._seen, []
        if not bad:
            self.skipped = 0
            return False
        path = self.folder / f"step_{step:08d}_rank_{rank}.pt"
        if self.skipped == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save([{**batch._asdict(), "step": step} for batch in seen], path)
        self.skipped += 1
        if self.skipped <= self.skip:
            return True
        losses = torch.cat([batch.losses["loss"].float().cpu() for batch in seen])
        t = torch.cat([batch.t.cpu() for batch in seen])
        wrong = ~torch.isfinite(losses)
        what = (
            f"{int(wrong.sum())} of {len(losses)} losses are not finite, at t = {', '.join(map(str, t[wrong].tolist()[:8]))}"
            if wrong.any()
            else f"the gradient is not finite, and every loss of rank {rank} is (largest {losses.max():.4g})"
        )
        left_out = f" after {self.skip} steps left out" if self.skip else ""
        raise NotFiniteError(
            f"step {step}{left_out}: {what}; its batch, timesteps and losses are in {path.parent}. The checkpoints are from "
            "before: go on with resume=auto and a smaller optimizer.lr or trainer.precision=32-true, or leave up to k such "
            "steps in a row out with guard.skip=k"
        )
