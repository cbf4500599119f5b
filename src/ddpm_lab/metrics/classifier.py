"""A small classifier of the data set at hand as extractor: for images on which Inception says nothing, and with no download."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ddpm_lab import ranks
from ddpm_lab.errors import UserError
from ddpm_lab.metrics.features import Extractor, Features, Images, as_rgb, fingerprint
from ddpm_lab.parts import part
from ddpm_lab.pixels import to_float

VERSION = 2  # of the network and its training; files kept by another are not read
FEATURES = 128
LARGEST = 64  # the network's input has no longer side
HELD_OUT = (10, 10_000)  # a tenth of the images measures the accuracy and trains nothing, but no more than so many


class Recipe(NamedTuple):
    """steps of batch_size images under one cycle of learning rates. width: channels of the first stage."""

    steps: int
    batch_size: int
    width: int
    learning_rate: float  # its peak
    seed: int


class Trained(NamedTuple):
    """state: what the network holds, on the CPU. accuracy: of images held out. sha256: of the state."""

    state: dict[str, Tensor]
    accuracy: float
    sha256: str


class Network(nn.Module):
    """Stages of two 3x3 convolutions, the first of which halves the image, until a map of at most 7x7 is left.

    x [B, 3, H, W] -> pool [B, 128], logits [B, num_classes], spatial [B, 8 * h * w].
    """

    def __init__(self, size: tuple[int, int], num_classes: int, width: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels, out, side = 3, width, max(size)
        while not stages or side > 7:
            side = (side + 1) // 2
            stages.append(nn.Sequential(_layer(channels, out, stride=2), _layer(out, out)))
            channels, out = out, min(2 * out, FEATURES)
        self.stages = nn.Sequential(*stages)
        self.last = _layer(channels, FEATURES)
        self.classes = nn.Linear(FEATURES, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pool, logits, spatial."""
        h = self.stages(x)
        pool = self.last(h).mean((2, 3))
        return pool, self.classes(pool), h[:, :8].flatten(1)


