"""A protocol names the code that made its number: this package, and every other that the configuration builds from."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ddpm_lab import provenance

CONFIG = {"network": {"_target_": "theirs.nets.Net", "width": 4}, "optimizer": {"_target_": "torch.optim.Adam"}}
METADATA = "Metadata-Version: 2.1\nName: their-lab\nVersion: 0.2.0\n"
WRITTEN_BY = ("-c", "user.name=x", "-c", "user.email=x@example.org")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *WRITTEN_BY, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def commit(folder: Path) -> str:
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return git(folder, "rev-parse", "--short=12", "HEAD")


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a folder importable, and forgets what an earlier one was asked."""

    def make(folder: Path) -> None:
        monkeypatch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        provenance._code.cache_clear()

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] in ("theirs", "shared")]:
        del sys.modules[name]
    provenance._code.cache_clear()


@pytest.fixture
def committed(tmp_path: Path, importable: Callable[[Path], None]) -> Path:
    """The package "theirs" in a repository of its own, as on PYTHONPATH."""
    files = {"src/theirs/__init__.py": "", "src/theirs/nets.py": "class Net: ...\n", "notes.txt": "a\n"}
    folder = write(tmp_path / "repository", files)
    commit(folder)
    importable(folder / "src")
    return folder


def said(config: object = CONFIG) -> str:
    provenance._code.cache_clear()
    return provenance.origin(config)["packages"]["theirs"]


def test_the_commit_of_a_users_work_tree_and_whether_it_differs(committed: Path) -> None:
    head = git(committed, "rev-parse", "--short=12", "HEAD")
    assert said() == said(OmegaConf.create(CONFIG)) == f"no version at {head}"
    (committed / "src" / "theirs" / "figures.png").write_text("no code")
    (committed / "scratch.py").write_text("not of the package")
    assert said() == f"no version at {head}"
    (committed / "src" / "theirs" / "new.py").write_text("")  # code that git does not know
    assert said() == f"no version at {head}+changes"
    (committed / "src" / "theirs" / "new.py").unlink()
    (committed / "notes.txt").write_text("b\n")
    assert said() == f"no version at {head}+changes"
    found = provenance.packages(CONFIG)
    assert found["theirs"] == {"folder": str(committed / "src" / "theirs"), "commit": f"{head}+changes"}
    assert found["torch"].keys() == {"distribution", "version"}
    assert set(provenance.origin({"optimizer": CONFIG["optimizer"], "path": "a.b"})) == {"commit"}


def test_a_callable_given_by_its_name_counts(committed: Path) -> None:
    importlib.import_module("theirs.nets")
    assert "no version at " in said({"data": {"class_of": ["theirs.nets.Net"]}})
    assert "packages" not in provenance.origin({"file": "theirs.nets.png", "other": "nothing.like.it"})


def test_what_git_ignores_has_no_commit(tmp_path: Path, importable: Callable[[Path], None]) -> None:
    write(tmp_path, {"lib/theirs.py": "__version__ = '3'\n", ".gitignore": "lib/\n"})
    commit(tmp_path)
    importable(tmp_path / "lib")
    assert said({"_target_": "theirs.Net"}) == "unknown"
    importlib.import_module("theirs")
    assert said({"_target_": "theirs.Net"}) == "3"
    (tmp_path / ".gitignore").write_text("")  # a module beside a repository's files, not yet added
    assert said({"_target_": "theirs.Net"}).startswith("3 at ")
    assert said({"_target_": "theirs.Net"}).endswith("+changes")


@pytest.mark.parametrize(
    ("direct_url", "told"),
    [
        (None, "0.2.0"),
        (
            {"url": "https://x/y.git", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef" * 2}},
            "0.2.0 at 0123456789ab",
        ),
    ],
)
def test_an_installed_package_has_its_version_and_the_commit_that_pip_took(
    direct_url: dict | None, told: str, tmp_path: Path, importable: Callable[[Path], None]
) -> None:
    files = {"METADATA": METADATA, "RECORD": "theirs/__init__.py,,\n"}
    if direct_url is not None:
        files["direct_url.json"] = json.dumps(direct_url)
    write(tmp_path / "their_lab-0.2.0.dist-info", files)
    write(tmp_path, {"theirs/__init__.py": ""})
    git(tmp_path, "init", "-q")  # as an environment inside someone's work tree
    importable(tmp_path)
    assert said() == told


def test_an_editable_installation_is_its_work_tree(
    committed: Path, tmp_path: Path, importable: Callable[[Path], None]
) -> None:
    url = {"url": committed.as_uri(), "dir_info": {"editable": True}}
    files = {"METADATA": METADATA, "direct_url.json": json.dumps(url)}
    write(tmp_path / "site" / "their_lab-0.2.0.dist-info", files)
    importable(tmp_path / "site")
    assert said() == f"0.2.0 at {git(committed, 'rev-parse', '--short=12', 'HEAD')}"


def test_of_a_namespace_each_part_is_a_package(tmp_path: Path, importable: Callable[[Path], None]) -> None:
    for name in ("a", "b"):
        write(tmp_path, {f"{name}/shared/{name}/__init__.py": f"__version__ = '{name}1'\n"})
        importable(tmp_path / name)
        importlib.import_module(f"shared.{name}")
    found = provenance.origin({"x": {"_target_": "shared.a.Net"}, "y": {"_target_": "shared.b.Net"}})
    assert found["packages"] == {"shared.a": "a1", "shared.b": "b1"}


def test_a_missing_package_is_unknown() -> None:
    assert provenance.origin({"_target_": "nowhere_to_be_found.Net"})["packages"] == {"nowhere_to_be_found": "unknown"}
