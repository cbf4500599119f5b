"""Timesteps as vectors: the two published sinusoids, and the one matrix product that serves every residual block."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_lab.errors import UserError


def _sinusoid(angles: Tensor, *, cosine_first: bool, dim: int) -> Tensor:
    """Angles [B, dim // 2] -> [B, dim], with one zero at the end where dim is odd."""
    halves = (angles.cos(), angles.sin()) if cosine_first else (angles.sin(), angles.cos())
    return F.pad(torch.cat(halves, dim=1), (0, dim % 2))


def cosine_first_embedding(t: Tensor, dim: int) -> Tensor:
    """[cos(t f_i), sin(t f_i)] with f_i = 10000^(-i / h), h = dim // 2: Nichol & Dhariwal 2021, in their code.

    Args:
        t: [B] timesteps counted from 0, integers or fractions.
        dim: length of the embedding; an odd one ends in a zero.

    Returns:
        [B, dim] float32.
    """
    half = dim // 2
    i = torch.arange(half, dtype=torch.float32, device=t.device)  # [h]
    frequencies = torch.exp(-math.log(10000) * i / half)
    return _sinusoid(t.float()[:, None] * frequencies, cosine_first=True, dim=dim)


def sine_first_embedding(t: Tensor, dim: int) -> Tensor:
    """[sin(t g_i), cos(t g_i)] with g_i = 10000^(-i / (h - 1)), h = dim // 2: Ho et al. 2020, in their code.

    Args:
        t: [B] timesteps counted from 0, integers or fractions.
        dim: length of the embedding, at least 4; an odd one ends in a zero.

    Returns:
        [B, dim] float32.
    """
    half = dim // 2
    i = torch.arange(half, dtype=torch.float32, device=t.device)  # [h]
    frequencies = torch.exp(i * -(math.log(10000) / (half - 1)))
    return _sinusoid(t.float()[:, None] * frequencies, cosine_first=False, dim=dim)


class TimeEmbedding(nn.Module):
    """Timestep and label -> what each residual block of a network adds to, or multiplies, its features.

    A sinusoid, two linear layers, the label's embedding added (Nichol & Dhariwal 2021, section 4), and the
    projections of all residual blocks, which read the same vector, as one matrix product.

    Args:
        sinusoid: (t [B], dim) -> [B, dim], one of the functions above.
        channels: dim of the sinusoid; the embedding is four times as wide.
        num_classes: number of labels, None for a network without them.
        widths: channels each residual block asks for, in the order in which they run.
    """

    def __init__(
        self,
        sinusoid: Callable[[Tensor, int], Tensor],
        channels: int,
        num_classes: int | None,
        widths: Sequence[int],
    ) -> None:
        super().__init__()
        self.sinusoid = sinusoid
        self.channels = channels
        self.widths = list(widths)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels),
            nn.SiLU(),
            nn.Linear(4 * channels, 4 * channels),
        )
        self.label = None if num_classes is None else nn.Embedding(num_classes, 4 * channels)
        self.projection = nn.Linear(4 * channels, sum(widths))

    def embed(self, t: Tensor, y: Tensor | None) -> Tensor:
        """t [B], y [B] or None -> [B, 4 * channels], before the projections.

        Raises:
            ValueError: labels are missing, or given to a network that has none.
        """
        # Angles need float32 (t reaches 1000); a network held in another type is met here.
        h: Tensor = self.mlp(self.sinusoid(t, self.channels).to(self.projection.weight.dtype))
        if self.label is None:
            if y is not None:
                raise UserError("Labels y were given to a network without classes: build it with num_classes.")
            return h
        if y is None:
            raise UserError(
                f"This network has {self.label.num_embeddings} classes and got no labels: pass y, [B] integers."
            )
        return h + self.label(y)

    def forward(self, t: Tensor, y: Tensor | None) -> Iterator[Tensor]:
        """t [B], y [B] or None -> one [B, width] for each residual block, in order."""
        return iter(self.projection(F.silu(self.embed(t, y))).split(self.widths, dim=1))
