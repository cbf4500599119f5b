"""The sampler of docs/architecture.md, in a file and a YAML of a user's own, by the real command line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.doors import ROOT, run

PAGE = (ROOT / "docs" / "architecture.md").read_text()


def test_a_sampler_is_one_file_and_one_yaml(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
    (tmp_path / "own_euler.py").write_text(code)
    (tmp_path / "conf" / "sampler").mkdir(parents=True)
    options = "steps: 7\nspacing: log_snr\nclip: true\ntimes: null\n"
    (tmp_path / "conf" / "sampler" / "euler.yaml").write_text(f"_target_: own_euler.Euler\n{options}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{tmp_path}")
    drawn = {}
    for sampler in ("euler", "ddim"):
        given = ["sampler.steps=7", "sampler.spacing=log_snr", "n=6", f"hydra.run.dir={tmp_path}/{sampler}"]
        run("sample", "--config-dir", f"{tmp_path}/conf", f"run={trained}", f"sampler={sampler}", *given)
        drawn[sampler] = np.load(tmp_path / sampler / "samples.npz")["arr_0"]
    assert np.array_equal(drawn["euler"], drawn["ddim"])
    protocol = json.loads((tmp_path / "euler" / "samples.json").read_text())["protocol"]
    assert (protocol["sampler"], protocol["steps"], protocol["calls"], protocol["spacing"]) == (
        "Euler",
        7,
        7,
        "log_snr",
    )


@pytest.mark.parametrize(("sampler", "calls"), [("heun", 17), ("dpm_solver_pp", 9)])
def test_the_solvers_are_choices(sampler: str, calls: int, trained: Path, tmp_path: Path) -> None:
    run("sample", f"run={trained}", f"sampler={sampler}", "sampler.steps=9", "n=4", f"hydra.run.dir={tmp_path}/drawn")
    assert np.load(tmp_path / "drawn" / "samples.npz")["arr_0"].shape == (4, 8, 8, 1)
    assert json.loads((tmp_path / "drawn" / "samples.json").read_text())["protocol"]["calls"] == calls
