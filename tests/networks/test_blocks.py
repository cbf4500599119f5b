import math

import pytest
import torch
import torch.nn.functional as F

from ddpm_lab.networks.blocks import Attention, Downsample, ResidualBlock, Upsample, attend, double, halve
from tests.networks.randomise import randomised

X = torch.randn(2, 64, 4, 4, generator=torch.Generator().manual_seed(3))


def run(block, x=X, seed=4):
    e = torch.randn(len(x), block.width, generator=torch.Generator().manual_seed(seed))
    return block(x, iter([e])), e


def test_fresh_blocks_are_the_identity():
    for block in (ResidualBlock(64, 64, dropout=0.0, scale_shift_norm=True), ResidualBlock(64, 64, dropout=0.0)):
        assert torch.equal(run(block)[0], X)
    assert torch.equal(Attention(64)(X, iter(())), X)


def test_adaptive_group_norm_scales_then_shifts():
    block = randomised(ResidualBlock(64, 64, dropout=0.0, scale_shift_norm=True))
    out, e = run(block)
    h = block.norm_2(block.conv_1(F.silu(block.norm_1(X))))
    h = h * (1 + e[:, :64, None, None]) + e[:, 64:, None, None]
    torch.testing.assert_close(out, X + block.conv_2(F.silu(h)))


def test_without_adaptive_norm_the_timestep_is_added_before_the_norm():
    block = randomised(ResidualBlock(64, 64, dropout=0.0))
    out, e = run(block)
    h = block.norm_2(block.conv_1(F.silu(block.norm_1(X))) + e[:, :, None, None])
    torch.testing.assert_close(out, X + block.conv_2(F.silu(h)))


@pytest.mark.parametrize("resample", [halve, double])
def test_resolution_changes_on_both_branches_before_the_convolution(resample):
    block = randomised(ResidualBlock(64, 64, dropout=0.0, resample=resample))
    out, e = run(block)
    h = block.conv_1(resample(F.silu(block.norm_1(X)))) + e[:, :, None, None]
    torch.testing.assert_close(out, resample(X) + block.conv_2(F.silu(block.norm_2(h))))


def test_rescaled_branches_keep_the_variance():
    plain = randomised(ResidualBlock(64, 32, dropout=0.0))
    rescaled = randomised(ResidualBlock(64, 32, dropout=0.0, rescale=True))
    torch.testing.assert_close(run(rescaled)[0], run(plain)[0] / math.sqrt(2))
    plain, rescaled = randomised(Attention(64)), randomised(Attention(64, rescale=True))
    torch.testing.assert_close(rescaled(X, iter(())), plain(X, iter(())) / math.sqrt(2))


def test_dropout_acts_in_training_only():
    block = randomised(ResidualBlock(64, 64, dropout=0.5))
    assert not torch.equal(run(block)[0], run(block)[0])
    block.eval()
    assert torch.equal(run(block)[0], run(block)[0])


def test_attention_is_softmax_of_scaled_products():
    qkv = torch.randn(2, 5, 3 * 8)
    q, k, v = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in qkv.chunk(3, dim=2))  # 2 heads of 4
    expected = ((q @ k.mT) / math.sqrt(4)).softmax(-1) @ v
    torch.testing.assert_close(attend(qkv, 2), expected.transpose(1, 2).flatten(2))


def test_attention_carries_from_every_pixel_to_every_other():
    block = randomised(Attention(64, head_channels=32))
    assert block.num_heads == 2
    moved = X.clone()
    moved[:, :, 3, 3] += 1
    change = (block(moved, iter(())) - block(X, iter(()))).abs().amax(1)
    assert (change > 0).all()


@pytest.mark.parametrize("conv", [True, False])
def test_resolution_halves_and_doubles(conv):
    assert Downsample(64, conv)(X, iter(())).shape == (2, 64, 2, 2)
    assert Upsample(64, conv)(X, iter(())).shape == (2, 64, 8, 8)
    if not conv:
        torch.testing.assert_close(halve(double(X)), X)


def test_channels_that_do_not_split_are_refused():
    with pytest.raises(ValueError, match="cannot take 48 channels"):
        ResidualBlock(48, 64, dropout=0.0)
    with pytest.raises(ValueError, match="64 channels do not split into 3 heads"):
        Attention(64, num_heads=3)
    with pytest.raises(ValueError, match="96 channels do not split into heads of 64"):
        Attention(96, head_channels=64)
    with pytest.raises(ValueError, match="32 channels do not split into heads of 64"):
        Attention(32, head_channels=64)
