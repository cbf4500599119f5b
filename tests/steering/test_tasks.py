"""What every task of sample.py gives, by a small network without meaning, or by the perfect one of a Gaussian world."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from ddpm_lab.diffusion.guidance import Inpainted
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.schedules import cosine
from ddpm_lab.evaluation.generation import Samples
from ddpm_lab.pixels import to_uint8
from ddpm_lab.samplers.ancestral import Ancestral
from ddpm_lab.samplers.ddim import DDIM
from ddpm_lab.samplers.sampler import Sampler
from ddpm_lab.seeds import ImageNoise
from ddpm_lab.steering.editing import Consistency, Edit, Invert, Vary
from ddpm_lab.steering.inpainting import Inpaint
from ddpm_lab.steering.interpolation import Interpolate, InterpolateLatents, captions, fractions
from ddpm_lab.steering.job import Job, Task
from ddpm_lab.steering.plain import Classes, Generate, Progressive
from tests.evaluation.toy import toy_denoiser
from tests.samplers.strange import Encoder, Own, Past, Silent
from tests.worlds import GaussianWorld, oracle

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)


def sources(n: int) -> tuple[Tensor, Tensor]:
    images = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return images, torch.arange(n) % 3


def job(
    n: int = 3,
    sampler: Sampler | None = None,
    chosen: Sequence[int] | None = range(3),
    batch_size: int = 4,
    **options: Any,
) -> Job:
    denoiser = toy_denoiser(None if chosen is None else 3)
    samples = Samples(denoiser, DDIM(5) if sampler is None else sampler, SHAPE, 0, chosen, CPU)
    given = {"sources": sources, "labels_given": False, "null_label": None, "about": "toy", **options}
    return Job(samples, n, batch_size, **given)


TASKS: list[tuple[Task, int, dict[str, Any]]] = [
    (Generate(), 3, {}),
    (Classes(), 9, {}),
    (Progressive(4), 12, {}),
    (Inpaint("half", 2, 2, 2), 6, {}),
    (Interpolate(None, 3), 3 * 6 * 5, {"labels_given": True}),
    (Interpolate(20, 4), 3 * 6, {"labels_given": True}),
    (Interpolate([0, 40], 2), 3 * 2 * 4, {"chosen": None}),
    (InterpolateLatents(True, 3), 3 * 5, {"chosen": None}),
    (InterpolateLatents(False, 3), 3 * 3, {}),
    (Edit([0.0, 0.5, 1.0]), 3 * 4, {}),
    (Invert([2, 5]), 3 * 3, {}),
    (Consistency([2, 5]), 3 * 2, {}),
    (Vary([40, 20], 2), 3 * 2 * 3, {"sampler": Ancestral(5)}),
    (Vary(20, 2), 3 * 3, {"sampler": Ancestral(5)}),
    (Vary(None, 2), 3 * 4 * 3, {"sampler": DDIM(5, eta=1.0)}),
]


@pytest.mark.parametrize(("task", "count", "options"), TASKS, ids=lambda part: getattr(part, "name", ""))
def test_images_labels_and_picture(task: Task, count: int, options: dict[str, Any]) -> None:
    done = task(job(**options))
    assert done.images.shape == (count, *SHAPE)
    assert torch.isfinite(done.images).all()
    assert (done.labels is None) == ("chosen" in options)
    assert done.labels is None or done.labels.shape == (count,)
    assert done.sheet.width > 60
    assert done.told


def test_what_is_told_of_one_image_and_of_fractions() -> None:
    for task, told in (
        (Generate(), "1 image"),
        (Classes(), "1 image of each of 3 classes"),
        (Edit([0.5]), "1 image at 1 strength; difference"),
        (Invert([5]), "1 image; reconstruction"),
        (Consistency([2, 5]), "1 latent; difference"),
        (Inpaint("half", 1, 2, 2), "1 filling of 1 image; known"),
        (InterpolateLatents(False, 3), "1 pair, 3 images"),
    ):
        assert task(job(n=1)).told.startswith(told)
    assert captions(fractions(9)) == ["0", "0.125", "0.25", "0.375", "0.5", "0.625", "0.75", "0.875", "1"]


def test_images_with_alpha_pass_every_task() -> None:
    shape = (4, *SHAPE[1:])
    images = torch.rand(6, *shape, generator=torch.Generator().manual_seed(3)) * 2 - 1
    for task, count, options in TASKS:
        sampler, chosen = options.get("sampler", DDIM(5)), options.get("chosen", range(3))
        samples = Samples(toy_denoiser(3 if chosen else None, channels=4), sampler, shape, 0, chosen, CPU)
        done = task(Job(samples, 3, 64, lambda n: (images[:n], None), True, None, "toy"))
        assert done.images.shape == (count, *shape)
        assert done.sheet.mode == "RGB"


@pytest.mark.parametrize(("task", "count", "options"), TASKS, ids=lambda part: getattr(part, "name", ""))
def test_the_size_of_a_batch_changes_nothing(task: Task, count: int, options: dict[str, Any]) -> None:
    whole, one_by_one = task(job(batch_size=64, **options)), task(job(batch_size=1, **options))
    torch.testing.assert_close(whole.images, one_by_one.images, rtol=1e-3, atol=1e-3)


def test_generated_images_are_those_that_are_judged() -> None:
    plain = job(n=5, sampler=Ancestral(5))
    found = to_uint8(Generate()(plain).images).int()
    assert (found - plain.samples([0, 1, 2, 3, 4]).int()).abs().max() <= 1


def test_classes_are_rows_and_share_their_noise() -> None:
    done = Classes()(job(n=2, chosen=[2, 0]))
    assert done.labels is not None
    assert done.labels.tolist() == [2, 2, 0, 0]
    alike = Classes()(job(n=2, chosen=[2]))
    torch.testing.assert_close(done.images[:2], alike.images, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="needs a model with classes"):
        Classes()(job(chosen=None))


@pytest.mark.parametrize("sampler", [DDIM(5), Ancestral(5)])
@pytest.mark.parametrize("resamples", [1, 3])
def test_known_pixels_come_back_exactly(sampler: Sampler, resamples: int) -> None:
    done = Inpaint("random", 2, 2, resamples)(job(sampler=sampler))
    images, _ = sources(3)
    mask = done.arrays["mask"]
    assert torch.equal(done.images.view(3, 2, *SHAPE)[..., mask], images[:, None].expand(-1, 2, -1, -1, -1)[..., mask])
    assert done.numbers["known_pixels_equal"]
    assert not torch.equal(done.images[0], done.images[1])


def test_depth_0_mixes_pixels_and_depth_t_keeps_nothing() -> None:
    images, _ = sources(2)
    done = Interpolate([0, 40], 3)(job(n=1, chosen=None, sampler=DDIM(5)))
    rows = done.images.view(2, 5, *SHAPE)
    torch.testing.assert_close(rows[0, 1:4], torch.stack([images[0], images.mean(0), images[1]]))
    torch.testing.assert_close(rows[:, 0], images[:1].expand(2, -1, -1, -1))
    torch.testing.assert_close(rows[1, 1], rows[1, 3], atol=0.05, rtol=0)  # alpha_bar_T is nearly 0


def test_mixtures_have_as_much_noise_as_any_x_t() -> None:
    """Both images share their noise: of two equal images every mixture is the same."""
    same = job(n=1, chosen=None, sources=lambda n: (sources(1)[0].expand(n, -1, -1, -1), None))
    done = Interpolate([20], 5)(same)
    torch.testing.assert_close(done.images[1:6], done.images[1:2].expand(5, -1, -1, -1))


def test_at_strength_0_the_image_stays_and_errors_are_of_grey_levels() -> None:
    done = Edit([0.0, 1.0])(job())
    images, _ = sources(3)
    rows = done.images.view(3, 3, *SHAPE)
    assert torch.equal(rows[:, 1], images)
    assert done.numbers["t"] == [0, 40]
    expected = (127.5 * (rows[:, 2].clamp(-1, 1) - images)).square().mean((1, 2, 3)).sqrt().mean()
    assert done.numbers["rmse"] == [0.0, pytest.approx(expected.item(), rel=1e-4)]


def test_a_walk_is_the_samplers_own_whatever_its_class() -> None:
    """Encoder walks as DDIM and is none; the tasks take it, and at every number of steps itself."""
    for task in (Invert([2, 5]), Consistency([2, 5]), InterpolateLatents(True, 3)):
        theirs, ours = (task(job(sampler=sampler, labels_given=True)).images for sampler in (Encoder(5), DDIM(5)))
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
    coarse = DDIM(5)
    coarse.times = lambda process: [1, 13, 40]  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="DDIM takes 3 where 2 are asked for"):
        Consistency([2, 5])(job(sampler=coarse))


@pytest.mark.parametrize("sampler", [Past(5), Own(5)], ids=["past", "own"])
def test_plain_replacement_walks_as_the_sampler_does(sampler: Sampler) -> None:
    images, labels = sources(1)
    done = Inpaint("half", 1, 2, 1)(job(n=1, sampler=sampler, labels_given=True))
    assert done.numbers["known_pixels_equal"]
    j = job(n=1)
    known = Inpainted(j.samples.denoiser, images, done.arrays["mask"][None, None])
    noise = ImageNoise(0, [0])
    torch.testing.assert_close(done.images, sampler(known, noise.normal(*SHAPE), labels, noise))


def test_a_start_far_from_noise_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    short = DDIM(spacing=[2, 1])
    for task in (Generate(), Progressive(2), Inpaint("half", 2, 2, 1)):
        task(job(sampler=short, batch_size=1))
        assert capsys.readouterr().out.count("warning: the walk of DDIM starts at t = 21 of T = 40") == 1
    for task in (Generate(), Edit([0.0, 0.5])):  # an edit sets out from the image, wherever that is
        task(job(sampler=DDIM(5) if isinstance(task, Generate) else short))
    Invert([3])(job(sampler=DDIM(spacing="quadratic")))
    assert not capsys.readouterr().out


def gaussian_job(n: int, sampler: Sampler) -> Job:
    """The perfect model of independent pixels, so that a walk's own error is all there is."""
    world = GaussianWorld.isotropic(0.1, 0.3, SHAPE)
    samples = Samples(oracle(world, Process(cosine(200))), sampler, SHAPE, 0, None, CPU)

    def images(count: int) -> tuple[Tensor, None]:
        noise = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))
        return (0.1 + 0.3 * noise).clamp(-1, 1), None

    return Job(samples, n, 8, sources=images, labels_given=False, null_label=None, about="gaussian")


