"""Pictures of the bound: its terms over the timesteps, and what a transmission that stops early costs and gives."""

from __future__ import annotations

from pathlib import Path

from ddpm_lab.evaluation.likelihood import Terms


def bound_terms(terms: Terms, caption: str, path: Path) -> None:
    """Plot the terms of the bound and the errors of x_0 and of the noise against t, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    figure.suptitle(caption)
    terms_axes, x_0_axes, noise_axes = figure.subplots(1, 3)
    terms_axes.loglog(terms.t, [max(term, 1e-12) for term in terms.vlb])
    terms_axes.set(title="terms of the bound (at t = 1 the decoder's)", ylabel="bits per dimension")
    x_0_axes.loglog(terms.t, terms.x_0_mse)
    x_0_axes.set(title="error of the estimated $x_0$", ylabel="mean squared error, $x_0$ in [-1, 1]")
    noise_axes.semilogx(terms.t, terms.noise_mse)
    noise_axes.set(title=r"error of the estimated noise $\epsilon$", ylabel="mean squared error")
    noise_axes.set_ylim(bottom=0)
    for axes in (terms_axes, x_0_axes, noise_axes):
        axes.set_xlabel("timestep t")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def rates(terms: Terms, prior: float) -> list[float]:
    """Bits per dimension that have been sent once x_t is known, for each t of `terms.t`.

    Algorithms 3 and 4 of Ho et al. 2020: x_T costs the prior's term L_T, and x_{t-1}, for who knows x_t, L_{t-1}, which is
    terms.vlb at t. So x_t costs prior + the sum of terms.vlb over all timesteps above t. The decoder's term, at t = 1, is
    in none of these: it is what the image itself costs for who knows x_1, and with it the last rate is the whole bound.
    """
    sent, found = prior, []
    for term in reversed(terms.vlb):
        found.append(sent)
        sent += term
    return found[::-1]


def distortions(terms: Terms) -> list[float]:
    """Root of the mean squared error of the x_0 estimated from x_t, in grey levels 0..255, for each t of `terms.t`."""
    return [127.5 * error**0.5 for error in terms.x_0_mse]


def rate_distortion(terms: Terms, prior: float, caption: str, path: Path) -> None:
    """Plot distortion and rate against the steps of the reverse process, and one against the other, as a PNG.

    Ho et al. 2020, section 4.3 and figure 5: after T - t steps x_t is known, for `rates` bits, and x_0 estimated from it,
    with the error `distortions`.
    """
    from matplotlib.figure import Figure

    steps = [terms.t[-1] - t for t in terms.t]
    rate, distortion = rates(terms, prior), distortions(terms)
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    figure.suptitle(caption)
    of_steps, of_rate, of_distortion = (
        "steps of the reverse process, T - t",
        "rate (bits/dim)",
        "distortion (RMSE, 0..255)",
    )
    for axes, (title, x, xlabel, y, ylabel) in zip(
        figure.subplots(1, 3),
        [
            ("error of the estimated image", steps, of_steps, distortion, of_distortion),
            (f"bits sent, without the decoder's {terms.vlb[0]:.2f}", steps, of_steps, rate, of_rate),
            ("error against bits", rate, of_rate, distortion, of_distortion),
        ],
        strict=True,
    ):
        axes.plot(x, y)
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
