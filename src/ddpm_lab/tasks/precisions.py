"""Which precision a run trains and draws in: what precision=auto chooses, and where 16 bits are the slower ones."""

from __future__ import annotations

from omegaconf import DictConfig

from ddpm_lab.errors import UserError
from ddpm_lab.networks.precision import has_bf16
from ddpm_lab.tasks.building import device_type

KNOWN = ("auto", "cpu", "gpu", "cuda", "mps")  # a Trainer knows others
NAMES = {
    "cpu": ("this CPU", "(avx512_bf16 or amx_bf16)", ", two to three times slower than fp32"),
    "cuda": ("this GPU", "(of compute capability 8.0)", ""),
}


def settle_training(trainer: DictConfig) -> str | None:
    """Put in trainer.precision what the run trains in; a sentence where that is not what was asked for, or is slow.

    Raises ValueError for weights of other than 32 bits.
    """
    asked, accelerator = str(trainer.precision), trainer.accelerator
    device = device_type("cuda" if accelerator == "gpu" else accelerator) if accelerator in KNOWN else str(accelerator)
    if asked in ("16-true", "bf16-true", "64-true", "64"):
        raise UserError(
            f"trainer.precision={asked}: images and weights are float32 here; take 32-true, 16-mixed, bf16-mixed or auto"
        )
    if asked == "auto":
        trainer.precision = "bf16-mixed" if has_bf16(device) else "32-true"
        return f"trainer.precision=auto: {trainer.precision}, {_because(device)}"
    if asked in ("16", "16-mixed") and device == "cpu":
        trainer.precision = "bf16-mixed"  # as Lightning does
        slow = _slow(device, "trainer.precision=32-true")
        return f"trainer.precision={asked} is bf16-mixed on a CPU" + (f": {slow}" if slow else "")
    if asked in ("bf16", "bf16-mixed"):
        slow = _slow(device, "trainer.precision=32-true")
        return f"trainer.precision={asked}: {slow}" if slow else None
    return None


def settle_drawing(config: DictConfig) -> str | None:
    """The same of config.precision, in which a network draws: fp32 or bf16."""
    device = device_type(config.accelerator)
    if config.precision == "auto":
        config.precision = "bf16" if has_bf16(device) else "fp32"
        return f"precision=auto: {config.precision}, {_because(device)}"
    slow = _slow(device, "precision=fp32") if config.precision == "bf16" else None
    return f"precision=bf16: {slow}" if slow else None


def _because(device: str) -> str:
    known = has_bf16(device)
    if known is None:
        return f"for nothing tells whether this {device} has instructions for bf16"
    name, which, _ = NAMES[device]
    return f"for {name} has {'' if known else 'no '}instructions for bf16 {which}"


def _slow(device: str, instead: str) -> str | None:
    if has_bf16(device) is not False:
        return None
    name, which, slower = NAMES[device]
    return f"{name} has no instructions for bf16 {which} and emulates them{slower}; take {instead}, or auto"