def test_more_steps_reconstruct_better_and_agree_better() -> None:
    for task in (Invert([5, 10, 20, 50]), Consistency([5, 10, 20, 50])):
        errors = task(gaussian_job(4, DDIM(10))).numbers["rmse"]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 0.3 * errors[0]


def test_images_part_late_are_alike() -> None:
    done = Vary([200, 100, 50, 10], 6)(gaussian_job(4, Ancestral(40)))
    spreads = done.numbers["std"]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] == pytest.approx(0.3 * 127.5, rel=0.2)  # from x_T all is new; few steps spread less


def test_labels_of_sources_of_the_command_line_and_none() -> None:
    _, of_sources = sources(3)
    assert job().labels_of(3, of_sources).tolist() == [0, 1, 2]
    assert job(chosen=[2], labels_given=True).labels_of(3, of_sources).tolist() == [2, 2, 2]
    assert job(null_label=7).labels_of(3, None).tolist() == [7, 7, 7]
    assert job(chosen=None).labels_of(3, of_sources) is None
    with pytest.raises(ValueError, match="add labels=…"):
        job().labels_of(3, None)


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (lambda j: Inpaint("half", 0, 1, 1)(j), {}, "task.fillings=0 must be a whole number of at least 1"),
    (lambda j: Inpaint("half", 1, 0, 1)(j), {}, "task.jump_length=0 must be"),
    (lambda j: Inpaint("half", 1, 5, 2)(j), {}, "a walk of 5 steps has no room for jumps of jump_length=5"),
    (lambda j: Inpaint("half", "many", 5, 2)(j), {}, "task.fillings=many must be"),
    (lambda j: Interpolate([41], 3)(j), {"chosen": None}, "must be one of the numbers from 0 to 40"),
    (lambda j: Interpolate(["deep"], 3)(j), {"chosen": None}, "must be one of the numbers"),
    (lambda j: Interpolate([], 3)(j), {"chosen": None}, "must be one of the numbers from"),
    (lambda j: Interpolate([1], 1)(j), {"chosen": None}, "task.columns=1 must be a whole number of at least 2"),
    (lambda j: InterpolateLatents(True, 3)(j), {"sampler": Ancestral(5)}, "sampler=ddim sampler.eta=0"),
    (lambda j: InterpolateLatents(True, 3)(j), {"sampler": DDIM(5, eta=0.5)}, "sampler=ddim sampler.eta=0"),
    (lambda j: Edit([1.2])(j), {}, "must be one of the numbers from 0 to 1"),
    (lambda j: Edit([])(j), {}, "must be one of the numbers from 0 to 1"),
    (lambda j: Invert([41])(j), {}, "whole numbers from 2 to 40"),
    (lambda j: Invert([1, 10])(j), {}, "whole numbers from 2"),
    (lambda j: Invert([5])(j), {"sampler": Ancestral(5)}, "sampler=ddim sampler.eta=0"),
    (lambda j: Consistency([2])(j), {"sampler": DDIM(spacing=[2, 3])}, "is for one"),
    (lambda j: Consistency([])(j), {}, "whole numbers from 2 to"),
    (lambda j: Vary(None, 2)(j), {}, r"draws noise, and DDIM with steps=5, .*eta=0\.0 draws none"),
    (lambda j: Vary(None, 2)(j), {"sampler": Silent(5)}, "draws noise, and Silent with steps=5, .* draws none"),
    (lambda j: Vary(None, 2)(j), {"sampler": Ancestral(1)}, "draws none: .* in more steps than one"),
    (lambda j: Vary([30], 2)(j), {"sampler": Own(5)}, "the walk of Own never stood at t=30"),
    (lambda j: Edit([0.5])(j), {"sampler": Own(5)}, "Own was to set out from t=21 and came to t=37"),
    (lambda j: Invert([5])(j), {"sampler": Silent(5)}, "task=invert encodes images, and Silent has no `invert`"),
    (
        lambda j: Consistency([5])(j),
        {"sampler": Own(5)},
        "task=consistency needs a walk without noise, and Own draws some",
    ),
    (
        lambda j: Inpaint("half", 1, 2, 2)(j),
        {"sampler": Own(5)},
        "Own has a `walk` of its own: take .*task.resamples=1",
    ),
    (lambda j: Vary([0], 2)(j), {"sampler": Ancestral(5)}, "numbers from 1 to 40"),
    (lambda j: Vary(None, 1)(j), {"sampler": Ancestral(5)}, "task.variations=1 must be"),
    (lambda j: Progressive(1)(j), {}, "task.columns=1 must be"),
]


@pytest.mark.parametrize(("call", "options", "sentence"), REFUSED, ids=[sentence[:30] for *_, sentence in REFUSED])
def test_what_cannot_be_is_refused(call: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call(job(**options))
