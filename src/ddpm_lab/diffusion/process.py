"""The forward process q and its posteriors, for any pair of times s < t: one law for every Gaussian path."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm_lab.diffusion.coefficients import Float64Buffers, Level, Transition, affine, append_dims
from ddpm_lab.diffusion.gaussian import Gaussian
from ddpm_lab.errors import UserError

Time = Tensor | Level  # times, integers or reals, [B] or []; or what `GaussianPath.at` has said of them


class GaussianPath(Float64Buffers, ABC):
    """q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I) for times t in (0, T] (Ho et al. 2020, equation 4).

    Any other Gaussian path, a_t x_0 + sigma_t eps, is one of these, divided by sqrt(a_t^2 + sigma_t^2): it has
    alpha_bar = a^2 / (a^2 + sigma^2). A step goes from t to any s < t with beta_{t|s} = 1 - alpha_bar_t / alpha_bar_s, so
    strided chains need no second process. All follows from log alpha_bar_t.
    """

    T: float

    @abstractmethod
    def log_alpha_bar_at(self, t: Tensor) -> Tensor:
        """log alpha_bar_t, float64 of t's shape; t = 0 is the image, 0. Raises ValueError for times that there are not."""

    def alpha_bar_at(self, t: Tensor) -> Tensor:
        """alpha_bar_t, float64 of t's shape."""
        return self.log_alpha_bar_at(t).exp()

    @abstractmethod
    def time_at(self, log_snr: Tensor) -> Tensor:
        """The real t in (0, T] with this log(alpha_bar_t / (1 - alpha_bar_t)), float64."""

    def same_as(self, other: GaussianPath) -> bool:
        """Whether both make the same noise at every time."""
        if type(self) is not type(other) or self.T != other.T:
            return False
        t = self.T * torch.linspace(0, 1, 65, dtype=torch.float64)
        return torch.allclose(self.alpha_bar_at(t).cpu(), other.alpha_bar_at(t).cpu(), rtol=1e-9, atol=1e-12)

    def at(self, t: Time) -> Level:
        """The coefficients of times."""
        if isinstance(t, Level):
            return t
        alpha_bar = self.alpha_bar_at(t)
        return Level(t, alpha_bar, self.log_alpha_bar_at(t), alpha_bar.sqrt(), (1 - alpha_bar).sqrt())

    def transition(self, t: Time, s: Time, previous: Tensor | None = None) -> Transition:
        """The coefficients of steps from t to s < t, which a walk comes to t for from `previous`: t + 1 if None."""
        t, s = self.at(t), self.at(s)
        beta = _beta(t.log_alpha_bar, s.log_alpha_bar)
        of_x_0 = s.signal * beta / (1 - t.alpha_bar)
        of_x_t = (1 - beta).sqrt() * (1 - s.alpha_bar) / (1 - t.alpha_bar)
        return Transition(t, s, beta, of_x_0, of_x_t, *self.log_variance_bounds(t.t, s.t, previous))

    def marginal(self, x_0: Tensor, t: Time) -> Gaussian:
        """q(x_t | x_0). x_0: [B, C, H, W]; t: [B] in (0, T]."""
        level = self.at(t)
        log_variance = append_dims(torch.log1p(-level.alpha_bar), x_0)
        return Gaussian(append_dims(level.signal, x_0) * x_0, log_variance.to(x_0).expand_as(x_0))

    def diffuse(self, x_0: Tensor, t: Time, noise: Tensor) -> Tensor:
        """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise; t may be 0, where x_t is x_0."""
        level = self.at(t)
        return affine(level.signal, x_0, level.noise, noise)

    def forward_step(self, x_s: Tensor, step: Transition, noise: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_s): sqrt(1 - beta_{t|s}) x_s + sqrt(beta_{t|s}) noise (Ho et al. 2020, equation 2)."""
        return affine((1 - step.beta).sqrt(), x_s, step.beta.sqrt(), noise)

    def posterior(self, x_0: Tensor, x_t: Tensor, t: Time, s: Time) -> Gaussian:
        """q(x_s | x_t, x_0) for s < t (Ho et al. 2020, equations 6 and 7). At s = 0 see log_variance_bounds."""
        step = self.transition(t, s)
        mean = affine(step.of_x_0, x_0, step.of_x_t, x_t)
        return Gaussian(mean, append_dims(step.log_beta_tilde, x_t).to(x_t).expand_as(x_t))

    def log_variance_bounds(self, t: Tensor, s: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(log beta~_{t|s}, log beta_{t|s}): the least and the most that log Var(x_s | x_t) can be.

        beta~_{t|s} = beta_{t|s} (1 - alpha_bar_s) / (1 - alpha_bar_t). At s = 0 that is zero, and the first is that of the
        next pair up, (previous, t), as Ho et al. clip it. previous: the time from which the walk came to t; t + 1 if not
        given. A chain of one step (t = T, s = 0) has no pair above it and takes the second bound.
        """
        last = s == 0
        previous = t + 1 if previous is None else previous
        # The pair whose beta~ is asked for: (previous, t) at the last step, (t, s) everywhere else.
        upper_t = torch.where(last, previous, t).clamp(max=self.T)
        upper_s = torch.where(last & (upper_t > t), t, s)
        upper_beta = _beta(self.log_alpha_bar_at(upper_t), self.log_alpha_bar_at(upper_s))
        alpha_bar_t, alpha_bar_s = self.alpha_bar_at(upper_t), self.alpha_bar_at(upper_s)
        log_beta = _beta(self.log_alpha_bar_at(t), self.log_alpha_bar_at(s)).log()
        log_beta_tilde = (upper_beta * (1 - alpha_bar_s) / (1 - alpha_bar_t)).log()
        lower = torch.where(torch.isinf(log_beta_tilde), log_beta, log_beta_tilde)
        return lower, log_beta


