"""Bits per dimension of a split, exact or estimated: one number for a checkpoint, at any batch size and number of ranks."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ddpm_lab import ranks
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.likelihood import bits_per_dim, estimate_bits_per_dim, importance
from ddpm_lab.errors import UserError
from ddpm_lab.metrics.features import over_background
from ddpm_lab.parts import named, part
from ddpm_lab.pixels import to_float
from ddpm_lab.samplers.spacings import spaced
from ddpm_lab.seeds import ImageNoise, mix

PILOT = 32  # images that decide at which timesteps the fast estimate looks
ROWS = 16  # images at once in the exact bound: enough to fill a batch with timesteps, few enough for the bar to move


class Images(Protocol):
    """A split: its length, and uint8 [B, C, H, W] with labels int64 [B] for a list of B indices."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]: ...


class Terms(NamedTuple):
    """The bound term by term, each the mean over the images: column k belongs to timestep t[k], ascending.

    vlb: bits per dimension; t[0]'s is the decoder's. x_0_mse, noise_mse: errors of the estimates, images in [-1, 1].
    """

    t: list[int]
    vlb: list[float]
    x_0_mse: list[float]
    noise_mse: list[float]


class Bound(NamedTuple):
    """The bound of a split, in bits per dimension, and how it was found. The same on every rank.

    key: its name in metrics.json. standard_error: of `value` as an estimate for all images of the kind, sd / sqrt(n); all
    noise is in it; nan for one image. estimator_error: of `value` as an estimate of these images' bound, which is a mean
    over all noise; None for the exact one, whose single draw per term cannot tell. prior, decoder: two of its terms.
    terms: all, None for a fast estimate.
    """

    key: str
    value: float
    standard_error: float
    estimator_error: float | None
    prior: float
    decoder: float
    terms: Terms | None
    protocol: dict[str, Any]
    seconds: float


class Exact:
    """Every term of the bound, one draw of noise each (Ho et al. 2020, equation 5): as many network calls as timesteps.

    images: so many of the split, chosen by the seed, all if None. timesteps: length of an evenly spaced chain, all T if None; a
    strided chain has a bound, and a key, of its own. clip: clamp the estimates of x_0 to [-1, 1]. pairs: (image, timestep)
    pairs at once.
    """

    def __init__(self, images: int | None, timesteps: int | None, clip: bool, pairs: int) -> None:
        _check_positive(images=images, timesteps=timesteps, pairs=pairs)
        self.images = images
        self.timesteps = timesteps
        self.clip = clip
        self.pairs = pairs

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoiser,
        images: Images,
        *,
        split: str,
        name: str,
        conditional: bool,
        seed: int,
        device: torch.device,
        progress: bool = True,
    ) -> Bound:
        """The bound of `images`, the `split` of the data set `name`, for a denoiser on `device`. A collective.

        conditional: whether the network is given the labels. progress: show a bar on rank zero.
        """
        start = time.perf_counter()
        T = int(denoiser.process.T)
        chain = [int(t) for t in spaced(denoiser.process, self.timesteps, "uniform")]
        chosen = part(len(images), self.images, seed)
        n = len(chosen)
        found = torch.zeros(n, 3, dtype=torch.float64)  # total, prior, decoder
        sums = torch.zeros(3, len(chain), dtype=torch.float64)  # of the terms and the two errors
        with _in_eval_mode(denoiser.network):
            for block in _blocks(n, min(ROWS, self.pairs), f"bits/dim ({split}), {len(chain)} terms", progress):
                indices = [chosen[i] for i in block]
                x_0, y = _read(images, indices, conditional, device)
                noise = ImageNoise(seed, indices, device)
                bound = bits_per_dim(
                    denoiser, x_0, y, clip=self.clip, timesteps=chain, randn_like=noise, pairs=self.pairs
                )
                found[block] = _on_cpu(bound.total, bound.prior, bound.vlb[:, 0]).T
                sums += _on_cpu(bound.vlb, bound.x_0_mse, bound.noise_mse).sum(1)
        total, prior, decoder = _summed(found, device).unbind(1)
        vlb, x_0_mse, noise_mse = (_summed(sums, device) / n).tolist()
        every = len(chain) == T
        bound_is = "exact, every term" if every else f"of the strided chain of {len(chain)} steps"
        return ranks.agreed(
            Bound(
                f"{split}/bits_per_dim" + ("" if every else f"_{len(chain)}_steps"),
                total.mean().item(),
                _standard_error(total),
                None,
                prior.mean().item(),
                decoder.mean().item(),
                Terms(chain, vlb, x_0_mse, noise_mse),
                _protocol(n, images, split, name, conditional, bound_is, self.clip, seed),
                time.perf_counter() - start,
            )
        )


