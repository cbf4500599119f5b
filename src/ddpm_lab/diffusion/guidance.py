"""Steering: each guidance is a Denoiser around a Denoiser, so that it works with every sampler, prediction and variance.

Inside to outside: `ClassifierFree` or `Autoguided`, which mix networks' outputs; `ClassifierGuided`; `Inpainted`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_lab.diffusion.coefficients import Level, Transition, append_dims, as_batch
from ddpm_lab.diffusion.denoiser import Denoiser, Estimate, GuidanceShift
from ddpm_lab.diffusion.gaussian import Gaussian
from ddpm_lab.diffusion.process import Time
from ddpm_lab.errors import UserError, WrongTypeError

Outputs = tuple[Tensor, Tensor | None]  # the network's output, and its raw variance


def drop_labels(y: Tensor, p: float, null_label: int) -> Tensor:
    """Labels [B, ...], those of an image replaced by null_label with probability p (Ho & Salimans 2022, algorithm 1)."""
    dropped = torch.rand(len(y)).to(y.device) < p  # [B]
    return torch.where(dropped.view(-1, *[1] * (y.dim() - 1)), null_label, y)


class Guided(Denoiser):
    """What every guidance is: in all that it does not change, the denoiser that it is put around."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(
            denoiser.network, denoiser.process, denoiser.prediction, denoiser.variance, shown=denoiser.shown
        )
        self.denoiser = denoiser

    def outputs(self, x_t: Tensor, t: Time, y: Tensor | None = None) -> Outputs:
        """Those of the denoiser inside."""
        return self.denoiser.outputs(x_t, t, y)

    def acts_at(self, t: Tensor) -> Tensor:
        """Which of the timesteps t [B] are guided, bool [B]; a scale of 0, which asks for nothing, does so everywhere."""
        return torch.ones_like(t, dtype=torch.bool)

    def with_network(self, network: torch.nn.Module) -> Denoiser:
        """Raise TypeError: a guidance is put around the denoiser that has the network already."""
        raise WrongTypeError(f"{type(self).__name__} is put around a denoiser: exchange the network first")


class OutputGuidance(Guided):
    """Away from a weaker output, beyond the better: (1 + w) better - w weaker, for t within an interval.

    Mixing outputs mixes eps by the same weights, whatever the network predicts: eps is affine in the output, and the weights
    sum to 1. All channels are mixed; a learned variance is the better network's for w >= 0, and for w < 0 lies between the
    two as the output does, but is never extrapolated, which would leave the bounds that it is a mean of.

    scale: w; 0 is unguided. interval: (lowest, highest) t that are guided, in 1..T (Kynkaanniemi et al. 2024); None: all.
    rescale: phi in [0, 1], how much of the output's growth of standard deviation over an image is taken back (Lin et al. 2024,
    equations 15 and 16).

    Raises ValueError for numbers that make no sense, or another guidance inside.
    """

    def __init__(
        self, denoiser: Denoiser, scale: float, interval: tuple[int, int] | None = None, rescale: float = 0.0
    ) -> None:
        super().__init__(denoiser)
        if isinstance(denoiser, Guided):
            raise UserError(
                f"{type(self).__name__} mixes outputs of networks and goes inside {type(denoiser).__name__}, not around it"
            )
        self.scale = finite("scale", scale)
        T = denoiser.process.T
        if interval is not None and (len(interval) != 2 or not 1 <= interval[0] <= interval[1] <= T):
            raise UserError(
                f"guidance.interval={list(interval)} is to be [lowest, highest] t with 1 <= lowest <= highest <= T={T}"
            )
        self.interval = interval
        if not 0 <= finite("rescale", rescale) <= 1:
            raise UserError(f"guidance.rescale={rescale} is a share of what is taken back: take 0 to 1")
        self.rescale = rescale

    def both(self, x_t: Tensor, level: Level, y: Tensor | None) -> tuple[Outputs, Outputs]:
        """The better and the weaker network's outputs."""
        raise NotImplementedError

    def acts_at(self, t: Tensor) -> Tensor:
        """Those within the interval."""
        lowest, highest = self.interval or (1, self.process.T)
        return (t >= lowest) & (t <= highest)

    def outputs(self, x_t: Tensor, t: Time, y: Tensor | None = None) -> Outputs:
        """The mixed outputs; one network call less where no t is guided."""
        level = self.process.at(t)
        w = self.scale * self.acts_at(level.t.cpu()).double()  # [B] or []
        if not bool(w.any()):
            return self.denoiser.outputs(x_t, level, y)
        (better, raw), (weaker, raw_of_weaker) = self.both(x_t, level, y)
        mixed = _beyond(better, weaker, append_dims(w, x_t))
        if self.rescale > 0:
            growth = mixed.flatten(1).std(1) / better.flatten(1).std(1)
            share = self.rescale * (w != 0).to(growth)
            mixed = mixed * append_dims(share / growth + (1 - share), mixed)
        if raw is not None and raw_of_weaker is not None:
            raw = _beyond(raw, raw_of_weaker, append_dims(w.clamp(-1, 0), x_t))
        return mixed, raw


