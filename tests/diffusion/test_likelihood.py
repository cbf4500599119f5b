"""The variational bound where every term is known: data is Gaussian and the denoiser perfect.

Terms are quadratic in x_0 and in the noise, so their expectation is their mean over x_0 = mean +- std and noise = +-1:
four rows of a batch stand for all of the world, and nothing here is a matter of chance.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.gaussian import BIN_WIDTH
from ddpm_lab.diffusion.likelihood import (
    BitsPerDim,
    bits,
    bits_per_dim,
    check_schedule,
    estimate_bits_per_dim,
    importance,
    prior_term,
)
from ddpm_lab.diffusion.predictions import Epsilon, Prediction, Start
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import cosine, linear
from ddpm_lab.diffusion.variances import FixedLarge, FixedSmall, Learned, LearnedRange, Variance
from tests.worlds import (
    PREDICTIONS,
    SCHEDULES,
    VARIANCES,
    GaussianWorld,
    Replay,
    full,
    mixer,
    name,
    oracle,
    randn,
    respaced,
    reverse_variance,
    start_variance,
)

MEAN, STD = 0.1, 0.3
WORLD = GaussianWorld.isotropic(MEAN, STD)
VARIANCE = torch.tensor(STD**2, dtype=torch.float64)
# Chains of a process of 40: all, strided, one that ends early, one of a single step.
CHAINS = {"all": list(range(1, 41)), "strided": [1, 2, 7, 20, 40], "late": [6, 21, 40], "early": [1, 5, 25], "one": [9]}
STEPPED = ["all", "strided", "late", "early"]
each_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)


def expected_bound(denoiser: Denoiser, chain: list[int]) -> tuple[Tensor, Tensor]:
    """(E[vlb terms] [K], E[prior]) over the whole world, in nats."""
    x_0 = torch.tensor([MEAN + STD, MEAN + STD, MEAN - STD, MEAN - STD], dtype=torch.float64).view(4, 1, 1, 1)
    noise = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64).view(4, 1, 1, 1)
    bound = bits_per_dim(denoiser, x_0, clip=False, timesteps=chain, randn_like=lambda like: noise)
    return bound.vlb.mean(0) * math.log(2), bound.prior.mean() * math.log(2)


def by_hand(process: Process, chain: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Of all pairs with s > 0, [K - 1]: beta~, beta and c_0^2 Var(x_0 | x_t), from alpha_bar alone."""
    t, s = torch.tensor(chain[1:]), torch.tensor(chain[:-1])
    ab_t, ab_s = process.alpha_bar[t], process.alpha_bar[s]
    beta = 1 - ab_t / ab_s
    weight = ab_s.sqrt() * beta / (1 - ab_t)
    return beta * (1 - ab_s) / (1 - ab_t), beta, weight**2 * start_variance(process.alpha_bar, t, VARIANCE)


