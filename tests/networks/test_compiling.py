import shutil

import pytest
import torch
from torch import nn

from ddpm_lab.networks.compiling import compile_network


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile builds with g++, which is not on this machine")
@torch.no_grad()
@pytest.mark.parametrize("mode", [True, "reduce-overhead"])
def test_a_compiled_network_answers_the_same_by_the_same_names(mode: bool | str) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.SiLU())
    x, names = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), set(network.state_dict())
    wanted = network(x)
    torch._dynamo.utils.counters.clear()
    compile_network(network, mode)
    torch.testing.assert_close(network(x), wanted)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # it was compiled
    assert set(network.state_dict()) == names


def test_no_other_mode_and_none_at_all() -> None:
    network = nn.Linear(3, 4)
    compile_network(network, False)
    assert network._compiled_call_impl is None
    for mode in ("fast", 1, None):
        with pytest.raises(ValueError, match=rf"compile={mode} is none of false, true, default, reduce-overhead"):
            compile_network(network, mode)  # type: ignore[arg-type]
