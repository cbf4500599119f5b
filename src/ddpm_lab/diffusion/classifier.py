"""A classifier of noisy images, p(y | x_t): what guides sampling, and how it is trained (Dhariwal & Nichol 2021, section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_lab.diffusion.denoiser import CountedTime
from ddpm_lab.diffusion.process import GaussianPath, Time
from ddpm_lab.errors import UserError


class Classifier(nn.Module):
    """A network of noisy images, and the process that makes them noisy.

    network: (x [B, C, H, W], time [B]) -> logits [B, K]; its time is that of a Denoiser's network.
    """

    def __init__(self, network: nn.Module, process: GaussianPath, time_scale: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.process = process
        self.shown = CountedTime(time_scale)

    def with_network(self, network: nn.Module) -> Classifier:
        """The same classifier around another network."""
        return Classifier(network, self.process, self.shown.time_scale)

    def log_probs(self, x_t: Tensor, t: Time) -> Tensor:
        """log p(y | x_t) of every class, [B, K]; t: [B] in 0..T, 0 for images without noise."""
        logits = self.network(*self.shown(self.process, x_t, self.process.at(t)))
        return F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1)

    def log_prob(self, x_t: Tensor, t: Time, y: Tensor) -> Tensor:
        """log p(y | x_t) of these labels, [B]."""
        return self.log_probs(x_t, t).gather(1, y[:, None])[:, 0]


class CrossEntropy:
    """-log p(y | x_t) in nats: an objective for a Classifier, called as those of a Denoiser are (objectives.py)."""

    def __call__(
        self, classifier: Classifier, x_0: Tensor, t: Tensor, y: Tensor | None = None, noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """x_0: [B, C, H, W]; t: [B], 0 for images without noise; "accuracy" is 1 where the likeliest class is y."""
        if y is None:
            raise UserError("a classifier learns from labels, and got none")
        noise = torch.randn_like(x_0) if noise is None else noise
        level = classifier.process.at(t)
        log_probs = classifier.log_probs(classifier.process.diffuse(x_0, level, noise), level)
        return {
            "loss": -log_probs.gather(1, y[:, None])[:, 0],
            "accuracy": (log_probs.argmax(1) == y).to(log_probs.dtype).detach(),
        }