class ClassifierFree(OutputGuidance):
    """Ho & Salimans 2022, equation 6: eps = (1 + w) eps(x_t, y) - w eps(x_t), both from one network call.

    w = 0 is the conditional model and w = -1 the unconditional. Most code's "scale" is 1 + w.

    null_label: the label that stands for none, which a network learns by `drop_labels`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        null_label: int,
        scale: float,
        interval: tuple[int, int] | None = None,
        rescale: float = 0.0,
    ) -> None:
        super().__init__(denoiser, scale, interval, rescale)
        self.null_label = null_label

    def both(self, x_t: Tensor, level: Level, y: Tensor | None) -> tuple[Outputs, Outputs]:
        """Labels and null labels, one below the other in one batch."""
        if y is None:
            raise UserError("classifier-free guidance needs labels y [B] to guide towards, and got none")
        labels = torch.cat([y, torch.full_like(y, self.null_label)])
        twice = level if level.t.dim() == 0 else Level(*(torch.cat([field, field]) for field in level))
        output, raw = self.denoiser.outputs(torch.cat([x_t, x_t]), twice, labels)
        B = len(x_t)
        return (output[:B], None if raw is None else raw[:B]), (output[B:], None if raw is None else raw[B:])


class Autoguided(OutputGuidance):
    """Karras et al. 2024: away from a weaker model of the same kind, smaller or less trained, with the same labels.

    (1 + w) strong - w weak; that paper's "guidance weight" is 1 + w.
    Raises ValueError unless both have the same schedule, prediction and kind of variance.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        weak: Denoiser,
        scale: float,
        interval: tuple[int, int] | None = None,
        rescale: float = 0.0,
    ) -> None:
        super().__init__(denoiser, scale, interval, rescale)
        if not denoiser.process.same_as(weak.process):
            raise UserError("the weak model was trained on another schedule; take one of the same schedule and T")
        for name in ("prediction", "variance"):
            strong_has, weak_has = (type(getattr(d, name)).__name__ for d in (denoiser, weak))
            if strong_has != weak_has:
                raise UserError(
                    f"the weak model has {name} {weak_has} and the strong one {strong_has}; they must be the same"
                )
        self.weak = weak

    def both(self, x_t: Tensor, level: Level, y: Tensor | None) -> tuple[Outputs, Outputs]:
        """One call of each."""
        return self.denoiser.outputs(x_t, level, y), self.weak.outputs(x_t, level, y)