class Fast:
    """An unbiased estimate of the exact bound from `draws` network calls per image.

    Each image is estimated twice with half of the draws, independently: the mean is the estimate, the difference tells the
    estimator's error. images: so many of the split, chosen by the seed, all if None. draws: timesteps per image, even. clip:
    clamp the estimates of x_0 to [-1, 1]. batch_size: images at once.
    """

    def __init__(self, images: int | None, draws: int, clip: bool, batch_size: int) -> None:
        _check_positive(images=images, draws=draws, batch_size=batch_size)
        if draws % 2:
            raise UserError(
                f"draws={draws} is odd: two halves of the draws tell the estimator's error; take {draws + 1}"
            )
        self.images = images
        self.draws = draws
        self.clip = clip
        self.batch_size = batch_size

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoiser,
        images: Images,
        *,
        split: str,
        name: str,
        conditional: bool,
        seed: int,
        device: torch.device,
        progress: bool = True,
    ) -> Bound:
        """Estimate the bound of `images`; the arguments are those of `Exact`. A collective."""
        start = time.perf_counter()
        chosen = part(len(images), self.images, seed)
        n = len(chosen)
        found = torch.zeros(n, 4, dtype=torch.float64)  # the two estimates, prior, decoder
        with _in_eval_mode(denoiser.network):
            few = part(len(images), PILOT, seed)
            x_0, y = _read(images, few, conditional, device)
            # A seed of its own: probabilities made from the estimate's noise would bias it.
            pilot = ImageNoise(mix(seed, 1), few, device)
            p = ranks.agreed(importance(denoiser, x_0, y, randn_like=pilot, clip=self.clip))
            for block in _blocks(n, self.batch_size, f"bits/dim ({split}), estimate", progress):
                indices = [chosen[i] for i in block]
                x_0, y = _read(images, indices, conditional, device)
                noise = ImageNoise(seed, indices, device)
                first, second = (
                    estimate_bits_per_dim(
                        denoiser,
                        x_0,
                        y,
                        probabilities=p,
                        draws=self.draws // 2,
                        randn_like=noise,
                        uniform=noise.uniform,
                        clip=self.clip,
                    )
                    for _ in range(2)
                )
                decoder = (first.decoder + second.decoder) / 2
                found[block] = _on_cpu(first.total, second.total, first.prior, decoder).T
        one, two, prior, decoder = _summed(found, device).unbind(1)
        total = (one + two) / 2
        bound_is = f"fast, {self.draws} network calls per image"
        return ranks.agreed(
            Bound(
                f"{split}/bits_per_dim",
                total.mean().item(),
                _standard_error(total),
                # Var((a + b) / 2) = E[((a - b) / 2)^2] for independent a and b of one mean.
                ((((one - two) / 2) ** 2).mean() / n).sqrt().item(),
                prior.mean().item(),
                decoder.mean().item(),
                None,
                _protocol(n, images, split, name, conditional, bound_is, self.clip, seed),
                time.perf_counter() - start,
            )
        )


def metrics(bound: Bound, *, step: int, weights: str, **origin: Any) -> dict[str, Any]:
    """For metrics.json: the number, and beside it always all of the same keys, null where the bound has none.

    So that what an earlier evaluation wrote under the same key is replaced as a whole.
    """
    key = bound.key
    return {
        key: bound.value,
        f"{key}_standard_error": None if math.isnan(bound.standard_error) else bound.standard_error,
        f"{key}_estimator_error": bound.estimator_error,
        f"{key}_prior": bound.prior,
        f"{key}_decoder": bound.decoder,
        f"{key}_images": bound.protocol["n"],
        f"{key}_protocol": {**bound.protocol, "step": step, "weights": weights, **origin},
        f"{key}_terms": None if bound.terms is None else bound.terms._asdict(),
    }


def sentence(bound: Bound) -> str:
    """The number and its errors, for people: "4.391 ± 0.030 (of it ± 0.010 the estimator)"."""
    said = f"{bound.value:.3f} ± {bound.standard_error:.3f}"
    return said if bound.estimator_error is None else f"{said} (of it ± {bound.estimator_error:.3f} the estimator)"


@contextmanager
def _in_eval_mode(network: nn.Module) -> Iterator[None]:
    """No dropout; afterwards the network is as it was."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _blocks(n: int, width: int, title: str, progress: bool) -> Iterator[list[int]]:
    """This rank's blocks of the numbers 0..n-1. Blocks do not depend on the number of ranks, which take them in turn."""
    blocks = [list(range(start, min(start + width, n))) for start in range(0, n, width)]
    rank, world = ranks.rank(), ranks.world_size()
    hidden = None if progress and rank == 0 else True  # None: hidden where there is no terminal
    with tqdm(total=n, desc=title, unit="image", disable=hidden, leave=False) as bar:
        for start in range(0, len(blocks), world):
            together = blocks[start : start + world]
            yield from together[rank : rank + 1]
            bar.update(sum(map(len, together)))


def _read(images: Images, indices: list[int], conditional: bool, device: torch.device) -> tuple[Tensor, Tensor | None]:
    pixels, labels = images.__getitems__(indices)
    return to_float(pixels.to(device)), labels.to(device) if conditional else None


def _on_cpu(*columns: Tensor) -> Tensor:
    """Stack tensors of one shape in float64, which not every device has."""
    return torch.stack(columns).cpu().double()


def _summed(x: Tensor, device: torch.device) -> Tensor:
    """The sum over the ranks, in their order and so the same on each. A collective."""
    return x if ranks.world_size() == 1 else ranks.gather(x.to(device)).sum(0).cpu()


def _standard_error(values: Tensor) -> float:
    return (values.std() / len(values) ** 0.5).item() if len(values) > 1 else math.nan


def _protocol(
    n: int, images: Images, split: str, name: str, conditional: bool, bound: str, clip: bool, seed: int
) -> dict[str, Any]:
    return {
        "images": named(len(images), n, seed, f"{split} images of {name}"),
        "n": n,
        "labels": "given to the network" if conditional else None,
        "bound": bound,
        "clip": clip,
        "seed": seed,
        **over_background(images),
    }


def _check_positive(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise UserError(f"{name}={number} must be positive; set {name} to at least 1")
