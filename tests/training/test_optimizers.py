"""Adam dealt out over two real ranks is Adam, also when it is resumed, and by another number of ranks."""

from pathlib import Path

import torch

from tests.doors import QUICK, checkpoint, run

DDP = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "logger=csv"]
OPTIONS = [*QUICK, *DDP, "callbacks.sample_grid=null", "callbacks.bits_per_dim=null", "optimizer.lr=1e-3"]


def test_sharded_adam_is_adam(tmp_path: Path) -> None:
    found = {}
    for name, first in (("adam", 6), ("adam_sharded", 3)):
        options = [*OPTIONS, f"optimizer={name}", "optimizer.fused=null", f"hydra.run.dir={tmp_path / name}"]
        if name == "adam_sharded":
            options = [*OPTIONS, f"optimizer={name}", f"hydra.run.dir={tmp_path / name}"]
            run("train", *options, f"trainer.max_steps={first}", "lr_scheduler=constant")
            assert len(checkpoint(tmp_path / name)["optimizer_states"][0]["state"]) > 10
        run("train", *options, "trainer.max_steps=6", "lr_scheduler=constant", "resume=auto")
        found[name] = checkpoint(tmp_path / name)
    one, two = found["adam"], found["adam_sharded"]
    assert one["global_step"] == two["global_step"] == 6
    for key, value in one["state_dict"].items():
        assert torch.allclose(value.double(), two["state_dict"][key].double(), rtol=1e-5, atol=1e-7), key
    alone = [
        "optimizer=adam_sharded",
        f"hydra.run.dir={tmp_path / 'adam_sharded'}",
        "trainer.devices=1",
        "trainer.max_steps=8",
    ]
    printed = run("train", *OPTIONS, "lr_scheduler=constant", *alone, "resume=auto")
    assert "processes 2 -> 1 since the checkpoint" in printed
    assert checkpoint(tmp_path / "adam_sharded")["global_step"] == 8
