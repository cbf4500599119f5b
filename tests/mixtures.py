"""A world of classes, each a Gaussian: the score of every class, of all together and of p(y | x_t) in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.predictions import Epsilon
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.variances import FixedSmall, Variance


class MixtureWorld:
    """p(x_0 | y) = N(means[y], covariances[y]) over images of 1x1xD, classes equally likely."""

    def __init__(self, means: Tensor, covariances: Tensor) -> None:
        self.means, self.covariances = means, covariances

    @classmethod
    def three_classes(cls) -> MixtureWorld:
        """Three overlapping classes of two correlated numbers."""
        means = torch.tensor([[0.5, 0.1], [-0.4, 0.4], [0.0, -0.5]], dtype=torch.float64)
        factors = torch.tensor(
            [[[0.3, 0.0], [0.1, 0.2]], [[0.2, 0.0], [-0.2, 0.2]], [[0.35, 0.0], [0.05, 0.15]]], dtype=torch.float64
        )
        return cls(means, factors @ factors.mT)

    @property
    def mean(self) -> Tensor:
        """Of all classes together, [D]."""
        return self.means.mean(0)

    @property
    def covariance(self) -> Tensor:
        """Of all classes together, [D, D]: that within the classes and that of their means."""
        apart = self.means - self.mean
        return self.covariances.mean(0) + apart.T @ apart / len(apart)

    def log_joint(self, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
        """log p(x_t, y) for every y up to a constant, [B, K]. x_t: [B, D]; alpha_bar: [B]."""
        if (alpha_bar == alpha_bar[0]).all():
            alpha_bar = alpha_bar[:1]  # a walk's: the covariances of one timestep, not of each image
        ab = alpha_bar.view(-1, 1, 1)
        noisy = ab[..., None] * self.covariances + (1 - ab)[..., None] * torch.eye(self.means.shape[1])
        return MultivariateNormal(ab.sqrt() * self.means, noisy).log_prob(x_t[:, None])

    def draw(self, n: int, y: int | None) -> Tensor:
        """n draws of a class, or of all, [n, D]."""
        labels = torch.randint(len(self.means), (n,)) if y is None else torch.full((n,), y)
        return MultivariateNormal(self.means[labels], self.covariances[labels]).sample()


class MixtureOracle(nn.Module):
    """eps = -sqrt(1 - alpha_bar_t) grad log p(x_t | y); the label K, and no labels at all, stand for all classes."""

    def __init__(self, world: MixtureWorld, process: Process) -> None:
        super().__init__()
        self.world, self.alpha_bar = world, process.alpha_bar
        self.calls = 0

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        self.calls += 1
        ab = self.alpha_bar[time.round().long() + 1]
        K = len(self.world.means)
        y = torch.full((len(x),), K) if y is None else y
        with torch.enable_grad():
            flat = x.detach().flatten(1).requires_grad_()
            joint = self.world.log_joint(flat, ab)
            log_p = torch.where(y == K, joint.logsumexp(1), joint.gather(1, y.clamp(max=K - 1)[:, None])[:, 0])
            (score,) = torch.autograd.grad(log_p.sum(), flat)
        return (-(1 - ab).sqrt()[:, None] * score).view_as(x)


def mixture_denoiser(world: MixtureWorld, process: Process, variance: Variance | None = None) -> Denoiser:
    return Denoiser(MixtureOracle(world, process), process, Epsilon(), FixedSmall() if variance is None else variance)
