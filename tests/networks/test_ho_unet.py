import math

import pytest
import torch
from torch import nn

from ddpm_lab.networks.blocks import Attention, ResidualBlock
from ddpm_lab.networks.embeddings import sine_first_embedding
from ddpm_lab.networks.ho_unet import HoUNet, RightBottomDownsample
from tests.networks.randomise import randomised, untouched

SWITCHES = {"model_channels": 64, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [8]}
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
T = torch.tensor([3, 700])


def unet(**switches):
    return HoUNet(8, 3, 3, **{**SWITCHES, **switches})


@pytest.mark.parametrize("classes", [None, 5])
def test_every_parameter_matters(classes):
    network = randomised(unet(num_classes=classes))
    out = network(X, T, None if classes is None else torch.tensor([0, 4]))
    assert out.shape == X.shape
    out.square().mean().backward()
    assert untouched(network) == []


def test_stride_two_pads_right_and_bottom_only():
    halving = RightBottomDownsample(1)
    nn.init.ones_(halving.conv.weight)
    nn.init.zeros_(halving.conv.bias)
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 0, 0] = 1  # the window that starts at a padded -1 would see it too; only the first one does
    assert halving(image, iter(())).tolist() == [[[[1, 0], [0, 0]]]]
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 2, 2] = 1  # the corner that all four windows share
    assert halving(image, iter(())).tolist() == [[[[1, 1], [1, 1]]]]


def test_the_papers_choices():
    network = unet()
    assert network.time.sinusoid is sine_first_embedding
    assert {m.eps for m in network.modules() if isinstance(m, nn.GroupNorm)} == {1e-6}
    assert not any(m.scale_shift_norm for m in network.modules() if isinstance(m, ResidualBlock))
    attending = [name for name, module in network.named_modules() if isinstance(module, Attention)]
    assert attending == [
        "down.0.blocks.0.attention",
        "middle.attention",
        "up.1.blocks.0.attention",
        "up.1.blocks.1.attention",
    ]


def uniform_bound(weight):
    """A uniform variable's bound, from its variance."""
    return math.sqrt(3) * weight.std().item()


def test_initial_variance_is_one_over_the_mean_fan():
    torch.manual_seed(0)
    network = unet(num_classes=5)
    fans = {
        network.down[1].blocks[0].residual.conv_1.weight: (64 * 9 + 128 * 9) / 2,
        network.time.mlp[0].weight: (64 + 256) / 2,
        network.middle.attention.qkv.weight: 128,  # three 128 x 128 matrices
        network.time.projection.weight[:64]: (256 + 64) / 2,
        network.time.projection.weight[64:192]: (256 + 128) / 2,
    }
    for weight, fan in fans.items():
        assert uniform_bound(weight) == pytest.approx(math.sqrt(3 / fan), rel=0.03)
        assert weight.abs().max() <= math.sqrt(3 / fan)
    for last in (network.conv_out, network.middle.attention.proj, network.middle.before.conv_2):
        assert 0 < last.weight.abs().max() < 1e-4
    assert network(X, T, torch.tensor([0, 4])).abs().max() < 1e-2


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="9 pixels cannot be halved 1 times"):
        HoUNet(9, 3, 3, **SWITCHES)
    with pytest.raises(ValueError, match=r"got \[2, 3, 8, 7\]"):
        unet()(X[..., :7], T)
