import torch
import torch.nn.functional as F

from ddpm_lab.networks.super_resolution import SuperResolutionUNet
from tests.networks.randomise import randomised

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LOW_RES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
T = torch.tensor([3, 700])
Y = torch.tensor([0, 4])


def test_the_small_image_is_enlarged_and_seen_beside_the_noisy_one():
    network = randomised(
        SuperResolutionUNet(
            8, 3, 6, model_channels=64, channel_mult=[1, 1], num_res_blocks=1, attention_resolutions=[], num_classes=5
        )
    )
    out = network(X, T, Y, low_res=LOW_RES)
    assert out.shape == (2, 6, 8, 8)
    enlarged = F.interpolate(LOW_RES, scale_factor=2.0, mode="bilinear", align_corners=False)
    assert torch.equal(out, network.unet(torch.cat([X, enlarged], 1), T, Y))
    assert (network(X, T, Y, low_res=LOW_RES + 1) - out).abs().max() > 1e-3
