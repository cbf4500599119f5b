"""The bound of a split: right, with errors that are what they say, and one number for one checkpoint."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ddpm_lab.data.memory import MemorySet
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.gaussian import BIN_WIDTH
from ddpm_lab.diffusion.predictions import Epsilon
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import cosine
from ddpm_lab.diffusion.variances import FixedLarge, Learned
from ddpm_lab.evaluation.curves import bound_terms, distortions, rate_distortion, rates
from ddpm_lab.evaluation.likelihood import Bound, Exact, Fast, Terms, metrics, sentence
from ddpm_lab.parts import part
from ddpm_lab.pixels import to_uint8
from ddpm_lab.seeds import ImageNoise
from tests.evaluation.toy import toy_denoiser
from tests.worlds import GaussianWorld, mixer, oracle, reverse_variance, start_variance

ABOUT = {"step": 7, "weights": "ema", "commit": "abc"}


def pixels(n: int, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> MemorySet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, *shape), generator=generator, dtype=torch.uint8)
    return MemorySet(images, torch.randint(0, 3, (n,), generator=generator))


def measure(bound: Exact | Fast, model: Denoiser, images: MemorySet, seed: int = 0, conditional: bool = False) -> Bound:
    return bound(
        model,
        images,
        split="test",
        name="toys",
        conditional=conditional,
        seed=seed,
        device=torch.device("cpu"),
        progress=False,
    )


# A world whose bound is known

MEAN, STD, T = 0.1, 0.2, 20
WORLD = GaussianWorld.isotropic(MEAN, STD, (1, 2, 2))


def draw(n: int, seed: int) -> MemorySet:
    x = MEAN + STD * torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return MemorySet(to_uint8(x))


def decoder_by_quadrature(variance: Tensor) -> float:
    """E[-log P(bin)] in nats where mean - x_0 ~ N(0, variance) and the decoder's variance is that too."""
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    weight = torch.exp(-0.5 * z**2)
    half = BIN_WIDTH / 2 / variance.sqrt()

    def cdf(a: Tensor) -> Tensor:  # the public code's approximation, of which the decoder is made
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3)))

    inside = (cdf(z + half) - cdf(z - half)).clamp(min=1e-12)
    return float(-(weight * inside.log()).sum() / weight.sum())


def known_bound(process: Process) -> float:
    """Of the perfect denoiser with the true variance: the entropy, the end's divergence, and what the bins change."""
    variance = torch.tensor(STD**2, dtype=torch.float64)
    ab = process.alpha_bar[-1]
    end_variance = ab * variance + 1 - ab
    end = 0.5 * (ab * MEAN**2 + end_variance - 1 - end_variance.log())
    entropy = 0.5 * (2 * math.pi * math.e * variance).log()
    first = start_variance(process.alpha_bar, torch.tensor(1), variance)
    density = 0.5 * (2 * math.pi * math.e * first).log()
    return (float(entropy + end - density) + decoder_by_quadrature(first)) / math.log(2)