@pytest.mark.parametrize("chain", [CHAINS[key] for key in STEPPED], ids=STEPPED)
@pytest.mark.parametrize("schedule", ["linear", "cosine", "jsd", "sigmoid"])
@pytest.mark.parametrize("variance", [FixedSmall(), FixedLarge(), Learned()], ids=name)
def test_the_terms_of_a_perfect_denoiser_are_known(variance: Variance, schedule: str, chain: list[int]) -> None:
    """E[KL] = (log(v/b) + (b + c_0^2 Var(x_0|x_t)) / v - 1) / 2, with b the posterior's variance and v the model's."""
    process = Process(SCHEDULES[schedule](40))
    terms, _ = expected_bound(oracle(WORLD, process, Start(), variance, chain), chain)
    b, beta, spread = by_hand(process, chain)
    v = {FixedSmall: b, FixedLarge: beta, Learned: b + spread}[type(variance)]
    torch.testing.assert_close(terms[1:], 0.5 * ((v / b).log() + (b + spread) / v - 1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("chain", [CHAINS["all"], CHAINS["strided"]], ids=["all", "strided"])
@pytest.mark.parametrize("variance", [FixedSmall(), FixedLarge()], ids=name)
def test_the_true_reverse_variance_has_the_lowest_bound(variance: Variance, chain: list[int]) -> None:
    process = Process(linear(40))
    fixed, _ = expected_bound(oracle(WORLD, process, Start(), variance, chain), chain)
    true, _ = expected_bound(oracle(WORLD, process, Start(), Learned(), chain), chain)
    assert bool((true[1:] < fixed[1:]).all())


@pytest.mark.parametrize("chain", [CHAINS[key] for key in STEPPED], ids=STEPPED)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_with_the_true_reverse_variance_the_bound_is_the_entropy_of_the_data(schedule: str, chain: list[int]) -> None:
    """Whatever the stride: sum of KLs + prior + E[-log p(x_0 | x_t1)] = H(x_0) + KL(q(x_tK) || N(0, 1))."""
    process = Process(SCHEDULES[schedule](40))
    terms, prior = expected_bound(oracle(WORLD, process, Start(), Learned(), chain), chain)
    decoder = 0.5 * (2 * math.pi * math.e * start_variance(process.alpha_bar, torch.tensor(chain[0]), VARIANCE)).log()
    ab = process.alpha_bar[chain[-1]]
    mean, variance = ab.sqrt() * MEAN, ab * VARIANCE + 1 - ab
    end = 0.5 * (mean**2 + variance - 1 - variance.log())
    entropy = 0.5 * (2 * math.pi * math.e * VARIANCE).log()
    torch.testing.assert_close(terms[1:].sum() + prior + decoder, entropy + end, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("first", [3, 8, 20])
def test_the_decoder_is_the_density_times_the_width_of_a_bin(first: int) -> None:
    """Where the decoder's deviation is many bins wide; its CDF's approximation has a density that errs by about 1%."""
    process, chain = Process(cosine(40)), [first, 40]
    terms, _ = expected_bound(oracle(WORLD, process, Start(), Learned(), chain), chain)
    deviation = start_variance(process.alpha_bar, torch.tensor(first), VARIANCE).sqrt().item()
    assert deviation > 10 * BIN_WIDTH
    entropy = 0.5 * math.log(2 * math.pi * math.e * deviation**2)
    assert terms[0].item() == pytest.approx(entropy - math.log(BIN_WIDTH), abs=0.015)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_prior_is_the_divergence_of_the_last_marginal(schedule: str) -> None:
    """In nats (ab x_0^2 - ab - log(1 - ab)) / 2 per number."""
    process = Process(SCHEDULES[schedule](40))
    x_0, ab = randn(3, 2, 2, 2), process.alpha_bar[-1]
    expected = 0.5 * (ab * x_0**2 - ab - (1 - ab).log())
    torch.testing.assert_close(prior_term(process, x_0), expected.flatten(1).mean(1) / math.log(2))


def test_bits_are_per_dimension() -> None:
    nats = math.log(2) * torch.arange(12.0).view(2, 3, 1, 2)
    torch.testing.assert_close(bits(nats), torch.tensor([2.5, 8.5]))


class Retimed(nn.Module):
    """Lets a network trained on one chain's timesteps be called with k = 1..K of the respaced one."""

    def __init__(self, network: nn.Module, chain: list[int]) -> None:
        super().__init__()
        self.network = network
        self.chain = torch.tensor(chain)

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        return self.network(x, (self.chain[time.round().long()] - 1).to(x.dtype), y)


@each_chain
@pytest.mark.parametrize("variance", VARIANCES, ids=name)
def test_the_bound_of_a_strided_chain_is_that_of_the_respaced_process(variance: Variance, chain: list[int]) -> None:
    model = mixer(Process(cosine(40)), Epsilon(), variance)
    chained = Denoiser(Retimed(model.network, chain), respaced(model.process, chain), Epsilon(), variance)
    x_0 = randn(3, 2, 2, 2).clamp(-1, 1)
    noises = [randn(3, 2, 2, 2, seed=k) for k in range(len(chain))]
    ours = bits_per_dim(model, x_0, timesteps=chain, randn_like=Replay(noises))
    theirs = bits_per_dim(chained, x_0, randn_like=Replay(noises))
    assert ours.timesteps == chain
    for field in ("vlb", "x_0_mse", "noise_mse", "prior", "total"):
        torch.testing.assert_close(getattr(ours, field), getattr(theirs, field), rtol=1e-8, atol=1e-10, msg=field)


def evaluate(pairs: int, clip: bool = True, prediction: Prediction | None = None) -> BitsPerDim:
    model = mixer(Process(cosine(12)), prediction or Epsilon(), LearnedRange())
    x_0 = randn(3, 2, 2, 2).clamp(-1, 1)
    noises = [randn(3, 2, 2, 2, seed=k) for k in range(12)]
    return bits_per_dim(model, x_0, torch.arange(3), clip=clip, randn_like=Replay(noises), pairs=pairs)


@pytest.mark.parametrize("pairs", [2, 7, 9, 36, 1000])
def test_how_many_pairs_share_a_network_call_changes_nothing(pairs: int) -> None:
    one, many = evaluate(1), evaluate(pairs)
    for field in ("total", "prior", "vlb", "x_0_mse", "noise_mse"):
        torch.testing.assert_close(getattr(many, field), getattr(one, field))


@pytest.mark.parametrize("clip", [False, True])
def test_the_total_is_the_terms_and_the_prior_and_the_errors_are_one_error(clip: bool) -> None:
    bound = evaluate(1, clip)
    assert bound.vlb.shape == bound.x_0_mse.shape == bound.noise_mse.shape == (3, 12)
    torch.testing.assert_close(bound.total, bound.vlb.sum(1) + bound.prior)
    # The noise is the one implied by x_0, clipped or not, so its error is snr times that of x_0.
    snr = Process(cosine(12)).at(torch.arange(1, 13)).snr
    torch.testing.assert_close(bound.noise_mse, snr * bound.x_0_mse, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("variance", [FixedSmall(), Learned()], ids=name)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
def test_the_bound_does_not_depend_on_what_the_network_predicts(prediction: Prediction, variance: Variance) -> None:
    process, chain = Process(cosine(40)), CHAINS["all"]
    terms, _ = expected_bound(oracle(WORLD, process, prediction, variance), chain)
    of_x_0, _ = expected_bound(oracle(WORLD, process, Start(), variance), chain)
    torch.testing.assert_close(terms, of_x_0, rtol=1e-6, atol=1e-9)


def test_the_helper_of_these_tests_adds_up() -> None:
    """Var(x_s | x_t) = E[Var(x_s | x_t, x_0)] + Var(E[x_s | x_t, x_0]): two routes to the one number."""
    process, chain = Process(linear(40)), CHAINS["strided"]
    b, _, spread = by_hand(process, chain)
    whole = reverse_variance(process.alpha_bar, torch.tensor(chain[1:]), torch.tensor(chain[:-1]), VARIANCE)
    torch.testing.assert_close(b + spread, whole, rtol=1e-9, atol=0)
    assert start_variance(process.alpha_bar, full(1, 1), VARIANCE).item() < VARIANCE


@pytest.mark.parametrize("T", [1, 2, 3, 60])
def test_the_estimate_of_the_bound_is_unbiased(T: int) -> None:
    torch.manual_seed(0)
    world = GaussianWorld(torch.full((1, 2, 2), 0.1, dtype=torch.float64), 0.25 * torch.eye(4, dtype=torch.float64))
    model = oracle(world, Process(cosine(T)))
    x_0 = 0.1 + 0.5 * torch.randn(400, 1, 2, 2, dtype=torch.float64)
    exact = torch.stack([bits_per_dim(model, x_0, clip=False).total for _ in range(4)]).mean(0)
    p = importance(model, x_0[:16], randn_like=torch.randn_like, clip=False)
    assert p.shape == (T,)
    torch.testing.assert_close(p.sum(), torch.tensor(1.0, dtype=torch.float64))
    estimate = estimate_bits_per_dim(
        model,
        x_0,
        probabilities=p,
        draws=5,
        randn_like=torch.randn_like,
        uniform=lambda: torch.rand(400, dtype=torch.float64),
        clip=False,
    )
    # Paired on the same images, what remains is the noise of the two estimators.
    difference = estimate.total - exact
    assert difference.mean().abs() < 4 * difference.std() / len(x_0) ** 0.5


@pytest.mark.parametrize("draws", [1, 2, 4])
def test_over_all_uniform_numbers_the_estimate_is_the_bound(draws: int) -> None:
    """Without chance: probabilities are multiples of 1/8, and each stratum of each part is visited equally often."""
    p = torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0, 2.0], dtype=torch.float64) / 8
    visits = 8 // draws
    model = mixer(Process(cosine(6)), Epsilon(), LearnedRange())
    x_0, noise = randn(1, 2, 2, 2).clamp(-1, 1).repeat(visits, 1, 1, 1), randn(1, 2, 2, 2, seed=1)
    whole = bits_per_dim(model, x_0[:1], randn_like=lambda like: noise)
    u = (torch.arange(visits, dtype=torch.float64) + 0.5) / visits
    found = estimate_bits_per_dim(
        model,
        x_0,
        probabilities=p,
        draws=draws,
        randn_like=lambda like: noise.expand_as(like),
        uniform=lambda: u,
    )
    torch.testing.assert_close(found.total.mean(), whole.total[0])
    torch.testing.assert_close(found.prior[:1], whole.prior)
    torch.testing.assert_close(found.decoder.mean(), whole.vlb[0, 0])


def test_the_timesteps_are_where_the_terms_are_large() -> None:
    model = mixer(Process(cosine(40)), Epsilon(), LearnedRange())
    x_0 = randn(16, 2, 2, 2).clamp(-1, 1)
    p = importance(model, x_0, randn_like=Replay([randn(16, 2, 2, 2, seed=k) for k in range(41)]))
    terms = bits_per_dim(model, x_0).vlb
    size = (terms**2).mean(0).sqrt()
    assert torch.corrcoef(torch.stack([size.log(), p.log()]))[0, 1] > 0.95
    assert p.min() >= 0.05 / 40


@pytest.mark.parametrize(
    ("schedule", "T", "signal"),
    [
        ("quadratic", 50, 0.83),
        ("sigmoid", 50, 0.78),
        ("warmup", 50, 0.62),
        ("constant", 50, 0.6),
        ("constant", 200, 0.13),
    ],
)
def test_a_schedule_that_leaves_signal_says_how_much_and_what_it_costs(schedule: str, T: int, signal: float) -> None:
    process = Process(SCHEDULES[schedule](T))
    ab = process.alpha_bar[T].item()
    assert round(ab**0.5, 2) == signal
    # KL(N(m, 1 - ab) || N(0, 1)) = (m^2 - ab - log(1 - ab)) / 2, and m^2 = ab where the data are +-1, and ab / 4 at +-1/2.
    unit = -0.5 * math.log2(1 - ab)
    half = unit - 0.375 * ab / math.log(2)
    halves = 0.5 * torch.ones(3, 1, 4, 4)
    halves[:, :, ::2] *= -1
    for x_0, cost in ((None, unit), (2 * halves, unit), (halves, half)):
        said = check_schedule(process, x_0)
        assert said is not None
        assert f"sqrt(alpha_bar_T) = {signal:.2g} of the image at T = {T}" in said
        assert f"{cost:.2g} bits/dim" in said


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("T", [1000, 4000])
def test_no_schedule_of_a_paper_at_its_length_is_told_off(schedule: str, T: int) -> None:
    assert check_schedule(Process(SCHEDULES[schedule](T))) is None