class ClassifierGuided(Guided):
    """Dhariwal & Nichol 2021: along g = scale * grad log p(y | x_t), the gradient of a classifier of noisy images.

    `step` shifts the mean by Sigma g (algorithm 1, ancestral sampling); `estimate` has the score form (algorithm 2, DDIM and
    every other walk along the noise): eps' = eps - sqrt(1 - alpha_bar_t) g, and x_0 from eps', which is not clipped again.

    log_prob: (x_t [B, C, H, W], t [B] in 1..T, y [B]) -> log p(y | x_t) [B]; of rows that do not see each other.
    scale: s; 0 is unguided. labels: what the network inside gets of y: itself, as it has learned; None; or null labels.
    min_alpha_bar: nothing is guided where alpha_bar_t is below. In almost pure noise a learned classifier has nothing but its
    error to say, and the score form divides that by sqrt(alpha_bar_t): by 5e-5 at the end of the cosine schedule.
    Raises ValueError for numbers that make no sense.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        log_prob: Callable[[Tensor, Tensor, Tensor], Tensor],
        scale: float,
        labels: Callable[[Tensor], Tensor | None] = lambda y: y,
        min_alpha_bar: float = 0.0,
    ) -> None:
        super().__init__(denoiser)
        self.log_prob = log_prob
        self.scale = finite("scale", scale)
        if not 0 <= finite("min_alpha_bar", min_alpha_bar) < 1:
            raise UserError(
                f"guidance.min_alpha_bar={min_alpha_bar} is a share of signal: take 0 or more, and less than 1"
            )
        self.min_alpha_bar = min_alpha_bar
        self.labels = labels

    def estimate(self, x_t: Tensor, t: Time, y: Tensor | None = None, *, clip: bool) -> Estimate:
        """As of a Denoiser, moved; y: [B], never None."""
        if y is None:
            raise UserError("classifier guidance needs labels y [B] to guide towards, and got none")
        level = self.process.at(t)
        estimate = self.denoiser.estimate(x_t, level, self.labels(y), clip=clip)
        gradient = self.gradient(x_t, level, y)
        alpha_bar = level.alpha_bar
        # eps' moves x_0 by (1 - ab) / sqrt(ab) g. Where alpha_bar is 0, x_t says nothing of x_0 nor of its class, and g is 0.
        of_gradient = torch.where(alpha_bar > 0, (1 - alpha_bar) * alpha_bar.rsqrt(), 0.0)
        return estimate._replace(
            x_0=estimate.x_0 + append_dims(of_gradient, x_t) * gradient,
            noise=estimate.noise - append_dims(level.noise, x_t) * gradient,
            shift=GuidanceShift(estimate.x_0, gradient),
        )

    def acts_at(self, t: Tensor) -> Tensor:
        """Those with enough signal."""
        alpha_bar = self.process.alpha_bar_at(t)
        return (alpha_bar >= self.min_alpha_bar) & (alpha_bar > 0)

    def gradient(self, x_t: Tensor, t: Time, y: Tensor) -> Tensor:
        """scale * grad log p(y | x_t), [B, C, H, W]; 0 where nothing is guided."""
        if self.scale == 0:
            return torch.zeros_like(x_t)
        t = as_batch(self.process.at(t).t, x_t)
        guided = self.acts_at(t).to(x_t.device)
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.log_prob(x, t.clone(), y.clone()).sum(), x)
        return torch.where(guided.view(-1, *[1] * (x_t.dim() - 1)), self.scale * gradient, 0.0)

    def reverse(self, estimate: Estimate, x_t: Tensor, step: Transition) -> Gaussian:
        """p(x_s | x_t) at the x_0 that was not moved, its mean shifted by Sigma g."""
        assert estimate.shift is not None
        p = self.denoiser.reverse(estimate._replace(x_0=estimate.shift.x_0), x_t, step)
        variance = self.variance.variance(estimate.raw_variance, step, x_t)
        return p._replace(mean=p.mean + variance * estimate.shift.gradient)


class Inpainted(Guided):
    """Some pixels are known: at every step they are the known image, diffused to it (Lugmayr et al. 2022, equation 8).

    `step` draws them anew from q(x_s | x_0); `estimate` keeps the noise that they have, so that walks without
    noise of their own stay so. Either way they end as they were given. The unknown part meets what is known only in the
    network; walk with `RePaint` where the two must agree.

    known: images [B, C, H, W], B the batch that is walked. mask: bool [B or 1, 1, H, W], True where known.
    """

    def __init__(self, denoiser: Denoiser, known: Tensor, mask: Tensor) -> None:
        super().__init__(denoiser)
        if mask.dtype != torch.bool or mask.shape[-2:] != known.shape[-2:]:
            raise UserError(
                f"the mask must be bool with the images' {list(known.shape[-2:])} pixels, got {mask.dtype} {list(mask.shape)}"
            )
        self.known = known
        self.mask = mask

    def estimate(self, x_t: Tensor, t: Time, y: Tensor | None = None, *, clip: bool) -> Estimate:
        """As of the denoiser inside, but x_0 is what is known, where it is."""
        level = self.process.at(t)
        estimate = self.denoiser.estimate(x_t, level, y, clip=clip)
        return estimate._replace(
            x_0=torch.where(self.mask, self.known, estimate.x_0),
            noise=torch.where(self.mask, self.noise(self.known, x_t, level), estimate.noise),
        )

    def reverse(self, estimate: Estimate, x_t: Tensor, step: Transition) -> Gaussian:
        """p(x_s | x_t) where unknown, q(x_s | x_0) where known: at s = 0 the known pixels themselves."""
        unknown, known = self.denoiser.reverse(estimate, x_t, step), self.process.marginal(self.known, step.s)
        of_unknown = unknown.log_variance.to(x_t).expand_as(x_t)
        return Gaussian(
            torch.where(self.mask, known.mean, unknown.mean), torch.where(self.mask, known.log_variance, of_unknown)
        )


def finite(name: str, value: float) -> float:
    """The number itself. Raises ValueError, naming guidance.<name>, for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"guidance.{name}={value} is not a number; take one such as 1.0")
    return float(value)


def _beyond(better: Tensor, weaker: Tensor, w: Tensor) -> Tensor:
    """(1 + w) better - w weaker."""
    return (1 + w) * better - w * weaker
