import pytest
import torch

from ddpm_lab.networks.adm_unet import ADMUNet
from ddpm_lab.networks.blocks import Attention, ResidualBlock
from tests.networks.randomise import randomised, untouched

SWITCHES = {"model_channels": 64, "channel_mult": [1, 1], "num_res_blocks": 1, "attention_resolutions": [4]}
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
T = torch.tensor([3, 700])
Y = torch.tensor([0, 4])


def unet(**switches):
    return randomised(ADMUNet(8, 3, 6, **{**SWITCHES, **switches}))


def gradients(network, *arguments):
    network.zero_grad()
    network(*arguments).square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


ALL_SWITCHES = [
    {},
    {"scale_shift_norm": True, "num_classes": 5},
    {"resblock_updown": True, "head_channels": 32, "dropout": 0.1},
    {"rescale_residual": True, "num_heads": 2},
    {"conv_resample": False, "channel_mult": [0.5, 1, 1.5]},
]


@pytest.mark.parametrize("switches", ALL_SWITCHES)
def test_every_parameter_matters(switches):
    network = unet(**switches)
    out = network(X, T, Y if "num_classes" in switches else None)
    assert out.shape == (2, 6, 8, 8)
    out.square().mean().backward()
    assert untouched(network) == []


def test_a_fresh_network_returns_zeros():
    assert not ADMUNet(8, 3, 3, **SWITCHES)(X, T).any()


def test_timestep_and_label_reach_the_output():
    for scale_shift_norm in (True, False):
        network = unet(num_classes=5, scale_shift_norm=scale_shift_norm).eval()
        out = network(X, T, Y)
        for other in (network(X, T + 1, Y), network(X, T + 0.5, Y), network(X, T, Y - Y)):
            assert (other - out)[1].abs().max() > 1e-4


def test_attention_stands_where_the_pixels_say():
    network = ADMUNet(
        16, 3, 3, model_channels=32, channel_mult=[1, 1, 1], num_res_blocks=2, attention_resolutions=[8, 5]
    )
    attending = [name for name, module in network.named_modules() if isinstance(module, Attention)]
    assert attending == [
        "down.1.blocks.0.attention",
        "down.1.blocks.1.attention",
        "middle.attention",
        "up.1.blocks.0.attention",
        "up.1.blocks.1.attention",
        "up.1.blocks.2.attention",
    ]


def test_attention_widths():
    by_width = ADMUNet(
        8, 3, 3, **{**SWITCHES, "channel_mult": [1, 2], "attention_resolutions": [8, 4]}, head_channels=32
    )
    assert {m.num_heads for m in by_width.down[0].modules() if isinstance(m, Attention)} == {2}
    assert {m.num_heads for m in by_width.down[1].modules() if isinstance(m, Attention)} == {4}
    by_number = ADMUNet(8, 3, 3, **SWITCHES, num_heads=4)
    assert {m.num_heads for m in by_number.modules() if isinstance(m, Attention)} == {4}


@pytest.mark.parametrize("switches", [{}, {"resblock_updown": True}])
def test_checkpointing_gives_the_same_gradients(switches):
    kept = gradients(unet(**switches, scale_shift_norm=True), X, T)
    recomputed = unet(**switches, scale_shift_norm=True, checkpointing=True)
    calls = []
    recomputed.middle.before.conv_1.register_forward_hook(lambda *_: calls.append(1))
    assert all(torch.equal(kept[name], gradient) for name, gradient in gradients(recomputed, X, T).items())
    assert len(calls) == 2


def test_checkpointing_draws_the_same_dropout_twice():
    torch.manual_seed(0)
    kept = gradients(unet(dropout=0.5), X, T)
    torch.manual_seed(0)
    recomputed = gradients(unet(dropout=0.5, checkpointing=True), X, T)
    assert all(torch.equal(kept[name], gradient) for name, gradient in recomputed.items())


def test_rescaling_reaches_every_block():
    blocks = [m for m in unet(rescale_residual=True).modules() if isinstance(m, ResidualBlock | Attention)]
    assert len(blocks) == 12
    assert all(block.rescale for block in blocks)


def test_bfloat16_autocast_stays_near_float32():
    network = unet(scale_shift_norm=True)
    exact = network(X, T)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = network(X, T)
        rounded.float().square().mean().backward()
    assert rounded.dtype == torch.bfloat16
    assert 0 < (rounded.float() - exact).std() / exact.std() < 0.03
    assert untouched(network) == []


def test_runs_in_double_precision():
    network = unet().double()
    assert network(X.double(), T).dtype == torch.float64


def test_a_batch_is_its_images():
    network = unet(scale_shift_norm=True).eval()
    alone = torch.cat([network(X[i : i + 1], T[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(network(X, T), alone, atol=1e-5, rtol=1e-5)


def test_traces_into_one_graph():
    # What torch.compile needs, without its code generation.
    network = unet(num_classes=5, scale_shift_norm=True, resblock_updown=True).eval()
    graph = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(graph(X, T, Y), network(X, T, Y))


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="28 pixels cannot be halved 3 times"):
        ADMUNet(28, 3, 3, **{**SWITCHES, "channel_mult": [1, 1, 1, 1]})
    with pytest.raises(ValueError, match="cannot take 48 channels"):
        ADMUNet(8, 3, 3, **{**SWITCHES, "channel_mult": [0.75, 1]})
    with pytest.raises(ValueError, match=r"got \[2, 1, 8, 8\]"):
        unet()(X[:, :1], T)
    with pytest.raises(ValueError, match="multiples of 2"):
        unet()(X[..., :7], T)
    with pytest.raises(ValueError, match="without classes"):
        unet()(X, T, Y)
    with pytest.raises(ValueError, match="no labels"):
        unet(num_classes=5)(X, T)