class Fixed(nn.Module):
    """The oracle's two heads without its loop over timesteps: the true variance at s = t - 1 from a table."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.mean = oracle(WORLD, process).network
        t = torch.arange(1, T + 1)
        self.table = reverse_variance(process.alpha_bar, t, t - 1, torch.tensor(STD**2, dtype=torch.float64)).log()

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        output = self.mean(x.double(), time, y)
        return torch.cat([output, self.table[time.round().long()].view(-1, 1, 1, 1).expand_as(output)], 1)


def perfect() -> Denoiser:
    process = Process(cosine(T))
    return Denoiser(Fixed(process), process, Epsilon(), Learned())


@pytest.mark.parametrize("bound", [Exact(None, None, False, 2000), Fast(None, 4, False, 200)], ids=["exact", "fast"])
def test_a_known_bound_lies_within_the_stated_error(bound: Exact | Fast) -> None:
    model = perfect()
    truth = known_bound(model.process)
    found = [measure(bound, model, draw(200, seed), seed) for seed in range(20)]
    z = torch.tensor([(b.value - truth) / b.standard_error for b in found])
    assert z.abs().max() < 3
    # Neither too small nor too large: z^2 summed over 20 is chi-squared, 8.3 to 37.6 in 98 of 100 cases.
    assert 8.3 < (z**2).sum() < 37.6


def test_the_estimators_error_is_what_separates_it_from_the_exact_bound() -> None:
    """For one set of images whose exact bound is not that of their kind; a network that is no oracle, so clipping acts."""
    model = mixer(Process(cosine(10)), Epsilon(), FixedLarge(), channels=1, dtype=torch.float32)
    images = pixels(30, (1, 2, 2))
    exact = torch.tensor([measure(Exact(None, None, True, 800), model, images, seed).value for seed in range(200, 240)])
    fast = [measure(Fast(None, 4, True, 40), model, images, seed) for seed in range(200)]
    values = torch.tensor([b.value for b in fast])
    errors = torch.tensor([b.estimator_error for b in fast])
    # Unbiased: the mean over 200 draws.
    spread = (values.var() / len(values) + exact.var() / len(exact)).sqrt()
    assert (values.mean() - exact.mean()).abs() < 3 * spread
    # The stated variance is the true one: 200 values tell a standard deviation to 5 %.
    assert (errors**2).mean().sqrt() / values.std() == pytest.approx(1, abs=0.15)
    # Of the standard error it is a part.
    assert (errors**2).mean() < (torch.tensor([b.standard_error for b in fast]) ** 2).mean()


# One number

BOUNDS = {
    "exact": lambda size, images=None: Exact(images, None, True, size),
    "strided": lambda size, images=None: Exact(images, 7, True, size),
    "fast": lambda size, images=None: Fast(images, 4, True, size),
}
each_bound = pytest.mark.parametrize("kind", BOUNDS)


def close(a: Bound, b: Bound) -> None:
    numbers = ("value", "standard_error", "prior", "decoder", *(["estimator_error"] if a.estimator_error else []))
    for name in numbers:
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-4), name


@each_bound
def test_the_batch_size_changes_nothing(kind: str) -> None:
    model, images = toy_denoiser(), pixels(5)
    one = measure(BOUNDS[kind](2), model, images)
    for size in (4, 500):
        close(measure(BOUNDS[kind](size), model, images), one)


@each_bound
def test_a_part_of_the_split_meets_the_noise_of_the_whole(kind: str) -> None:
    model, images = mixer(Process(cosine(40)), Epsilon(), FixedLarge(), channels=1, dtype=torch.float32), pixels(36)
    found = measure(BOUNDS[kind](16, 33), model, images)
    left_out = sorted(set(range(36)) - set(part(36, 33, 0)))
    elsewhere = images.images.clone()
    elsewhere[left_out] = 0  # of what is left out nothing depends
    close(found, measure(BOUNDS[kind](5, 33), model, MemorySet(elsewhere, images.labels)))
    assert found.protocol["n"] == 33
    assert found.protocol["images"] == "33 of 36, seed 0, test images of toys"
    every = measure(BOUNDS[kind](16, 1000), model, images)
    assert (every.protocol["n"], every.protocol["images"]) == (36, "all 36 test images of toys")


@pytest.mark.parametrize("kind", ["exact", "fast"])
def test_the_order_of_the_images_changes_the_number_within_its_error(kind: str) -> None:
    """A world's images, easy for its perfect denoiser, and then hard ones: the first 60 would be of one kind."""
    model = perfect()
    images = torch.cat([draw(300, 0).images, pixels(300, (1, 2, 2)).images])
    bound = {"exact": lambda n: Exact(n, None, True, 2000), "fast": lambda n: Fast(n, 4, True, 200)}[kind]
    truth = measure(bound(None), model, MemorySet(images)).value
    assert measure(bound(None), model, MemorySet(images[:60])).value < truth - 1
    for seed in range(20):
        order = torch.randperm(600, generator=torch.Generator().manual_seed(seed))
        found = [measure(bound(60), model, MemorySet(x), seed) for x in (images, images[order])]
        for b in found:
            assert abs(b.value - truth) < 3 * b.standard_error
        assert abs(found[0].value - found[1].value) < 3 * math.hypot(*(b.standard_error for b in found))


