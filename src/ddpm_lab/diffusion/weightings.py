"""Weights of the squared error: (snr [B], scale [B]) -> [B], a factor on the mean squared error of the network's output.

scale is how many times larger that error is than the error of the x_0 it stands for (Prediction.scale), so a weight w on
the x_0-error is w / scale, and the noise-error is snr times the x_0-error.
"""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(snr: Tensor, scale: Tensor) -> Tensor:
    """1: the plain error of whatever the network predicts (Ho et al. 2020, L_simple, equation 14)."""
    return torch.ones_like(snr)


def snr(snr: Tensor, scale: Tensor) -> Tensor:
    """The noise-error, whatever the network predicts (Salimans & Ho 2022, "SNR weighting")."""
    return snr / scale


def min_snr(snr: Tensor, scale: Tensor, gamma: float = 5.0) -> Tensor:
    """min(SNR, gamma) on the x_0-error (Hang et al. 2023, equation 5)."""
    return snr.clamp(max=gamma) / scale


def p2(snr: Tensor, scale: Tensor, k: float = 1.0, gamma: float = 1.0) -> Tensor:
    """1 / (k + SNR)^gamma on the noise-error (Choi et al. 2022, equation 8)."""
    return snr / scale / (k + snr) ** gamma