class Between(NamedTuple):
    """What is interpolated linearly between two timesteps: a function of log alpha_bar, and its inverse."""

    of_log_alpha_bar: Callable[[Tensor], Tensor]
    log_alpha_bar: Callable[[Tensor], Tensor]


def log_snr(log_alpha_bar: Tensor) -> Tensor:
    """log(alpha_bar / (1 - alpha_bar))."""
    return log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))


LOG_SNR = Between(log_snr, F.logsigmoid)
LOG_SIGNAL = Between(lambda log_alpha_bar: log_alpha_bar / 2, lambda log_signal: 2 * log_signal)  # of DPM-Solver's code


class Process(GaussianPath):
    """The path of T betas: integers t in 1..T are looked up, and times between them interpolated.

    betas: [T]; alpha_bar has T + 1 entries, alpha_bar[0] = 1. Between 0 and 1 there is no time: nothing says how little noise
    an image may have. between: what times between two timesteps interpolate.

    The tables are float64 and non-persistent: no schedule key ever enters a checkpoint.
    """

    alpha_bar: Tensor
    log_alpha_bar: Tensor
    T: int

    def __init__(self, betas: Tensor, between: Between = LOG_SNR) -> None:
        super().__init__()
        try:
            betas = torch.as_tensor(betas, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise UserError(f"a schedule's betas must be numbers [T], and came as {type(betas).__name__}") from None
        if betas.dim() != 1 or not len(betas):
            raise UserError(f"betas must be a vector of at least one number, got shape {tuple(betas.shape)}")
        wrong = ~((betas > 0) & (betas <= 1))  # NaN too
        wrong[:-1] |= betas[:-1] == 1
        if wrong.any():
            t = int(wrong.nonzero()[0]) + 1
            raise UserError(
                f"betas must lie in (0, 1), of which the last alone may be 1, and {int(wrong.sum())} of T={len(betas)} do not: "
                f"the first is beta_{t} = {betas[t - 1].item():.6g}"
            )
        one = torch.ones(1, dtype=torch.float64)
        self.T = len(betas)
        self.between = between
        self.register_buffer("alpha_bar", torch.cat([one, torch.cumprod(1 - betas, 0)]), persistent=False)
        log_alpha_bar = torch.cat([0 * one, torch.cumsum(torch.log1p(-betas), 0)])
        self.register_buffer("log_alpha_bar", log_alpha_bar, persistent=False)

    def same_as(self, other: GaussianPath) -> bool:
        """Whether both make the same noise at every timestep, up to rounding of tables that travelled."""
        if not isinstance(other, Process) or self.T != other.T:
            return False
        return torch.allclose(self.alpha_bar.cpu(), other.alpha_bar.cpu(), rtol=1e-9, atol=1e-12)

    def alpha_bar_at(self, t: Tensor) -> Tensor:
        """alpha_bar_t; of an integer the table's, bit for bit."""
        t = t.to(self.alpha_bar.device)
        if not t.is_floating_point():
            return self.alpha_bar[t]
        between = self._interpolated(t)  # first: it refuses what is no time
        return torch.where(t == t.round(), self.alpha_bar[t.long()], between.exp())

    def log_alpha_bar_at(self, t: Tensor) -> Tensor:
        """log alpha_bar_t; of an integer the table's, bit for bit.

        Raises ValueError for times in (0, 1), and for those after T - 1 where a schedule ends in pure noise.
        """
        t = t.to(self.alpha_bar.device)
        if not t.is_floating_point():
            return self.log_alpha_bar[t]
        between = self._interpolated(t)  # first: it refuses what is no time
        return torch.where(t == t.round(), self.log_alpha_bar[t.long()], between)

    def time_at(self, log_snr: Tensor) -> Tensor:
        """The t in 1..T with this log SNR; the first or the last timestep beyond theirs."""
        known = self.between.of_log_alpha_bar(self.log_alpha_bar[1:].cpu())  # falls
        asked = self.between.of_log_alpha_bar(F.logsigmoid(log_snr.double().cpu()))
        if self.T == 1:
            return torch.ones_like(asked)
        above = torch.searchsorted(-known, -asked).clamp(1, self.T - 1)
        a, b = known[above - 1], known[above]
        fraction = torch.where(torch.isinf(b), (asked < a).double(), (a - asked) / (a - b))
        return above + fraction.clamp(0, 1)

    def _interpolated(self, t: Tensor) -> Tensor:
        """log alpha_bar between two timesteps."""
        real = t != t.round()
        outside = (t < 0) | (real & (t < 1)) | (t > self.T)
        if outside.any():
            raise UserError(
                f"t={t[outside].flatten()[0]:g} is no time of this process: there are 0 and those from 1 to T={self.T}"
            )
        low = t.long().clamp(1, max(1, self.T - 1))
        a, b = (self.between.of_log_alpha_bar(self.log_alpha_bar[k]) for k in (low, (low + 1).clamp(max=self.T)))
        if (real & torch.isinf(b)).any():
            raise UserError(
                f"the schedule ends in pure noise, and between T - 1 and T={self.T} nothing says how little signal is left: "
                "take whole timesteps there"
            )
        return self.between.log_alpha_bar(torch.where(real, a + (t - low) * (b - a), a))


def _beta(log_alpha_bar_t: Tensor, log_alpha_bar_s: Tensor) -> Tensor:
    """beta_{t|s} = 1 - alpha_bar_t / alpha_bar_s, without the cancellation."""
    return -torch.expm1(log_alpha_bar_t - log_alpha_bar_s)
