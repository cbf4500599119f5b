"""The sentence behind an error that has none of its own."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ddpm_lab import searchpath
from ddpm_lab.arguments import in_order, own_folders, read_arguments
from ddpm_lab.sentences import tell
from tests.doors import run


def sentence(error: Exception, capsys: pytest.CaptureFixture[str]) -> str:
    told = tell(error, "train")
    printed = capsys.readouterr().err
    assert printed == f"error: {told}\n"
    return told


def test_memory_names_what_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    on_gpu = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"
    )
    for error, begins in (
        (caught.value, "can't allocate memory"),
        (on_gpu, "CUDA out of memory. Tried to allocate 2.00 GiB: "),
    ):
        told = sentence(error, capsys)
        assert told.startswith(begins)
        for option in ("data.batch_size", "accumulate_grad_batches", "network.checkpointing", "precision=bf16-mixed"):
            assert option in told


MODULES = {
    "__init__": "",
    "net": """
class Net:
    def __init__(self, width, image_size=8):
        raise KeyError("of its own")

def loss(denoiser, x_0):
    pass
""",
    "syntax": "x = 1\ndef f(:\n",
    "needs": "import sys\nimport a_package_that_is_not_there\n",
    "name": "x = undefined\n",
    "old": "from torch import nothing_of_that_name\n",
}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]


def told_of(capsys: pytest.CaptureFixture[str], run: str | None = None, **node: object) -> str:
    config = OmegaConf.create({"run": run, "network": node})
    with pytest.raises((HydraException, TypeError)) as caught:
        instantiate(config.network)(split="train")
    tell(caught.value, "train", config)
    return capsys.readouterr().err


def test_a_target_that_cannot_be_had_is_told_by_its_cause(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target, end in {
        "mine.net.Nett": "_target_ mine.net.Nett: the module mine.net has no Nett; did you mean Net? it has [Net, loss]",
        "mine.nett.Net": "the package mine has no nett; did you mean net? it has [name, needs, net, old, syntax]",
        "mine.net.Net.build": "the class Net has no build; it has []",
        "a_package_of_no_one.Net": "network needs the package a_package_of_no_one for a_package_of_no_one.Net, and it is not "
        "installed here (No module named 'a_package_of_no_one')",
        "mine.syntax.Net": f"{mine}/syntax.py, line 2: SyntaxError: invalid syntax",
        "mine.needs.Net": f"{mine}/needs.py, line 2: ModuleNotFoundError: No module named 'a_package_that_is_not_there'",
        "mine.name.Net": f"{mine}/name.py, line 1: NameError: name 'undefined' is not defined",
    }.items():
        told = told_of(capsys, _target_=target)
        assert told.startswith("error: network")
        assert told.endswith(f"{end}\n")
    assert f"{mine}/old.py, line 1: ImportError: cannot import name" in told_of(capsys, _target_="mine.old.Net")
    assert told_of(capsys, "outputs/x", _target_="gone.Net").startswith(
        "error: run=outputs/x: network needs the package gone"
    )


def test_a_target_that_takes_other_options_is_told_by_them(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, loss = {"_target_": "mine.net.Net"}, {"_target_": "mine.net.loss"}
    for node, told in (
        ({**net, "widht": 3}, "network: mine.net.Net takes no widht; did you mean width? it takes width, image_size"),
        (net, "network.width=… must be given: mine.net.Net has no default for it"),
        (
            {**loss, "x_0": 3},
            "network: mine.net.loss needs denoiser too: give network.…=…, or, where it is what is to be",
        ),
        (
            {**loss, "_partial_": True},
            "network: mine.net.loss takes no split, which every network is given beside its own",
        ),
    ):
        assert told_of(capsys, **node).startswith(f"error: {told}")
    # What its own code raises is a bug there.
    told = told_of(capsys, **net, width=3)
    assert "Traceback" in told
    assert f'{mine}/net.py", line 4, in __init__' in told
    assert "error: " not in told


def test_flags_may_stand_anywhere(tmp_path: Path) -> None:
    for words in (["-cd", str(tmp_path), "seed=1", "-m", "T=2"], ["seed=1", "-m", f"--config-dir={tmp_path}", "T=2"]):
        read = read_arguments(words)
        assert in_order(read) == ["--multirun", f"--config-dir={tmp_path}", "seed=1", "T=2"]
        assert own_folders(read) == [f"file://{tmp_path}"]
    assert own_folders(read_arguments(["hydra.searchpath=[a,pkg://b]"])) == ["a", "pkg://b"]
    assert read_arguments(["run=a/seed=1/x"]).overrides == ['run="a/seed=1/x"']
    assert read_arguments(["hydra.searchpath=[a]", "x='b=c'", "y={z:1}"]).overrides[1:] == ["x='b=c'", "y={z:1}"]
    for words, told in (
        (["--resume=auto"], "there is no --resume=auto; options are written without dashes"),
        (["--cfg"], "expected one argument"),
        (["--config-path=x"], "--config-dir=… adds yours to it"),
        (["--config-dir", f"{tmp_path}/no"], "is no folder"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            read_arguments(words)


def test_a_file_that_another_hides_is_not_chosen_in_silence(tmp_path: Path) -> None:
    folders = [tmp_path / "ours", tmp_path / "own"]
    for folder in folders:
        (folder / "network").mkdir(parents=True)
        (folder / "network" / "tiny.yaml").write_text("a: 1\n")
    sources = [OmegaConf.create({"schema": "file", "path": str(folder)}) for folder in folders]
    searchpath.check_choices(sources, {"network": "tiny", "data": None})
    (folders[1] / "network" / "tiny.yaml").write_text("a: 2\n")
    searchpath.check_choices(sources, {"network": "other"})
    with pytest.raises(ValueError, match=r"hides .*own/network/tiny.yaml: give that file another name"):
        searchpath.check_choices(sources, {"network": "tiny"})


def test_a_folder_that_cannot_be_made_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="/proc/x") as caught:
        Path("/proc/x").mkdir()
    assert sentence(caught.value, capsys).endswith("is it a folder that you may write to? (hydra.run.dir=…)")


def test_a_bug_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (KeyError("x"), ValueError("zip() argument 2 is longer"), FileNotFoundError(2, "No such file", "x")):
        assert tell(error, "train").startswith(f"{type(error).__name__}: ")
        printed = capsys.readouterr().err
        assert printed.startswith(type(error).__name__)
        assert "error: " not in printed


@pytest.mark.parametrize("door", ["train", "sample", "evaluate", "convert", "report", "stats"])
def test_help_names_every_choice_of_the_door_and_every_option(door: str) -> None:
    told = run("evaluate", "stats", "--help") if door == "stats" else run(door, "--help")
    groups, options = told.split("Options (")
    assert ("python evaluate.py stats [" if door == "stats" else f"python {door}.py [") in groups
    has = {line.split()[0] for line in groups.splitlines() if line.startswith("  ") and "-" not in line.split()[0]}
    assert ("schedule" in has) == (door == "train")
    assert ("guidance" in has) == (door in ("sample", "evaluate"))
    assert ("task" in has) == (door in ("train", "sample"))
    if door == "train":
        assert "  schedule          cosine constant" in groups  # what is taken stands first
        assert "nichol2021/cifar10_hybrid" in groups
        assert "  schedule          linear " in run(door, "--help", "schedule=linear")
    assert "\nhydra:" not in options
    assert {"convert": "\nfrom: ???", "report": "\nrun: "}.get(door, "\nseed: 0") in options
