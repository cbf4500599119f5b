"""Networks whose layers are fused into kernels of their own."""

from torch import nn

from ddpm_lab.errors import UserError

GRAPHS = ("reduce-overhead", "max-autotune")  # replay CUDA graphs, whose memory the next call overwrites
MODES = ("default", *GRAPHS, "max-autotune-no-cudagraphs")


def compile_network(network: nn.Module, mode: bool | str) -> None:
    """torch.compile a network in place, so that the names of its weights stay as they are; false leaves it.

    Its first call takes up to a minute or two, and so may the first with another batch size. Copies are not compiled.

    mode: true, or one of torch's: "reduce-overhead" replays CUDA graphs, "max-autotune" also tries kernels out.
    Raises ValueError for any other.
    """
    if not isinstance(mode, bool) and mode not in MODES:
        raise UserError(f"compile={mode} is none of false, true, {', '.join(MODES)}")
    if mode:
        network.compile(mode="default" if mode is True else mode)
