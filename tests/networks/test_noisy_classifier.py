from functools import partial

import pytest
import torch
import torch.nn.functional as F

from ddpm_lab.networks.noisy_classifier import (
    AdaptivePool,
    AttentionPool,
    NoisyClassifier,
    NormedSpatialPool,
    SpatialPool,
)
from tests.networks.randomise import randomised, untouched

POOLS = [AdaptivePool, partial(AttentionPool, head_channels=32), SpatialPool, NormedSpatialPool]
SWITCHES = {"model_channels": 64, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [4]}
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
T = torch.tensor([3, 700])


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("switches", [{}, {"resblock_updown": True, "scale_shift_norm": True, "head_channels": 64}])
def test_every_parameter_and_every_pixel_matters(pool, switches):
    network = randomised(NoisyClassifier(8, 3, 10, pool=pool, **SWITCHES, **switches))
    x = X.clone().requires_grad_()
    logits = network(x, T)
    assert logits.shape == (2, 10)
    logits.log_softmax(1)[:, 3].sum().backward()
    assert untouched(network) == []
    assert (x.grad.abs().amax(1) > 0).all()


def test_spatial_pools_read_the_mean_of_every_feature_map():
    network = NoisyClassifier(8, 3, 10, pool=SpatialPool, **SWITCHES)
    assert network.pool.hidden.in_features == 64 + 64 + 64 + 128 + 128  # input, block, halved, block, middle
    features = []
    network.pool.register_forward_pre_hook(lambda module, inputs: features.extend(inputs[0]))
    randomised(network)(X, T)
    assert [list(feature.shape[1:]) for feature in features] == [
        [64, 8, 8],
        [64, 8, 8],
        [64, 4, 4],
        [128, 4, 4],
        [128, 4, 4],
    ]
    assert torch.equal(features[0], network.conv_in(X))


@pytest.mark.parametrize("pool_class", [SpatialPool, NormedSpatialPool])
def test_spatial_pools_are_two_linear_layers(pool_class):
    pool = randomised(pool_class([32, 64], 2, 10))
    features = [torch.randn(3, 32, 4, 4), torch.randn(3, 64, 2, 2)]
    hidden = pool.hidden(torch.cat([feature.flatten(2).mean(2) for feature in features], 1))
    hidden = F.silu(pool.norm(hidden)) if pool_class is NormedSpatialPool else F.relu(hidden)
    torch.testing.assert_close(pool(features), pool.linear(hidden))


def test_the_attention_pool_asks_from_the_mean():
    pool = randomised(AttentionPool([64], 2, 10, head_channels=64))
    feature = torch.randn(3, 64, 2, 2)
    h = F.silu(pool.norm(feature)).flatten(2).mT
    tokens = torch.cat([h.mean(1, keepdim=True), h], 1) + pool.positions
    q, k, v = pool.qkv(tokens).chunk(3, dim=2)
    expected = pool.proj((q[:, :1] @ k.mT / 8).softmax(-1) @ v)[:, 0]
    torch.testing.assert_close(pool([feature]), expected)


def test_another_size_is_refused_where_the_pool_has_positions():
    network = NoisyClassifier(8, 3, 10, pool=partial(AttentionPool, head_channels=32), **SWITCHES)
    with pytest.raises(ValueError, match="positions for 16 pixels and got 64"):
        network(torch.randn(1, 3, 16, 16), T[:1])
    with pytest.raises(ValueError, match=r"got \[2, 2, 8, 8\]"):
        network(X[:, :2], T)