def _layer(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class Classifier(Extractor):
    """pool [B, 128], logits [B, num_classes], spatial: 8 channels of the map before, flattened.

    accuracy: of images of the training split that were held out. It sees what `as_rgb` makes of images.
    """

    name = "classifier"

    def __init__(self, network: Network, size: tuple[int, int], trained: Trained) -> None:
        super().__init__()
        network.load_state_dict(trained.state)
        self.network = network.requires_grad_(False)
        self.size = size
        self.resize = f"area average to {size[0]}x{size[1]}, inside the network"
        self.accuracy = trained.accuracy
        self.sha256 = trained.sha256
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        """All three from one pass."""
        return Features(*self.network(_input(images, self.size)))


def classifier(
    train: Images,
    *,
    name: str,
    num_classes: int | None,
    cache: Path,
    device: torch.device,
    steps: int,
    batch_size: int,
    width: int,
    learning_rate: float,
    seed: int,
) -> Extractor:
    """Train a classifier of the training split, or take the one kept in `cache`. A FeatureSource and a collective.

    The result is a function of the images, these options and the kind of machine; the caller's random numbers are not touched.
    Raises ValueError without classes to tell apart, with fewer than 20 images, or for options that cannot train.
    """
    if num_classes is None or num_classes < 2:
        raise UserError(
            f"features=classifier learns to tell classes apart and {name} has {num_classes or 'no'} labelled classes: set "
            "features=inception, or give the data set its classes (data.classes=folders for a folder of images)"
        )
    recipe = Recipe(steps, batch_size, width, learning_rate, seed)
    if steps < 10 or batch_size < 2 or width < 8:
        raise UserError(f"features=classifier needs steps >= 10, batch_size >= 2 and width >= 8, got {recipe}")
    if len(train) < 20:
        raise UserError(f"features=classifier needs at least 20 images to learn from, and {name} has {len(train)}")

    key = hashlib.sha256(repr((VERSION, fingerprint(train), num_classes, recipe)).encode()).hexdigest()[:16]
    path = cache / "classifiers" / f"{name}-{key}.pt"
    H, W = train.__getitems__([0])[0].shape[2:]
    size = min(H, LARGEST), min(W, LARGEST)
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = Network(size, num_classes, width).to(device)
        if device.type == "cpu":  # faster there
            network = network.to(memory_format=torch.channels_last)

    trained = ranks.agreed(_read(path) if ranks.rank() == 0 else None)
    if trained is None:
        # Every rank trains the same, so that none waits idly until a collective gives up; rank zero's counts.
        start = time.perf_counter()
        trained = ranks.agreed(_train(network, train, size, recipe, device, f"training a classifier of {name}"))
        if ranks.rank() == 0:
            _write(path, trained)
            print(
                f"trained a classifier of {name} in {time.perf_counter() - start:.0f} s: it knows "
                f"{100 * trained.accuracy:.1f} % of the images held out; kept as {path}",
                flush=True,
            )
    return Classifier(network, size, trained)


def _input(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [B, 1 to 4, H, W] -> [B, 3, *size] in [-1, 1]."""
    x = to_float(as_rgb(images))
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="area")


def _train(
    network: Network, train: Images, size: tuple[int, int], recipe: Recipe, device: torch.device, title: str
) -> Trained:
    share, most = HELD_OUT
    # Not every tenth: where classes come in turn, that would be one of them alone.
    held_out = part(len(train), min(len(train) // share, most), recipe.seed)
    learnt = torch.tensor(sorted(set(range(len(train))) - set(held_out)))
    generator = torch.Generator().manual_seed(recipe.seed)
    batches = _batches(learnt, recipe.batch_size, generator)
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.steps)
    network.train()
    with (
        torch.inference_mode(False),  # who asks for features may not be learning
        torch.enable_grad(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        tqdm(
            total=recipe.steps, desc=title, unit="step", disable=None if ranks.rank() == 0 else True, leave=False
        ) as bar,
    ):
        for _ in range(recipe.steps):
            images, labels = train.__getitems__(next(batches))
            x = _shifted(_input(images.to(device), size), generator)
            _, logits, _ = network(x)
            loss = F.cross_entropy(logits, labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
            bar.update()
    network.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(held_out), 500):
            images, labels = train.__getitems__(held_out[start : start + 500])
            _, logits, _ = network(_input(images.to(device), size))
            right += int((logits.argmax(1).cpu() == labels).sum())
    # Contiguous, so that what is kept and hashed does not tell on which device it was learnt.
    state = {name: x.detach().cpu().contiguous().clone() for name, x in network.state_dict().items()}
    return Trained(state, right / len(held_out), _sha256(state))


def _batches(indices: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless batches: one shuffled pass after the other."""
    rest = indices.new_empty(0)
    while True:
        while len(rest) < batch_size:
            rest = torch.cat([rest, indices[torch.randperm(len(indices), generator=generator)]])
        yield rest[:batch_size].tolist()
        rest = rest[batch_size:]


def _shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to a fourteenth of its side, its border repeated. x [B, C, H, W]."""
    B, _, H, W = x.shape

    def places(side: int) -> Tensor:
        most = round(side / 14)
        by = torch.randint(-most, most + 1, (B, 1), generator=generator)
        return (torch.arange(side) + by).clamp(0, side - 1).to(x.device)  # [B, side]

    image = torch.arange(B, device=x.device)[:, None, None]
    moved = x[image, :, places(H)[:, :, None], places(W)[:, None, :]]  # [B, H, W, C]
    return moved.permute(0, 3, 1, 2)


def _sha256(state: dict[str, Tensor]) -> str:
    """Of names, shapes and numbers, in the order of the names; no file's layout enters."""
    found = hashlib.sha256()
    for name, x in sorted(state.items()):
        found.update(f"{name} {x.dtype} {list(x.shape)}\n".encode())
        found.update(x.contiguous().numpy().tobytes())
    return found.hexdigest()


def _read(path: Path) -> Trained | None:
    """The kept classifier; None if there is none, or a damaged one, which is said."""
    if not path.is_file():
        return None
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        trained = Trained(kept["state"], kept["accuracy"], kept["sha256"])
        if _sha256(trained.state) != trained.sha256:
            raise UserError("its numbers have changed")
        return trained
    except Exception as error:  # torch raises whatever the damage
        print(f"{path} is damaged ({type(error).__name__}); it is trained anew", flush=True)
        return None


def _write(path: Path, trained: Trained) -> None:
    """All or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    torch.save(trained._asdict(), partial)
    partial.replace(path)