@each_bound
def test_the_number_depends_on_the_seed_and_on_no_other_state(kind: str) -> None:
    model, images = toy_denoiser(), pixels(6)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one = measure(BOUNDS[kind](8), model, images)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert measure(BOUNDS[kind](8), model, images).value == one.value
    assert measure(BOUNDS[kind](8), model, images, seed=1).value != one.value


def test_an_images_random_numbers_are_its_own() -> None:
    many, few = ImageNoise(3, range(6)), ImageNoise(3, [4, 2])
    for _ in range(2):
        x, u = torch.zeros(6, 1, 2, 2), many.uniform()
        assert torch.equal(u[[4, 2]], few.uniform())
        assert torch.equal(many(x)[[4, 2]], few(x[:2]))
        assert u.dtype == torch.float64
        assert u.unique().numel() == 6
        assert 0 <= u.min() <= u.max() < 1


@each_bound
def test_the_labels_reach_a_conditional_network_alone(kind: str) -> None:
    model, images = toy_denoiser(num_classes=3), pixels(6)
    given = measure(BOUNDS[kind](8), model, images, conditional=True)
    other = measure(BOUNDS[kind](8), model, MemorySet(images.images, (images.labels + 1) % 3), conditional=True)
    assert given.value != other.value
    assert given.protocol["labels"] == "given to the network"
    assert measure(BOUNDS[kind](8), toy_denoiser(), images).protocol["labels"] is None


@each_bound
@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_network_comes_back_as_it_was(kind: str, training: bool) -> None:
    model, images = toy_denoiser(), pixels(4)
    wanted = measure(BOUNDS[kind](8), model, images).value
    model.network = nn.Sequential(nn.Dropout(0.5), model.network)
    model.network.forward = lambda x, time, y: model.network[1](model.network[0](x), time, y)  # type: ignore[method-assign]
    model.network.train(training)
    assert measure(BOUNDS[kind](8), model, images).value == wanted
    assert model.network.training == model.network[0].training == training


# What is written

FAMILY = ("", "_standard_error", "_estimator_error", "_prior", "_decoder", "_images", "_protocol", "_terms")


def test_number_and_protocol_are_always_of_one_evaluation() -> None:
    """Whatever is written after whatever: all keys of a family are replaced together."""
    model, images = toy_denoiser(), pixels(5)
    exact, fast = (metrics(measure(BOUNDS[k](8), model, images), **ABOUT) for k in ("exact", "fast"))
    assert set(exact) == set(fast) == {f"test/bits_per_dim{name}" for name in FAMILY}
    assert exact["test/bits_per_dim_estimator_error"] is None
    assert fast["test/bits_per_dim_estimator_error"] > 0
    assert fast["test/bits_per_dim_terms"] is None
    protocol = fast["test/bits_per_dim_protocol"]
    assert protocol["bound"] == "fast, 4 network calls per image"
    assert ABOUT.items() <= protocol.items()
    assert exact["test/bits_per_dim_protocol"]["bound"] == "exact, every term"
    terms = exact["test/bits_per_dim_terms"]
    assert terms["t"] == list(range(1, 41))
    assert exact["test/bits_per_dim"] == pytest.approx(sum(terms["vlb"]) + exact["test/bits_per_dim_prior"], rel=1e-5)
    assert terms["vlb"][0] == pytest.approx(exact["test/bits_per_dim_decoder"], rel=1e-5)
    json.dumps([exact, fast], allow_nan=False)


