"""How often a classifier of noisy images is right, from the least noise to the most."""

from __future__ import annotations

from pathlib import Path

import lightning
import torch
from torch import Tensor

from ddpm_lab import runs
from ddpm_lab.callbacks.pictures import log_picture
from ddpm_lab.errors import UserError
from ddpm_lab.parts import named, part
from ddpm_lab.pixels import to_float
from ddpm_lab.provenance import origin
from ddpm_lab.seeds import ImageNoise
from ddpm_lab.training.diffusion import Diffusion, evaluating
from ddpm_lab.training.say import say


class NoisyAccuracy(lightning.Callback):
    """At the end, accuracy and cross entropy of the averaged weights on test images at evenly spaced t: accuracy.png.

    images: so many of the test split, chosen by the seed, shared by all ranks. levels: of noise, a multiple of four, so that
    each quartile of t has as many. Raises ValueError for numbers that make no sense.
    """

    def __init__(self, folder: str, images: int, levels: int, seed: int = 0) -> None:
        if images < 1 or levels < 4 or levels % 4:
            raise UserError(
                f"callbacks.noisy_accuracy needs images of at least 1 and levels a multiple of 4, got images={images} and "
                f"levels={levels}"
            )
        self.folder = Path(folder)
        self.images = images
        self.levels = levels
        self.seed = seed

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Measure, print, draw, log, and write to metrics.json."""
        assert isinstance(pl_module, Diffusion)
        T = pl_module.denoiser.process.T
        timesteps = [max(1, round((level + 0.5) * T / self.levels)) for level in range(self.levels)]
        say(f"classifying test images at {self.levels} levels of noise …")
        data = trainer.datamodule  # type: ignore[attr-defined]
        total = len(data.images("test"))
        chosen, chosen_are = part(total, self.images, self.seed), named(total, self.images, self.seed, "test images")
        sums = self._measure(trainer, pl_module, timesteps, chosen)
        loss, accuracy = (sums / len(chosen)).tolist()
        found = {"test/loss": sum(loss) / self.levels, "test/accuracy": sum(accuracy) / self.levels}
        quarter = self.levels // 4
        for q in range(4):
            found[f"test/accuracy_q{q}"] = sum(accuracy[q * quarter : (q + 1) * quarter]) / quarter
        if trainer.is_global_zero:
            protocol = {
                "images": f"{chosen_are} of {data.name}",
                "n": len(chosen),
                "levels": self.levels,
                "seed": self.seed,
                "weights": "ema" if len(pl_module.emas) else "raw",
                "step": trainer.global_step,
                **origin(pl_module.kept.get("config", {})),
            }
            runs.add_metrics(self.folder, {**found, "test/loss_protocol": protocol, "test/accuracy_protocol": protocol})
            for logger in trainer.loggers:
                logger.log_metrics(found, step=trainer.global_step)
            path = self.folder / "accuracy.png"
            _draw(timesteps, accuracy, 1 / data.num_classes, f"{chosen_are}, step {trainer.global_step}", path)
            log_picture(trainer, "accuracy", path)
        quartiles = ", ".join(f"{100 * found[f'test/accuracy_q{q}']:.1f}" for q in range(4))
        say(f"accuracy on {chosen_are} by quartile of t, least noise first: {quartiles} %")

    @torch.no_grad()
    def _measure(
        self, trainer: lightning.Trainer, module: Diffusion, timesteps: list[int], chosen: list[int]
    ) -> Tensor:
        """The sums over these images of loss and accuracy, [2, levels]. A collective."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        images, classifier = data.images("test"), module.averaged()
        mine = chosen[trainer.global_rank :: trainer.world_size]
        sums = torch.zeros(2, len(timesteps), device=module.device)
        with evaluating(classifier):
            for start in range(0, len(mine), data.test_batch_size):
                indices = mine[start : start + data.test_batch_size]
                pixels, y = (x.to(module.device) for x in images.__getitems__(indices))
                x, noise = to_float(pixels), ImageNoise(self.seed, indices, module.device)
                for level, t in enumerate(timesteps):
                    losses = module.objective(classifier, x, torch.full((len(x),), t, device=x.device), y, noise(x))
                    sums[:, level] += torch.stack([losses["loss"].sum(), losses["accuracy"].sum()])
        return trainer.strategy.reduce(sums, reduce_op="sum").cpu()


def _draw(timesteps: list[int], accuracy: list[float], chance: float, caption: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(timesteps, [100 * value for value in accuracy], marker="o", label="classifier")
    axes.axhline(100 * chance, color="grey", linestyle=":", label="chance")
    axes.set(title=caption, xlabel="timestep t (noise)", ylabel="right class (%)", ylim=(0, 103))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)
