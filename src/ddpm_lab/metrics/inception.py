"""The Inception network of TensorFlow's 2015 graph, as torch-fidelity ports it: what published FIDs are measured with."""

from __future__ import annotations

import io
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from ddpm_lab.errors import UserError
from ddpm_lab.metrics.features import Extractor, Features, Images, WeightsNotFoundError, as_rgb
from ddpm_lab.metrics.weights import read_weights

FILE = URL_INCEPTION_V3.rsplit("/", 1)[1]
VARIABLE = "DDPM_LAB_INCEPTION"


class Inception(Extractor):
    """pool [B, 2048], logits [B, 1008] without bias, spatial [B, 17 * 17 * 7]: 7 channels of the graph's mixed_6/conv, H, W, C.

    weights: a file in torch-fidelity's format. sha256: how the hash of its bytes must begin; None takes any.
    Raises ValueError for another hash, a damaged file, anything but tensors, or the weights of another network.
    """

    name = "inception"
    resize = "TensorFlow's bilinear to 299x299, inside the network"

    def __init__(self, weights: Path, sha256: str | None = None) -> None:
        super().__init__()
        state, self.sha256 = read_weights(weights, sha256)
        # torch-fidelity unpickles whatever its file holds, so it is given a copy of the tensors read safely.
        copy = io.BytesIO()
        torch.save(state, copy)
        copy.seek(0)
        try:
            with torch.random.fork_rng(devices=[]):  # its layers draw weights before they are loaded
                self.network = FeatureExtractorInceptionV3(
                    self.name, ["2048", "logits_unbiased"], feature_extractor_weights_path=copy
                )
        except RuntimeError as error:
            raise UserError(
                f"{weights} holds the weights of another network: features=inception takes {URL_INCEPTION_V3}"
            ) from error
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        """All three from one pass."""
        seen: list[Tensor] = []

        # Nash et al. 2021's features as the public evaluator takes them; Mixed_6d is what the graph calls mixed_6.
        def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen.append(output[:, :7].permute(0, 2, 3, 1).flatten(1))

        hook = self.network.Mixed_6d.branch1x1.register_forward_hook(keep)
        try:
            pool, logits = self.network(as_rgb(images))
        finally:
            hook.remove()
        return Features(pool, logits, seen[0])


def inception(
    train: Images,
    *,
    name: str,
    num_classes: int | None,
    cache: Path,
    device: torch.device,
    weights: str | None = None,
    sha256: str | None = None,
) -> Extractor:
    """The Inception network; of the data set nothing is needed. A FeatureSource.

    weights: its file. If None, that named by DDPM_LAB_INCEPTION, else torch-fidelity's in torch.hub's folder, else in `cache`.
    sha256: how the hash of its bytes must begin; None takes any.
    Raises WeightsNotFoundError if there is no such file (nothing is downloaded), ValueError if it is not what it should be.
    """
    extractor = Inception(_find(weights, cache), sha256).to(device)
    # 1.5 times as fast on a CPU, and the same to 1e-6.
    return extractor.to(memory_format=torch.channels_last) if device.type == "cpu" else extractor


def _find(weights: str | None, cache: Path) -> Path:
    given = weights or os.environ.get(VARIABLE)
    places = [Path(given)] if given else [Path(torch.hub.get_dir()) / "checkpoints" / FILE, cache / FILE]
    for path in places:
        if path.is_file():
            return path
    raise WeightsNotFoundError(
        f"features=inception needs weights and found no file {' or '.join(map(str, places))}: download {URL_INCEPTION_V3} "
        f"(its SHA-256 begins with {FILE[-12:-4]}) to {cache / FILE}, or name its place by features.weights=… or the "
        f"environment variable {VARIABLE}; features=classifier needs no download"
    )
