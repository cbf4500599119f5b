"""Where a command writes: a folder of its own, however many there are and at the same time."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ddpm_lab.errors import FolderInUseError
from ddpm_lab.folders import leave_nothing, new_folder
from ddpm_lab.runs import output_folder, results_folder
from ddpm_lab.sweeps import read_results

NOW = "2026-01-02_03-04-05"


def fresh(parent: Path) -> Path:
    return Path(new_folder.__wrapped__(str(parent), NOW))  # as of a process that has not asked before


def test_commands_of_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as processes:
        found = list(processes.map(fresh, [tmp_path / "drawn"] * 8))
    names = [NOW, *(f"{NOW}_{k}" for k in range(2, 9))]
    assert sorted(path.name for path in found) == sorted(path.name for path in (tmp_path / "drawn").iterdir()) == names
    assert new_folder(str(tmp_path), NOW) == new_folder(str(tmp_path), NOW)  # one process asks more than once
    for path in found[1:]:
        leave_nothing(path)
    (found[0] / "metrics.json").touch()
    leave_nothing(found[0])
    assert list((tmp_path / "drawn").iterdir()) == [found[0]]
    (found[0] / "metrics.json").unlink()
    leave_nothing(found[0])
    assert not (tmp_path / "drawn").exists()
    leave_nothing(tmp_path / NOW)
    assert tmp_path.is_dir()


def test_processes_of_one_command_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "mine"}.items():
        monkeypatch.setenv(name, value)
    assert [fresh(tmp_path).name for _ in range(2)] == ["torchrun-mine"] * 2
    (tmp_path / "torchrun-mine").mkdir()
    assert fresh(tmp_path).name == "torchrun-mine"  # another process of it has made the folder
    (tmp_path / "torchrun-mine" / "metrics.json").touch()
    assert fresh(tmp_path).name == "torchrun-mine_2"  # an earlier command has had the name


def test_every_model_has_its_place(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    for run in (tmp_path, tmp_path / "checkpoints" / "best.ckpt"):
        assert output_folder("drawn", str(run), None) == tmp_path / "drawn"
    assert output_folder("evaluations", None, None, "a/mine.npz") == Path("outputs/evaluations/mine")
    assert output_folder("evaluations", None, "a/b/model.pt") == Path("outputs/pretrained/model/evaluations")


def test_a_run_s_own_folder_is_no_place_for_results(tmp_path: Path) -> None:
    assert results_folder(str(tmp_path)) == tmp_path
    (tmp_path / "config.yaml").touch()
    with pytest.raises(FolderInUseError, match="is a run's folder, whose own numbers and pictures would be replaced"):
        results_folder(str(tmp_path))


def test_a_sweep_s_results_are_its_jobs_own(tmp_path: Path) -> None:
    job = tmp_path / "lr=1"
    for folder in (job, job / "evaluations" / NOW, tmp_path / "steps=1"):
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text("{}")
    (job / "config.yaml").touch()
    assert [name for name, _ in read_results(tmp_path)] == ["lr=1", "steps=1"]
    assert [name for name, _ in read_results(job / "evaluations")] == [NOW]
