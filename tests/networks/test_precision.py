from pathlib import Path

import pytest
import torch

from ddpm_lab.networks.adm_unet import ADMUNet
from ddpm_lab.networks.ho_unet import HoUNet
from ddpm_lab.networks.precision import InBfloat16, has_bf16
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


@pytest.mark.parametrize(
    ("line", "known"),
    [
        ("flags\t\t: fpu vme avx512f avx512_bf16 amx_tile", True),
        ("flags\t\t: fpu amx_bf16", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("Features\t: fp asimd bf16", True),
        ("Features\t: fp asimd", False),
        ("Hardware\t: bf16", None),
    ],
)
def test_a_cpus_flags_tell_whether_it_has_bf16(line: str, known: bool | None, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n\nprocessor\t: 1\n{line}\n")
    assert has_bf16("cpu", tmp_path / "cpuinfo") is known


def test_where_nothing_tells_it_is_not_known(tmp_path: Path) -> None:
    assert has_bf16("cpu", tmp_path / "nowhere") is None
    assert has_bf16("mps") is None
