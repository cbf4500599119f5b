"""What surrounds the network: data, bits/dim, FID, start-up, memory, and Lightning's share of a step."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.models import NETWORKS, SHAPES
from benchmarks.paired import Row, compared, take_turns
from benchmarks.training import STEPS, our_step, update
from torch import Tensor, nn

from ddpm_lab.data.datamodule import DataModule
from ddpm_lab.data.digits import digits
from ddpm_lab.data.memory import MemorySet
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.objectives import Simple
from ddpm_lab.diffusion.predictions import Epsilon
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import linear
from ddpm_lab.diffusion.timesteps import Uniform
from ddpm_lab.diffusion.variances import FixedLarge
from ddpm_lab.evaluation.likelihood import Exact, Fast
from ddpm_lab.seeds import mix, reseed

ROOT = Path(__file__).parent.parent


def data_module(images: MemorySet, batch: int, mirror: bool) -> DataModule:
    """A DataModule of images in memory."""
    size = images.images.shape[-1]
    return DataModule(
        name="images", dataset=lambda split: images, image_size=size, channels=images.images.shape[1], num_classes=None,
        batch_size=batch, test_batch_size=batch, mirror=mirror, seed=0,
    )  # fmt: skip


def exhaust(batches: Iterable[Any]) -> None:
    """Use each and let it go, as a training loop does."""
    deque(batches, maxlen=0)


def data_rows(rounds: int) -> Iterator[Row]:
    """Items a second of 32x32 images with flips, as floats in [-1, 1]; torchvision's pipeline as CIFAR10 has it."""
    from PIL import Image
    from torchvision import transforms

    images = np.random.default_rng(0).integers(0, 256, (10_000, 32, 32, 3), dtype=np.uint8)
    data = data_module(MemorySet(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()), 128, mirror=True)
    ours = iter(data.train_dataloader())
    transform = transforms.Compose(
        [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    )

    class Theirs(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return transform(Image.fromarray(images[i])), 0

    theirs = torch.utils.data.DataLoader(Theirs(), 128, shuffle=True, drop_last=True)
    batches = 20
    seconds = take_turns(
        {
            "ours": lambda: exhaust(data.on_after_batch_transfer(batch, 0) for batch in islice(ours, batches)),
            "torchvision": lambda: exhaust(islice(theirs, batches)),
        },
        rounds,
    )
    items = 128 * batches
    (row,) = compared(seconds, "ours", ["torchvision"], part="data", name="32x32 images in memory, flips", bar=12)
    yield row._replace(unit="items/s", ours=1e3 * items / row.ours, theirs=1e3 * items / row.theirs, least=False)
    yield Row("data", row.name, "", "items/s", 1e3 * items / row.ours, bar=100_000, aim=150_000, least=False)


def trained(steps: int = 400) -> Denoiser:
    """A small model of digits, trained for seconds."""
    from ddpm_lab.networks.adm_unet import ADMUNet

    torch.manual_seed(0)
    network = ADMUNet(8, 1, 1, model_channels=32, channel_mult=[1, 2], num_res_blocks=1, attention_resolutions=[])
    denoiser = Denoiser(network, Process(linear(1000)), Epsilon(), FixedLarge())
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, fused=True)
    data, objective, timesteps = digits("train"), Simple(), Uniform(1000)
    for batch in islice(iter(data_module(data, 64, mirror=False).train_dataloader()), steps):
        x = batch[0] / 127.5 - 1
        t, _ = timesteps.draw(len(x))
        optimizer.zero_grad()
        objective(denoiser, x, t)["loss"].mean().backward()
        optimizer.step()
    return denoiser.eval()


def bound_rows() -> Iterator[Row]:
    """The fast bound beside the exact one, on the same images of digits: network calls, and standard error."""
    denoiser, images = trained(), digits("test")
    options: dict[str, Any] = {
        "split": "test", "name": "digits", "conditional": False, "seed": 0, "device": torch.device("cpu"), "progress": False,
    }  # fmt: skip
    n, draws = 96, 24
    exact = Exact(n, None, True, 256)(denoiser, images, **options)
    fast = Fast(n, draws, True, 256)(denoiser, images, **options)
    wider = fast.standard_error / exact.standard_error
    name = f"total standard error of {draws} calls an image, over that of all 1000 ({1000 / draws:.0f} times as many)"
    yield Row("bits/dim", name, "", "x", wider, bar=1.15)
    yield Row("bits/dim", "fast less exact, of 4.2 or so", "", "bits", abs(fast.value - exact.value))
    yield Row("bits/dim", "the error that the fast estimate states", "", "bits", fast.estimator_error)


def fid_rows(rounds: int) -> Iterator[Row]:
    """Inception's forward pass as torch-fidelity and torchmetrics ship it (random weights), and the trace of FID."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from ddpm_lab.metrics.inception import inception
    from ddpm_lab.metrics.scores import frechet_distance
    from ddpm_lab.metrics.statistics import Moments

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save(_random_inception(), path)
        options = {"name": "", "num_classes": None, "cache": Path(folder), "device": torch.device("cpu")}
        ours = inception(None, weights=str(path), sha256=None, **options)
        theirs = FeatureExtractorInceptionV3(
            "i", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        ).eval()
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        pool, wanted = ours(images).pool, theirs(images)[0]
        seconds = take_turns({"ours": lambda: ours(images), "torch-fidelity": lambda: theirs(images)}, rounds)
    yield from compared(
        seconds, "ours", ["torch-fidelity"], part="FID", name="Inception's forward pass, an image", scale=1e3 / 16,
        bar=1.15, aim=1.35,
    )  # fmt: skip
    apart = ((pool - wanted).abs().max() / wanted.abs().max()).item()
    yield Row("FID", "largest difference of features, of the largest", "", "", apart, bar=1e-3)

    def moments(seed: int) -> Moments:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(4096, 2048, generator=generator, dtype=torch.float64) * torch.logspace(0, -3, 2048)
        return Moments(x.mean(0), torch.cov(x.T))

    a, b = moments(0), moments(1)
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    stats = [{"mu": m.mean.numpy(), "sigma": m[1].numpy()} for m in (a, b)]
    seconds = take_turns(
        {
            "ours": lambda: frechet_distance(a, b),
            "torch-fidelity": lambda: fid_statistics_to_metric(*stats, verbose=False),
        },
        min(rounds, 3),
    )
    (row,) = compared(
        seconds, "ours", ["torch-fidelity"], part="FID", name="Frechet distance, 2048 features", scale=1, unit="s"
    )
    yield row
    yield Row("FID", row.name, "", "s", row.ours, bar=2.0)


def _random_inception() -> dict[str, Tensor]:
    """Weights of the true shapes, none of them learnt: nothing is downloaded."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    load = FeatureExtractorInceptionV3.load_state_dict
    found: dict[str, Tensor] = {}

    def keep(self: nn.Module, state: Any, *arguments: Any, **options: Any) -> None:
        found.update({key: value.clone() for key, value in self.state_dict().items()})

    FeatureExtractorInceptionV3.load_state_dict = keep
    try:
        with tempfile.NamedTemporaryFile(suffix=".pth") as file:
            torch.save({}, file.name)
            FeatureExtractorInceptionV3("i", ["2048"], feature_extractor_weights_path=file.name)
    finally:
        FeatureExtractorInceptionV3.load_state_dict = load
    return found


def start_rows(rounds: int) -> Iterator[Row]:
    """Seconds until train.py has answered; no torch is imported."""
    for name, arguments in (
        ("--help", ["--help"]), ("--cfg job", ["--cfg", "job"]), ("a misspelt option", ["shedule=cosine"]),
    ):  # fmt: skip
        seconds = []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            done = subprocess.run([sys.executable, "train.py", *arguments], cwd=ROOT, capture_output=True, check=False)
            seconds.append(time.perf_counter() - start)
            assert done.returncode == ("misspelt" in name), done.stderr
        yield Row("start-up", f"train.py, {name}", "", "s", statistics.median(seconds[1:]), bar=0.6, aim=0.4)


def memory_rows() -> Iterator[Row]:
    """Peak memory of three training steps above what the imports take, each in a process of its own."""
    found = {
        side: float(
            subprocess.run(
                [sys.executable, "-m", "benchmarks.pipeline", side],
                cwd=ROOT, capture_output=True, check=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            ).stdout.split()[-1]
        )
        for side in ("ours", *NETWORKS)
        if side != "lucidrains"
    }  # fmt: skip
    mine = found.pop("ours")
    for peer, theirs in found.items():
        share = (theirs / mine,) * 3
        goals = (1 / 0.88, 1 / 0.8) if peer == "improved-diffusion" else (None, None)
        yield Row("memory", "cifar, batch 4, fp32", peer, "MiB", mine, theirs, share, *goals)


def _peak(side: str) -> None:
    """Print the peak of three steps, in MiB."""
    torch.set_num_threads(1)
    make = our_step if side == "ours" else STEPS[side]
    make(SHAPES["demo16"]._replace(batch=1, channels=32, mult=(1,)))()  # all imports
    before = _memory("VmRSS")
    step = make(SHAPES["cifar"]._replace(batch=4))
    for _ in range(3):
        step()
    print((_memory("VmHWM") - before) / 1024)


def _memory(field: str) -> int:
    """Of this process, in KiB; getrusage's peak would be the parent's where that had more."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


class Trivial(nn.Module):
    """A network that costs almost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.layer(x)


def lightning_rows(rounds: int) -> Iterator[Row]:
    """What the Trainer adds to a step: the same module's step in a plain loop and under it, by the slope over steps."""
    import logging
    import warnings

    import lightning

    from ddpm_lab.training.diffusion import Diffusion

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    images = MemorySet(torch.randint(0, 256, (512, 1, 8, 8), dtype=torch.uint8))

    def module() -> Diffusion:
        denoiser = Denoiser(Trivial(), Process(linear(1000)), Epsilon(), FixedLarge())
        adam = lambda parameters: torch.optim.Adam(parameters, lr=1e-3, fused=True)  # noqa: E731
        return Diffusion(denoiser, Simple(), Uniform(1000), adam, ema_rates=[0.999])

    def fit(steps: int) -> float:
        trainer = lightning.Trainer(
            max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0, limit_val_batches=0,
            use_distributed_sampler=False, num_sanity_val_steps=0, log_every_n_steps=50,
        )  # fmt: skip
        start = time.process_time()
        trainer.fit(module(), datamodule=data_module(images, 16, mirror=False))
        return time.process_time() - start

    def loop(steps: int) -> float:
        built, data = module(), data_module(images, 16, mirror=False)
        optimizer = built.make_optimizer(built.denoiser.parameters())
        start = time.process_time()
        for batch in islice(iter(data.train_dataloader()), steps):
            x, _ = data.on_after_batch_transfer(batch, 0)
            reseed(mix(0, 0, 1), torch.device("cpu"))
            t, weight = built.timesteps.draw(len(x))
            losses = built.objective(built.denoiser, x, t)
            built.train_means.add(losses, quartile=4 * (t - 1) // 1000)
            (weight * losses["loss"]).mean().backward()
            update(list(built.denoiser.parameters()), optimizer, built.emas[0], built.denoiser.network)
            optimizer.zero_grad()
        return time.process_time() - start

    few, many = 100, 1100
    fit(few)
    slopes = [[1e3 * (run(many) - run(few)) / (many - few) for run in (fit, loop)] for _ in range(min(rounds, 5))]
    added = statistics.median(a - b for a, b in slopes)
    plain = statistics.median(b for _, b in slopes)
    yield Row("Lightning", "what the Trainer adds to a step", "", "ms", added, bar=0.4, aim=0.3)
    yield Row("Lightning", "the same step in a plain loop", "", "ms", plain)


if __name__ == "__main__":
    _peak(sys.argv[1])
