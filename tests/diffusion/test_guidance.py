"""Guidance where every class's score is known, and around every kind of denoiser."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from ddpm_lab.diffusion.classifier import Classifier, CrossEntropy
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.guidance import Autoguided, ClassifierFree, ClassifierGuided, Guided, Inpainted, drop_labels
from ddpm_lab.diffusion.predictions import Epsilon, Prediction, Start
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import cosine, linear
from ddpm_lab.diffusion.variances import FixedLarge, FixedSmall, LearnedRange, Variance
from ddpm_lab.samplers.ancestral import Ancestral
from ddpm_lab.samplers.ddim import DDIM
from ddpm_lab.samplers.sampler import Sampler
from tests.mixtures import MixtureOracle, MixtureWorld, mixture_denoiser
from tests.worlds import PREDICTIONS, VARIANCES, Mixer, full, mixer, name, randn

WORLD = MixtureWorld.three_classes()
FINE = Process(cosine(200))
DRAWS = 6000
PICKED = 1  # the class that is asked for
NULL = 3


def log_prob(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """log p(y | x_t) of the world."""
    joint = WORLD.log_joint(x.flatten(1), FINE.alpha_bar[t])
    return joint.log_softmax(1).gather(1, y[:, None])[:, 0]


def law_of_walk(denoiser: Denoiser, sampler: Sampler) -> tuple[Tensor, Tensor]:
    """Mean and covariance of images drawn for PICKED."""
    torch.manual_seed(0)
    x = torch.randn(DRAWS, 1, 1, 2, dtype=torch.float64)
    images = sampler(denoiser, x, full(DRAWS, PICKED)).flatten(1)
    return images.mean(0), images.T.cov()


def check(denoiser: Denoiser, sampler: Sampler, mean: Tensor, covariance: Tensor, bias: float = 0.01) -> None:
    """Within four standard errors, and what a walk of 200 steps errs by."""
    found_mean, found = law_of_walk(denoiser, sampler)
    error = (covariance.diagonal() / DRAWS).sqrt()
    assert ((found_mean - mean).abs() <= 4 * error + bias).all(), (found_mean, mean)
    spread = (covariance.diagonal()[:, None] * covariance.diagonal() * 2 / DRAWS).sqrt()
    assert ((found - covariance).abs() <= 4 * spread + bias).all(), (found, covariance)


SAMPLERS = [Ancestral(clip=False), DDIM(clip=False)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_without_guidance_the_walk_has_the_law_of_the_class(sampler: Sampler) -> None:
    check(mixture_denoiser(WORLD, FINE), sampler, WORLD.means[PICKED], WORLD.covariances[PICKED])


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_classifier_free_at_0_is_the_class_and_at_minus_1_all_classes(sampler: Sampler) -> None:
    inner = mixture_denoiser(WORLD, FINE)
    check(ClassifierFree(inner, NULL, 0.0), sampler, WORLD.means[PICKED], WORLD.covariances[PICKED])
    check(ClassifierFree(inner, NULL, -1.0), sampler, WORLD.mean, WORLD.covariance)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_an_unconditional_model_and_a_classifier_at_1_are_the_class(sampler: Sampler) -> None:
    guided = ClassifierGuided(mixture_denoiser(WORLD, FINE), log_prob, 1.0, labels=lambda y: None)
    check(guided, sampler, WORLD.means[PICKED], WORLD.covariances[PICKED])


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_a_classifier_at_0_is_all_classes(sampler: Sampler) -> None:
    guided = ClassifierGuided(mixture_denoiser(WORLD, FINE), log_prob, 0.0, labels=lambda y: None)
    check(guided, sampler, WORLD.mean, WORLD.covariance)


def test_in_almost_pure_noise_a_classifier_is_not_asked() -> None:
    inner, x, t = mixture_denoiser(WORLD, FINE), randn(3, 1, 1, 2), torch.tensor([50, 190, 200])
    assert FINE.alpha_bar[[190, 200]].tolist() < [1e-2, 1e-5]
    guided = ClassifierGuided(inner, log_prob, 2.0, labels=lambda y: None, min_alpha_bar=1e-4)
    always = ClassifierGuided(inner, log_prob, 2.0, labels=lambda y: None)
    found, wanted = (d.gradient(x, t, full(3, 1)) for d in (guided, always))
    assert torch.equal(found[:2], wanted[:2])
    assert not found[2].any()
    assert wanted[2].any()
    with pytest.raises(ValueError, match=r"guidance\.min_alpha_bar=1"):
        ClassifierGuided(inner, log_prob, 2.0, min_alpha_bar=1)


def test_outputs_of_a_guidance_are_those_inside() -> None:
    inner, x, t, y = mixer(FINE, Epsilon(), FixedSmall()), randn(3, 2, 3, 3), full(3, 50), full(3, 1)
    free = ClassifierFree(inner, NULL, 2.0)
    known = Inpainted(free, KNOWN[:, :, :3, :3], torch.ones(1, 1, 3, 3, dtype=torch.bool))
    assert torch.equal(known.outputs(x, t, y)[0], free.outputs(x, t, y)[0])


def test_a_gradient_that_is_not_asked_for_does_no_harm() -> None:
    inner, x = mixture_denoiser(WORLD, FINE), randn(2, 1, 1, 2)

    def broken(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return (x * float("nan")).flatten(1).sum(1)

    for options in ({"scale": 0.0}, {"scale": 1.0, "min_alpha_bar": 0.99}):
        guided = ClassifierGuided(inner, broken, labels=lambda y: None, **options)
        assert not guided.gradient(x, torch.tensor([100, 150]), full(2, 0)).any()


def test_more_guidance_makes_the_class_likelier_and_narrower() -> None:
    found = []
    for w in (0.0, 1.0, 4.0):
        torch.manual_seed(0)
        x = torch.randn(1000, 1, 1, 2, dtype=torch.float64)
        images = DDIM(50, clip=False)(ClassifierFree(mixture_denoiser(WORLD, FINE), NULL, w), x, full(1000, PICKED))
        surely = log_prob(images, full(1000, 1), full(1000, PICKED)).mean().item()
        found.append((surely, -images.flatten(1).T.cov().det().item()))
    assert found == sorted(found)
    assert [narrow for _, narrow in found] == sorted(narrow for _, narrow in found)


def test_both_guidances_are_one_in_closed_form() -> None:
    """Equation 6 with the exact scores is the score of p(x_t | y) p(y | x_t)^w: classifier guidance of the conditional."""
    x, t, y = randn(5, 1, 1, 2), torch.tensor([1, 40, 100, 150, 190]), torch.tensor([0, 1, 2, 0, 1])
    inner = mixture_denoiser(WORLD, FINE)
    free = ClassifierFree(inner, NULL, 2.5).estimate(x, t, y, clip=False)
    by_classifier = ClassifierGuided(inner, log_prob, 2.5).estimate(x, t, y, clip=False)
    torch.testing.assert_close(free.noise, by_classifier.noise)
    torch.testing.assert_close(free.x_0, by_classifier.x_0)


# One network call, intervals, rescaling, autoguidance


def test_both_halves_are_one_call() -> None:
    inner = mixture_denoiser(WORLD, FINE)
    ClassifierFree(inner, NULL, 1.0).estimate(randn(4, 1, 1, 2), full(4, 9), full(4, 0), clip=False)
    assert isinstance(inner.network, MixtureOracle)
    assert inner.network.calls == 1


@pytest.mark.parametrize("make", [ClassifierFree, Autoguided])
def test_outside_its_interval_nothing_is_guided(make: type) -> None:
    inner = mixer(FINE, Epsilon(), FixedSmall())
    other = NULL if make is ClassifierFree else mixer(FINE, Epsilon(), FixedSmall(), seed=7)
    x, t, y = randn(4, 2, 3, 3), torch.tensor([9, 10, 20, 21]), full(4, 0)
    plain = inner.estimate(x, t, y, clip=False).output
    always = make(inner, other, 2.0).estimate(x, t, y, clip=False).output
    within = make(inner, other, 2.0, interval=(10, 20), rescale=0.5).estimate(x, t, y, clip=False).output
    rescaled = make(inner, other, 2.0, rescale=0.5).estimate(x, t, y, clip=False).output
    assert not torch.isclose(plain, always).all(dim=(1, 2, 3)).any()
    torch.testing.assert_close(within[[0, 3]], plain[[0, 3]])
    torch.testing.assert_close(within[[1, 2]], rescaled[[1, 2]])


def test_no_call_is_wasted_outside_the_interval() -> None:
    inner = mixture_denoiser(WORLD, FINE)
    seen = []
    inner.network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    guided = ClassifierFree(inner, NULL, 1.0, interval=(50, 100))
    DDIM(spacing=lambda T, steps: [20, 70, 150])(guided, randn(4, 1, 1, 2), full(4, 0))
    assert seen == [4, 8, 4]


@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_rescaling_takes_back_the_growth_of_the_deviation(phi: float) -> None:
    inner = mixer(FINE, Start(), FixedSmall())
    x, t, y = randn(4, 2, 3, 3), full(4, 50), full(4, 2)
    plain, far = (d.estimate(x, t, y, clip=False).output.flatten(1) for d in (inner, ClassifierFree(inner, NULL, 3.0)))
    found = ClassifierFree(inner, NULL, 3.0, rescale=phi).estimate(x, t, y, clip=False).output.flatten(1)
    torch.testing.assert_close(found.std(1), phi * plain.std(1) + (1 - phi) * far.std(1))
    torch.testing.assert_close(found / far, (found / far)[:, :1].expand_as(far))


def test_autoguidance_leaves_the_weaker_model_behind() -> None:
    strong, weak = (mixer(FINE, Epsilon(), LearnedRange(), seed=seed) for seed in (0, 5))
    x, t, y = randn(4, 2, 3, 3), full(4, 50), full(4, 2)
    a, b = (d.estimate(x, t, y, clip=False) for d in (strong, weak))
    found = Autoguided(strong, weak, 1.5).estimate(x, t, y, clip=False)
    torch.testing.assert_close(found.output, 2.5 * a.output - 1.5 * b.output)
    torch.testing.assert_close(found.raw_variance, a.raw_variance)


@pytest.mark.parametrize("w", [-3.0, -1.0, -0.25, 0.0, 3.0])
def test_learned_variances_lie_between_the_halves_and_are_never_extrapolated(w: float) -> None:
    inner = mixer(FINE, Epsilon(), LearnedRange())
    x, t = randn(4, 2, 3, 3), full(4, 50)
    conditional, null = (inner.estimate(x, t, full(4, label), clip=False).raw_variance for label in (2, NULL))
    found = ClassifierFree(inner, NULL, w).estimate(x, t, full(4, 2), clip=False).raw_variance
    torch.testing.assert_close(found, (1 + max(-1, min(w, 0))) * conditional - max(-1, min(w, 0)) * null)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
def test_mixing_outputs_mixes_the_noise_whatever_is_predicted(prediction: Prediction) -> None:
    inner = mixer(FINE, prediction, FixedSmall())
    x, t = randn(3, 2, 3, 3), torch.tensor([2, 50, 150])
    a, b = (inner.estimate(x, t, full(3, label), clip=False).noise for label in (1, NULL))
    found = ClassifierFree(inner, NULL, 2.0).estimate(x, t, full(3, 1), clip=False).noise
    torch.testing.assert_close(found, 3 * a - 2 * b)


# Every guidance around every denoiser, under every sampler


class Logits(nn.Module):
    """A classifier of no meaning."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return torch.stack([x.mean((1, 2, 3)), (x**2).mean((1, 2, 3)), torch.cos(time / 9).to(x.dtype)], dim=1)


