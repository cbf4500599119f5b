"""Diagonal Gaussians, in nats and per element."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BIN_WIDTH = 2 / 255  # of an 8-bit image scaled to [-1, 1]
LOWEST_LOG_PROB = math.log(1e-12)  # the public code's floor of a bin's probability


class Gaussian(NamedTuple):
    """N(mean, exp(log_variance)), elementwise. mean: [B, C, H, W]; log_variance: broadcastable to it, or [] for all."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normal noise, of the mean's shape, into a draw."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other) in nats, per element."""
        return 0.5 * (
            other.log_variance
            - self.log_variance
            + torch.exp(self.log_variance - other.log_variance)
            + (self.mean - other.mean) ** 2 * torch.exp(-other.log_variance)
            - 1
        )

    def discretized_log_prob(self, x: Tensor) -> Tensor:
        """log of the probability of each pixel's bin, in nats (Ho et al. 2020, equation 13).

        x: images scaled from 8 bits to [-1, 1]. 256 bins of width 2/255, the first and last open to infinity.

        The normal CDF is the tanh approximation of the public code, Phi(z) ~ sigmoid(g(z)), which allows a form without
        cancellation: log(sigmoid(a) - sigmoid(b)) = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a)).
        Probabilities are floored at 1e-12, as there.
        """
        # Beyond these limits a bin is full or at the floor already; they keep cubes and gradients finite in float32.
        precision = torch.exp(-0.5 * self.log_variance.clamp(-60, 60))
        upper = ((x - self.mean + BIN_WIDTH / 2) * precision).clamp(-100, 100)
        lower = ((x - self.mean - BIN_WIDTH / 2) * precision).clamp(-100, 100)
        a, b = _cdf_logit(upper), _cdf_logit(lower)
        # a - b with the difference taken out by hand: u^3 - v^3 = (u - v)(u^2 + uv + v^2).
        width = BIN_WIDTH * precision
        difference = 2 * math.sqrt(2 / math.pi) * width * (1 + 0.044715 * (upper**2 + upper * lower + lower**2))
        below, above = F.logsigmoid(a), F.logsigmoid(-b)
        inside = below + above + torch.log(-torch.expm1(-difference))
        log_prob = torch.where(x < -0.999, below, torch.where(x > 0.999, above, inside))
        return log_prob.clamp(min=LOWEST_LOG_PROB)


def _cdf_logit(z: Tensor) -> Tensor:
    """logit of the normal CDF, approximately: 0.5 (1 + tanh(h)) = sigmoid(2 h)."""
    return 2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)


def standard_normal(like: Tensor) -> Gaussian:
    """N(0, I) of the shape of `like`."""
    return Gaussian(torch.zeros_like(like), torch.zeros_like(like))
