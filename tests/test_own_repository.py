"""A user's own package and folder of choices, as docs/own_repository.md says: by a plugin, and by --config-dir."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.doors import QUICK, ROOT, run, written

PAGE = (ROOT / "docs" / "own_repository.md").read_text()
RANKS = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
FEW = [*QUICK[1:], "trainer.max_steps=2", "logger=csv", "callbacks.sample_grid=null", "network=mine"]
FILES = {
    "my_lab/__init__.py": "",
    "my_lab/conf/__init__.py": "",
    "my_lab/net.py": """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width, image_size, in_channels, out_channels, num_classes=None):
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, x, time, y=None):
        return self.last(torch.relu(self.first(x) + torch.sin(time)[:, None, None, None]))
""",
    "my_lab/conf/network/mine.yaml": "_target_: my_lab.net.Net\nwidth: 4\n",
    "my_lab/conf/experiments/mine/first.yaml": "# @package _global_\ndefaults:\n  - override /network: mine\nseed: 7\n",
    "my_lab/conf/sample/task/mine.yaml": "# @package _global_\ndefaults:\n  - generate\nn: 3\n",
}


@pytest.fixture(params=["plugin", "config-dir"])
def own(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The user's package, importable; the flags with which a door finds its choices."""
    plugin = request.param == "plugin"
    files = dict(FILES)
    if plugin:
        (code,) = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
        files |= {"hydra_plugins/my_lab/__init__.py": "", "hydra_plugins/my_lab/search_path.py": code}
    for name, text in files.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{tmp_path / 'own'}")
    return [] if plugin else ["--config-dir", str(tmp_path / "own" / "my_lab" / "conf")]


def committed(folder: Path) -> str:
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True)
    command = [*git, "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_every_door_finds_a_users_own_choices(own: list[str], tmp_path: Path) -> None:
    head = committed(tmp_path / "own")
    helped = run("train", *own, "--help", "experiments=mine/first")
    assert re.search(r"^  network +mine .* tiny$", helped, re.MULTILINE)
    assert re.search(r"^  experiments +mine/first .*ho2020/cifar10", helped, re.MULTILINE)
    assert "\nseed: 7\n" in helped
    assert "did you mean mine/first? choices: " in run("train", *own, "experiments=mine/frist", expect=1)
    assert "did you mean network.width? options in network: width" in run(
        "train", "network=mine", "network.wdith=3", *own, expect=1
    )

    sweep = ["-m", *FEW, *(RANKS if own else [])]
    assert "results of the sweep" in run("train", *own, *sweep, cwd=tmp_path)
    (job,) = (done.parent for done in tmp_path.glob("outputs/sweeps/*/*/DONE"))
    assert "is finished, with 2 steps: skipped" in run("train", *sweep, *own, "skip_finished=true", cwd=tmp_path)
    if not own:
        run("train", *FEW, *RANKS, cwd=tmp_path)
        assert "is complete" in run("train", *FEW, *RANKS, "resume=auto", cwd=tmp_path)
        assert len(list(tmp_path.glob("outputs/digits/*"))) == 1
    known = json.loads((job / "provenance.json").read_text())["packages"]["my_lab"]
    assert known == {"folder": str(tmp_path / "own" / "my_lab"), "commit": head}
    told = {"my_lab": f"no version at {head}"}
    assert json.loads((job / "metrics.json").read_text())["test/bits_per_dim_protocol"]["packages"] == told
    assert "3 images\n" in run("sample", f'run="{job}"', "task=mine", "sampler.steps=2", *own)
    assert json.loads(written(job, "samples.json").read_text())["protocol"]["packages"] == told
    judge = ["bound.images=1", "pictures=false", "dashboard=none", "hydra.run.dir=."]
    assert "1 of 299, seed 0, test images" in run("evaluate", f'run="{job}"', *judge, *own, cwd=tmp_path)
