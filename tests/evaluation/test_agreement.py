"""The whole pass against torch_fidelity.calculate_metrics: the same images through the same network, to 1e-4."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch_fidelity
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from ddpm_lab.data.digits import digits
from ddpm_lab.evaluation.collect import collect
from ddpm_lab.evaluation.generation import judge
from ddpm_lab.metrics.classifier import classifier
from ddpm_lab.metrics.features import Extractor
from ddpm_lab.metrics.inception import inception
from ddpm_lab.metrics.scores import FID, KID, InceptionScore, PrecisionRecall
from tests.metrics.test_inception import save_random_weights

CPU = torch.device("cpu")
METRICS = {"fid": FID(), "is": InceptionScore(), "kid": KID(), "precision_recall": PrecisionRecall()}


class Pictures(Dataset[Tensor]):
    def __init__(self, images: Tensor) -> None:
        self.images = images.expand(-1, 3, -1, -1).contiguous()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, k: int) -> Tensor:
        return self.images[k]


def ours(extractor: Extractor, one: Tensor, other: Tensor) -> dict[str, float]:
    reference = collect(lambda k: other[k], len(other), 50, extractor, CPU, "reference").accumulator.finish()
    found = judge(lambda k: one[k], len(one), extractor, reference, METRICS, batch_size=50, device=CPU)
    return {score.name: score.value for score in found.scores}


def theirs(one: Tensor, other: Tensor, **options: Any) -> dict[str, float]:
    found = torch_fidelity.calculate_metrics(
        input1=Pictures(one),
        input2=Pictures(other),
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        cuda=False,
        batch_size=50,
        kid_subset_size=min(1000, len(one), len(other)),
        verbose=False,
        cache=False,
        save_cpu_ram=True,
        **options,
    )
    names = {"frechet_inception_distance": "fid", "inception_score_mean": "is", "kernel_inception_distance_mean": "kid"}
    return {names.get(name, name): value for name, value in found.items()}


def assert_agreement(mine: dict[str, float], reference: dict[str, float]) -> None:
    assert mine.keys() == {"fid", "is", "kid", "precision", "recall"}
    for name, value in mine.items():
        assert value == pytest.approx(reference[name], rel=1e-4), name


def test_with_inception(tmp_path: Path) -> None:
    weights = save_random_weights(tmp_path / "weights.pth")
    extractor = inception(
        digits(split="train"), name="", num_classes=None, cache=tmp_path, device=CPU, weights=str(weights), sha256=None
    )
    one, other = digits(split="train").images[:12], 255 - digits(split="test").images[:12]
    options = {"feature_extractor": "inception-v3-compat", "feature_extractor_weights_path": str(weights)}
    assert_agreement(ours(extractor, one, other), theirs(one, other, **options))


def test_with_the_classifier_on_2000_images(tmp_path: Path) -> None:
    train = digits(split="train")
    options = {"steps": 40, "batch_size": 128, "width": 16, "learning_rate": 0.01, "seed": 0}
    extractor = classifier(train, name="digits", num_classes=10, cache=tmp_path, device=CPU, **options)

    class Registered(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            found = extractor(x)
            return tuple({"pool": found.pool, "logits": found.logits}[name] for name in self.features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("pool", "logits")

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "pool"

    torch_fidelity.register_feature_extractor("classifier-of-digits", Registered)
    generator = torch.Generator().manual_seed(0)
    shaken = train.images[torch.randint(len(train), (2000,), generator=generator)].float()
    one = (shaken + 40 * torch.randn(shaken.shape, generator=generator)).clamp(0, 255).to(torch.uint8)
    assert_agreement(
        ours(extractor, one, train.images), theirs(one, train.images, feature_extractor="classifier-of-digits")
    )
