"""DINOv2 (Oquab et al. 2023) as torch-fidelity feeds it: features that agree with people better than Inception's."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_dinov2 import MODEL_METADATA, FeatureExtractorDinoV2

from ddpm_lab.errors import UserError
from ddpm_lab.metrics.features import Extractor, Features, Images, WeightsNotFoundError, as_rgb
from ddpm_lab.metrics.weights import read_weights


class DinoV2(Extractor):
    """pool [B, D]: the class token; neither logits nor spatial.

    model: torch-fidelity's name. repository: a copy of facebookresearch/dinov2. weights: the model's checkpoint.
    Raises ValueError if the checkpoint is damaged or another model's.
    """

    resize = "TensorFlow's bilinear to 224x224, inside the network"

    def __init__(self, model: str, repository: Path, weights: Path) -> None:
        super().__init__()
        self.name = model
        state, self.sha256 = read_weights(weights)
        os.environ["XFORMERS_DISABLED"] = "1"  # as torch-fidelity does: one kind of attention on every machine
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="xFormers is")
            vit = torch.hub.load(str(repository), MODEL_METADATA[model], source="local", pretrained=False)
        try:
            vit.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(f"{weights} holds the weights of another network than {model}") from error
        self.network = _Offline(model, vit).requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        """The class token after the last norm."""
        (pool,) = self.network(as_rgb(images))
        return Features(pool, None, None)


class _Offline(FeatureExtractorDinoV2):
    """torch-fidelity's way from bytes to features, around a network at hand: its own constructor asks GitHub for one."""

    def __init__(self, name: str, vit: nn.Module) -> None:
        FeatureExtractorBase.__init__(self, name, ["dinov2"])
        self.feature_extractor_internal_dtype = torch.float32
        self.model = vit.float()


def dinov2(
    train: Images,
    *,
    name: str,
    num_classes: int | None,
    cache: Path,
    device: torch.device,
    model: str,
) -> Extractor:
    """DINOv2 from torch.hub's folder; of the data set nothing is needed. A FeatureSource.

    model: dinov2-vit-s-14, -b-14, -l-14 or -g-14.
    Raises WeightsNotFoundError unless that folder holds the repository and the checkpoint (nothing is downloaded), ValueError
    for another model or a file that is not what it should be.
    """
    if model not in MODEL_METADATA:
        raise UserError(f"features.model={model} is not one of {', '.join(MODEL_METADATA)}")
    hub = Path(torch.hub.get_dir())
    repository = hub / "facebookresearch_dinov2_main"
    weights = hub / "checkpoints" / f"{MODEL_METADATA[model]}_pretrain.pth"
    missing = [str(path) for path in (repository / "hubconf.py", weights) if not path.is_file()]
    if missing:
        raise WeightsNotFoundError(
            f"features=dinov2 found no file {' and no file '.join(missing)}: on a machine with network run "
            f"python -c \"import torch; torch.hub.load('facebookresearch/dinov2', '{MODEL_METADATA[model]}')\" and copy its "
            f"torch.hub folder to {hub}, or set TORCH_HOME; features=classifier needs no download"
        )
    return DinoV2(model, repository, weights).to(device)
