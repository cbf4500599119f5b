"""Classes by number and by name: labels=cat, and what is refused."""

import pytest
from omegaconf import OmegaConf

from ddpm_lab.evaluation.generation import Samples
from ddpm_lab.samplers.ddim import DDIM
from ddpm_lab.steering.editing import Edit
from ddpm_lab.steering.plain import Classes
from ddpm_lab.tasks.guiding import autoguidance, chosen_labels, unguided
from tests.evaluation.toy import toy_denoiser
from tests.steering.test_tasks import CPU, SHAPE, job

NAMES = ["bird", "cat", "dog", "none", "2"]


def steered(names: list[str] | None = NAMES, null_label: float = 0.1):
    data = {"name": "pets", "num_classes": len(NAMES), **({} if names is None else {"class_names": names})}
    run = OmegaConf.create({"data": data, "class_conditional": True, "label_dropout": null_label})
    return unguided(run, toy_denoiser(6))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("cat", [1]),
        (OmegaConf.create(["cat", "dog", 0]), [1, 2, 0]),
        (1, [1]),
        ("2", [4]),
        (["none"], [3]),  # the class
        ("none", [5]),  # no class
        (None, [0, 1, 2, 3, 4]),
        ("balanced", [0, 1, 2, 3, 4]),
    ],
)
def test_a_class_is_its_number_or_its_name(given: object, expected: list[int]) -> None:
    assert chosen_labels(given, steered()) == expected


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            "cta",
            r"labels=cta is none of .* classes 0 to 4; did you mean cat\? .* their names: bird, cat, dog, none, 2$",
        ),
        (["dog", "zebra"], r"labels=zebra is none of .* 0 to 4; take one"),
        (2, r"labels=2 is the number of the class dog and the name of another: .*'labels=\"dog\"'"),
        (5, "labels=5 is none of"),
        (True, "labels=True is none of"),
    ],
)
def test_a_class_that_there_is_not_is_refused_and_the_nearest_named(given: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        chosen_labels(given, steered())


def test_a_run_without_names_goes_by_numbers() -> None:
    assert chosen_labels([4, 2], steered(None)) == [4, 2]
    with pytest.raises(ValueError, match=r"labels=cat is none of this model's classes 0 to 4; take one, a list"):
        chosen_labels("cat", steered(None))


def test_captions_and_protocols_carry_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[list[str]] = []
    for module in ("plain", "editing"):
        monkeypatch.setattr(
            f"ddpm_lab.steering.{module}.sheet", lambda images, caption, columns, rows: said.append(rows)
        )
    samples = Samples(toy_denoiser(3), DDIM(2), SHAPE, 0, [1, 2], CPU, class_names=("bird", "cat"))
    assert samples.protocol()["labels"] == "in turn: 1 (cat), 2"
    asked = job(n=2, null_label=2, labels_given=True)
    object.__setattr__(asked, "samples", samples)
    Classes()(asked)
    Edit([0.0])(asked)
    assert said == [["cat", "no class"], ["to cat", "to no class"]]
    assert samples.class_name(2) == "class 2"


def test_a_weak_model_of_classes_in_another_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"name": "pets", "num_classes": 2, "channels": 1, "image_size": 8}
    runs = [
        OmegaConf.create({"data": {**data, "class_names": names}, "class_conditional": True, "label_dropout": 0.0})
        for names in (["cat", "dog"], ["dog", "cat"])
    ]
    monkeypatch.setattr("ddpm_lab.tasks.guiding.load_run", lambda run, weights: (runs[1], toy_denoiser(2), 1))
    with pytest.raises(ValueError, match=r"guidance\.weak=other calls class 0 dog and the model cat"):
        autoguidance(runs[0], toy_denoiser(2), weak="other", weights="ema", scale=2, interval=None, rescale=0)