def unguided(denoiser: Denoiser) -> Denoiser:
    return denoiser


def classifier_free(denoiser: Denoiser) -> Denoiser:
    return ClassifierFree(denoiser, 5, 1.5)


def classifier(denoiser: Denoiser) -> Denoiser:
    return ClassifierGuided(denoiser, Classifier(Logits(), denoiser.process).log_prob, 4.0)


def autoguidance(denoiser: Denoiser) -> Denoiser:
    return Autoguided(denoiser, denoiser.with_network(Mixer(2, denoiser.variance.heads, 9)), 1.5)


KNOWN = randn(3, 2, 4, 4, seed=8).clamp(-1, 1)
MASK = (torch.arange(16) % 2 == 0).view(1, 1, 4, 4)
GUIDANCES = [unguided, classifier_free, classifier, autoguidance]
PARTS = list(itertools.product(GUIDANCES, PREDICTIONS, VARIANCES))


@pytest.mark.parametrize("inpainted", [False, True], ids=["whole", "inpainted"])
@pytest.mark.parametrize("sampler", [Ancestral(7), DDIM(7), DDIM(7, eta=1.0)], ids=["ancestral", "ddim", "eta1"])
@pytest.mark.parametrize(("guidance", "prediction", "variance"), PARTS, ids=lambda part: name(part))
def test_every_combination_runs(
    guidance, prediction: Prediction, variance: Variance, sampler: Sampler, inpainted: bool
) -> None:
    process = Process(linear(40))
    inner = mixer(process, prediction, variance)
    denoiser = guidance(inner)
    if inpainted:
        denoiser = Inpainted(denoiser, KNOWN, MASK)
    torch.manual_seed(0)
    x, y = randn(3, 2, 4, 4), torch.tensor([0, 1, 2])
    image = sampler(denoiser, x, y)
    assert image.shape == x.shape
    assert torch.isfinite(image).all()
    t = full(3, 20)
    moved = denoiser.estimate(x, t, y, clip=False).x_0 - inner.estimate(x, t, y, clip=False).x_0
    assert bool(moved.any()) == (guidance is not unguided or inpainted)
    if inpainted:
        assert torch.equal(image[MASK.expand_as(image)], KNOWN[MASK.expand_as(image)])


