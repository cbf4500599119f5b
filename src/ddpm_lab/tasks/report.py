"""Pictures and tables of what runs have written."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from ddpm_lab import runs
from ddpm_lab.errors import NoSuchFileError, UserError
from ddpm_lab.evaluation.run_curves import run_curves
from ddpm_lab.evaluation.sweep_report import sweep_report
from ddpm_lab.sweeps import read_jobs


def report(config: DictConfig) -> None:
    """Tell of a sweep or of one run; ValueError unless one of the two is given."""
    if (config.sweep is None) == (config.run is None):
        raise UserError("give either sweep=… (a folder of runs) or run=… (a run folder)")
    names = None if config.only is None else list(config.only)
    if config.run is not None:
        folder = runs.checked_run(config.run)
        print(f"curves of {folder}: {run_curves(folder / 'scalars.csv', _out(config, folder), names)}")
        return
    folder = Path(config.sweep)
    if not folder.is_dir():
        raise NoSuchFileError(
            f"sweep={folder} is not a folder; it is where a sweep's jobs wrote theirs, outputs/sweeps/…"
        )
    jobs, unfinished = read_jobs(folder)
    print(sweep_report(jobs, _out(config, folder), names))
    for job, why in unfinished.items():
        print(f"not in it: {job}: {why}")


def _out(config: DictConfig, folder: Path) -> Path:
    out = folder if config.out is None else Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    return out
