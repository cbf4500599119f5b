"""The forward process q and its posteriors, for any pair of timesteps s < t."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm_lab.diffusion.gaussian import Gaussian
from ddpm_lab.diffusion.tables import Tables, Times, by_number, combine, expand, lookup, of_batch
from ddpm_lab.errors import UserError

# A schedule that ends in pure noise has SNR 0 there; this keeps ratios of SNRs finite. Published ones stay above 1e-10.
LOWEST_SNR = 1e-20


class Process(Tables):
    """q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I) (Ho et al. 2020, equation 4).

    betas: [T]; t runs 1..T as in the papers and alpha_bar has T + 1 entries, alpha_bar[0] = 1. A step goes from t to any
    s < t with beta_{t|s} = 1 - alpha_bar_t / alpha_bar_s, so strided chains need no second process. Timesteps are [B] or,
    in all that samplers call, one integer for the whole batch (see tables.py).

    The tables are float64 and non-persistent: no schedule key ever enters a checkpoint.
    """

    alpha_bar: Tensor
    log_alpha_bar: Tensor

    def __init__(self, betas: Tensor) -> None:
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
        self.register_buffer("alpha_bar", torch.cat([one, torch.cumprod(1 - betas, 0)]), persistent=False)
        log_alpha_bar = torch.cat([0 * one, torch.cumsum(torch.log1p(-betas), 0)])
        self.register_buffer("log_alpha_bar", log_alpha_bar, persistent=False)

    def same_as(self, other: Process) -> bool:
        """Whether both make the same noise at every timestep, up to rounding of tables that travelled."""
        return self.T == other.T and torch.allclose(self.alpha_bar.cpu(), other.alpha_bar.cpu(), rtol=1e-9, atol=1e-12)

    @by_number
    def alpha_bar_at(self, t: Tensor) -> Tensor:
        """alpha_bar_t."""
        return lookup(self.alpha_bar, t)

    @by_number
    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(sqrt(alpha_bar_t), sqrt(1 - alpha_bar_t)): how much of x_0 and of the noise is in x_t."""
        alpha_bar = lookup(self.alpha_bar, t)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    @by_number
    def beta(self, t: Tensor, s: Tensor) -> Tensor:
        """beta_{t|s} = 1 - alpha_bar_t / alpha_bar_s, without the cancellation."""
        return -torch.expm1(lookup(self.log_alpha_bar, t) - lookup(self.log_alpha_bar, s))

    def snr(self, t: Tensor) -> Tensor:
        """alpha_bar_t / (1 - alpha_bar_t), [B] float64; t: [B] integers in 1..T."""
        alpha_bar = lookup(self.alpha_bar, t)
        return (alpha_bar / (1 - alpha_bar)).clamp(min=LOWEST_SNR)

    def marginal(self, x_0: Tensor, t: Tensor) -> Gaussian:
        """q(x_t | x_0). x_0: [B, C, H, W]; t: [B] integers in 1..T."""
        alpha_bar = lookup(self.alpha_bar, t)
        log_variance = expand(torch.log1p(-alpha_bar), x_0)
        return Gaussian(expand(alpha_bar.sqrt(), x_0) * x_0, log_variance.expand_as(x_0))

    def diffuse(self, x_0: Tensor, t: Times, noise: Tensor) -> Tensor:
        """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise; t may be 0, where x_t is x_0."""
        of_x_0, of_noise = self.scales(t)
        return combine(of_x_0, x_0, of_noise, noise)

    def rise(self, x_s: Tensor, s: Times, t: Times, noise: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_s), s < t: sqrt(1 - beta_{t|s}) x_s + sqrt(beta_{t|s}) noise (Ho et al. 2020, equation 2)."""
        beta = self.beta(t, s)
        return combine((1 - beta) ** 0.5, x_s, beta**0.5, noise)

    @by_number
    def posterior_coefficients(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The weights of x_0 and of x_t in the mean of q(x_s | x_t, x_0) (Ho et al. 2020, equation 7)."""
        alpha_bar_t, alpha_bar_s = lookup(self.alpha_bar, t), lookup(self.alpha_bar, s)
        beta = self.beta(t, s)
        of_x_0 = alpha_bar_s.sqrt() * beta / (1 - alpha_bar_t)
        of_x_t = (1 - beta).sqrt() * (1 - alpha_bar_s) / (1 - alpha_bar_t)
        return of_x_0, of_x_t

    def posterior_mean(self, x_0: Tensor, x_t: Tensor, t: Times, s: Times) -> Tensor:
        """mu~, the mean of q(x_s | x_t, x_0). x_0, x_t: [B, C, H, W]; s < t."""
        of_x_0, of_x_t = self.posterior_coefficients(t, s)
        return combine(of_x_0, x_0, of_x_t, x_t)

    def posterior(self, x_0: Tensor, x_t: Tensor, t: Times, s: Times) -> Gaussian:
        """q(x_s | x_t, x_0) for s < t (Ho et al. 2020, equations 6 and 7). At s = 0 see log_variance_bounds."""
        t, s = of_batch(t, x_t), of_batch(s, x_t)
        lower, _ = self.log_variance_bounds(t, s)
        return Gaussian(self.posterior_mean(x_0, x_t, t, s), expand(lower, x_t).expand_as(x_t))

    @by_number
    def log_variance_bounds(self, t: Tensor, s: Tensor, above: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(log beta~_{t|s}, log beta_{t|s}): the least and the most that log Var(x_s | x_t) can be.

        beta~_{t|s} = beta_{t|s} (1 - alpha_bar_s) / (1 - alpha_bar_t). At s = 0 that is zero, and the first is that of the
        next pair up, (above, t), as Ho et al. clip it. above: the timestep from which the walk came to t; t + 1 if
        not given. A chain of one step (t = T, s = 0) has no pair above it and takes the second bound.
        """
        last = s == 0
        above = t + 1 if above is None else above
        # The pair whose beta~ is asked for: (above, t) at the last step, (t, s) everywhere else.
        upper_t = torch.where(last, above, t).clamp(max=self.T)
        upper_s = torch.where(last & (upper_t > t), t, s)
        alpha_bar_t, alpha_bar_s = lookup(self.alpha_bar, upper_t), lookup(self.alpha_bar, upper_s)
        log_beta = self.beta(t, s).log()
        log_beta_tilde = (self.beta(upper_t, upper_s) * (1 - alpha_bar_s) / (1 - alpha_bar_t)).log()
        lower = torch.where(torch.isinf(log_beta_tilde), log_beta, log_beta_tilde)
        return lower, log_beta