def test_inpainting_is_the_known_image_at_every_step() -> None:
    """Ancestral: drawn anew from q(x_s | x_0). DDIM: the line from x_T to what is known."""
    process = Process(cosine(50))
    model = Inpainted(mixer(process, Epsilon(), FixedLarge()), KNOWN, MASK)
    x, t = randn(3, 2, 4, 4), full(3, 30)
    mask = MASK.expand_as(x)
    estimate = model.estimate(x, t, full(3, 0), clip=True)
    torch.testing.assert_close(estimate.x_0[mask], KNOWN[mask])
    p, q = model.step(estimate, x, t, full(3, 20)), process.marginal(KNOWN, full(3, 20))
    torch.testing.assert_close(p.mean[mask], q.mean[mask])
    torch.testing.assert_close(p.log_variance[mask], q.log_variance[mask])
    noise = (x - process.alpha_bar[30].sqrt() * KNOWN) / (1 - process.alpha_bar[30]).sqrt()
    torch.testing.assert_close(estimate.noise[mask], noise[mask])


# Errors and labels


def test_labels_are_dropped_with_their_probability() -> None:
    torch.manual_seed(0)
    y = torch.arange(10).repeat(2000)
    dropped = drop_labels(y, 0.2, 10)
    kept = dropped != 10
    assert abs((~kept).double().mean() - 0.2) < 4 * (0.2 * 0.8 / len(y)) ** 0.5
    assert torch.equal(dropped[kept], y[kept])
    assert torch.equal(drop_labels(y, 0.0, 10), y)


