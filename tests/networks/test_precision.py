import pytest
import torch

from ddpm_lab.networks.adm_unet import ADMUNet
from ddpm_lab.networks.ho_unet import HoUNet
from ddpm_lab.networks.precision import InBfloat16
from tests.networks.randomise import randomised

SHAPE = {
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [8],
    "num_classes": 5,
}


@torch.no_grad()
@pytest.mark.parametrize("make", [ADMUNet, HoUNet])
def test_half_as_many_bits_give_nearly_the_same(make: type) -> None:
    network = randomised(make(16, 3, 3, **SHAPE)).eval()
    half = InBfloat16(network).eval()
    x, y = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    found = [half(x, t, y) for t in (torch.full((4,), 998.0), torch.full((4,), 999.0))]
    wanted = network(x, torch.full((4,), 998.0), y)
    assert found[0].dtype == torch.float32
    assert (found[0] - wanted).square().mean() < 0.03**2 * wanted.square().mean()
    assert not torch.equal(*found)  # neighbouring timesteps are told apart
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