def test_the_fast_estimate_costs_what_its_protocol_says() -> None:
    model, images = toy_denoiser(), pixels(37)
    rows = []
    model.network.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    measure(Fast(None, 4, True, 10), model, images)
    of_pilot = [r for r in rows if r == 32]
    assert sum(rows) - sum(of_pilot) == 37 * 4
    assert len(of_pilot) <= 41


def test_a_strided_chain_has_a_key_of_its_own() -> None:
    model, images = toy_denoiser(), pixels(5)
    strided, whole = (measure(Exact(None, steps, True, 64), model, images) for steps in (7, 40))
    assert strided.key == "test/bits_per_dim_7_steps"
    assert strided.protocol["bound"] == "of the strided chain of 7 steps"
    assert len(strided.terms.t) == 7
    assert whole == measure(Exact(None, None, True, 64), model, images)._replace(seconds=whole.seconds)
    assert whole.key == "test/bits_per_dim"


@each_bound
def test_one_image_has_no_standard_error(kind: str) -> None:
    bound = measure(BOUNDS[kind](8), toy_denoiser(), pixels(1))
    assert math.isnan(bound.standard_error)
    written = metrics(bound, **ABOUT)
    assert written[f"{bound.key}_standard_error"] is None
    json.dumps(written, allow_nan=False)


def test_the_sentence_names_both_errors() -> None:
    bound = Bound("test/bits_per_dim", 4.3912, 0.0301, 0.0099, 0.0, 0.0, None, {}, 0.0)
    assert sentence(bound) == "4.391 ± 0.030 (of it ± 0.010 the estimator)"
    assert sentence(bound._replace(estimator_error=None)) == "4.391 ± 0.030"


def test_misuse_is_answered_with_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"draws=5 is odd.*take 6"):
        Fast(None, 5, True, 8)
    with pytest.raises(ValueError, match="images=0 must be positive"):
        Fast(0, 4, True, 8)
    with pytest.raises(ValueError, match="pairs=0 must be positive"):
        Exact(None, None, True, 0)
    with pytest.raises(ValueError, match="steps=41 does not fit"):
        measure(Exact(None, 41, True, 8), toy_denoiser(), pixels(2))


# Pictures


@pytest.mark.parametrize("kind", ["exact", "strided"])
def test_the_rate_is_what_has_been_sent_when_x_t_is_known(kind: str) -> None:
    """Ho et al. 2020, algorithm 3: L_T for x_T, then a term for each x_{t-1}; with the decoder's term, the whole bound."""
    bound = measure(BOUNDS[kind](64), toy_denoiser(), pixels(5))
    rate = rates(bound.terms, bound.prior)
    assert len(rate) == len(bound.terms.t)
    assert rate[-1] == bound.prior
    assert rate[0] + bound.terms.vlb[0] == pytest.approx(bound.value, rel=1e-5)
    # From t[k + 1] to t[k]: the term of t[k + 1], whose KL is between distributions of x at t[k].
    for k in range(len(rate) - 1):
        assert rate[k] - rate[k + 1] == pytest.approx(bound.terms.vlb[k + 1], rel=1e-5, abs=1e-9)
    assert rate == sorted(rate, reverse=True)


def test_the_distortion_is_in_grey_levels() -> None:
    """An estimate that is off by ten grey levels everywhere."""
    off = 10 / 127.5
    assert distortions(Terms([1], [0.0], [off**2], [0.0])) == pytest.approx([10.0])


def test_pictures_are_drawn(tmp_path: Path) -> None:
    bound = measure(Exact(None, None, True, 64), toy_denoiser(), pixels(3))
    bound_terms(bound.terms, "terms", tmp_path / "terms.png")
    rate_distortion(bound.terms, bound.prior, "rate and distortion", tmp_path / "rate.png")
    for name in ("terms.png", "rate.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 1000
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