def test_an_image_loses_all_of_its_labels_or_none() -> None:
    for y in (torch.arange(12).view(4, 3), torch.arange(9).view(3, 3)):  # [B, L]
        torch.manual_seed(0)
        whole = drop_labels(y, 0.5, 99)
        torch.manual_seed(0)  # the same draws as for [B]
        dropped = drop_labels(y[:, 0], 0.5, 99) == 99
        assert dropped.any()
        assert not dropped.all()
        assert torch.equal(whole == 99, dropped[:, None].expand_as(y))
        assert torch.equal(whole[~dropped], y[~dropped])


class Clock(nn.Module):
    """The time that it is told, as an image."""

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        return time.view(-1, 1, 1, 1).expand_as(x).to(x)


def test_a_time_between_two_timesteps_reaches_the_network_as_it_is() -> None:
    inner = Denoiser(Clock(), FINE, Epsilon(), FixedSmall())
    x, y = randn(2, 1, 1, 2), full(2, 0)
    guidances = (
        ClassifierFree(inner, NULL, 1.0, (4, 20)),
        Autoguided(inner, inner, 1.0),
        ClassifierGuided(inner, log_prob, 0.0),
    )
    for guided in guidances:
        for t in (torch.tensor(7.5, dtype=torch.float64), torch.tensor([20.75, 3.5], dtype=torch.float64)):
            told = guided.outputs(x, t, y)[0][:, 0, 0, 0]
            assert torch.equal(told, (t.expand(2) - 1).double())
            assert torch.equal(guided.estimate(x, t, y, clip=False).output[:, 0, 0, 0], told)


@pytest.mark.parametrize("scale", ["abc", None, True, float("nan"), float("inf")])
@pytest.mark.parametrize("make", [ClassifierFree, ClassifierGuided, Autoguided])
def test_a_scale_that_is_no_number_is_refused(make: type, scale: object) -> None:
    inner = mixer(FINE, Epsilon(), FixedSmall())
    with pytest.raises(ValueError, match=f"guidance.scale={scale} is not a number"):
        make(inner, inner if make is Autoguided else log_prob, scale)


def test_what_makes_no_sense_is_refused() -> None:
    inner = mixer(FINE, Epsilon(), FixedSmall())
    x, t = randn(1, 2, 3, 3), full(1, 5)
    for interval in ((0, 5), (9, 4), (1, 201), (1, 2, 3)):
        with pytest.raises(ValueError, match=r"guidance\.interval"):
            ClassifierFree(inner, NULL, 1.0, interval=interval)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"guidance\.rescale=2"):
        ClassifierFree(inner, NULL, 1.0, rescale=2)
    for guided in (ClassifierFree(inner, NULL, 1.0), ClassifierGuided(inner, log_prob, 1.0)):
        with pytest.raises(ValueError, match="needs labels"):
            guided.estimate(x, t, clip=False)
    with pytest.raises(ValueError, match="goes inside ClassifierGuided"):
        ClassifierFree(ClassifierGuided(inner, log_prob, 1.0), NULL, 1.0)
    with pytest.raises(ValueError, match="another schedule"):
        Autoguided(inner, mixer(Process(linear(200)), Epsilon(), FixedSmall()), 1.0)
    with pytest.raises(ValueError, match="prediction Start and the strong one Epsilon"):
        Autoguided(inner, mixer(FINE, Start(), FixedSmall()), 1.0)
    with pytest.raises(ValueError, match="mask must be bool"):
        Inpainted(inner, KNOWN, torch.ones(1, 1, 5, 5, dtype=torch.bool))
    with pytest.raises(TypeError, match="exchange the network first"):
        Guided(inner).with_network(inner.network)


def test_cross_entropy_is_that_of_the_noisy_image() -> None:
    process = Process(cosine(50))
    model = Classifier(Logits(), process, time_scale=20.0)
    x_0, noise, t, y = randn(4, 1, 3, 3), randn(4, 1, 3, 3, seed=1), torch.tensor([0, 1, 30, 50]), full(4, 1)
    found = CrossEntropy()(model, x_0, t, y, noise)
    ab = process.alpha_bar[t].view(-1, 1, 1, 1)
    logits = Logits()(ab.sqrt() * x_0 + (1 - ab).sqrt() * noise, (t - 1).double() * 20)
    torch.testing.assert_close(found["loss"], nn.functional.cross_entropy(logits, y, reduction="none"))
    assert found["accuracy"].tolist() == (logits.argmax(1) == 1).double().tolist()
    torch.testing.assert_close(model.log_probs(x_0, t).exp().sum(1), torch.ones(4).double())
    with pytest.raises(ValueError, match="learns from labels"):
        CrossEntropy()(model, x_0, t)
