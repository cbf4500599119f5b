"""The W&B logger, which never blocks: offline unless a key is configured."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from ddpm_lab.callbacks.wandb_file import STEP, delivered, history, sessions
from ddpm_lab.dashboards import wandb_mode
from ddpm_lab.training.say import say


def wandb(
    folder: str,
    project: str,
    name: str | None,
    group: str | None,
    id: str | None = None,
    start: int = 0,
    tags: Sequence[str] = (),
    notes: str | None = None,
) -> Wandb:
    """Log to W&B under `folder`. WANDB_MODE, where set, decides; else the presence of a key.

    id: of the run to continue. start: the step that this session of it begins at.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    return Wandb(
        Path(folder),
        start,
        name=name or Path(folder).name,
        project=project,
        group=group,
        tags=list(tags) or None,  # None: WANDB_TAGS, if that is set
        notes=notes,
        id=id,
        resume="allow",
        mode=wandb_mode(),
        settings={"console": "off", "x_disable_stats": True, "x_transaction_log_flush_interval": 1.0},
    )


class Wandb(WandbLogger):
    """Lightning's W&B logger, with one row for each optimizer step, whose number is W&B's own step too.

    A resumed run's history arrives whole and once, however many sessions it took. W&B can only append, and joins offline
    sessions of one run nowhere but on its own servers, so a session begins by logging again what earlier ones logged up to
    its start and no server has: scalars from scalars.csv, pictures and tables from the earlier folders, which are set aside
    in wandb/superseded, where `wandb sync` does not look. What a server has already is not sent again.
    """

    def __init__(self, folder: Path, start: int, **options: Any) -> None:
        super().__init__(save_dir=folder, **options)
        self._wandb_init.pop("anonymous", None)  # Lightning's None for it makes W&B warn
        self.folder = folder
        self.start = start
        self._there: set[tuple[int, str]] = set()  # steps and names that a server has from earlier sessions
        self._told = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run of this session, once it holds what earlier ones logged."""
        if self._experiment is None:
            earlier = sessions(self.folder / "wandb", self._id)
            run = super().experiment
            if not run.disabled:
                self._catch_up(run, earlier)
        return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log them, but for those that a server has from a session that was killed after this one's start."""
        run = self.experiment
        if step is None:
            run.log(dict(metrics))
            return
        new = {name: value for name, value in metrics.items() if (step, name) not in self._there}
        if len(new) < len(metrics) and not self._told:
            say(f"W&B has some steps after {self.start} from an earlier session: they stay as they were")
            self._told = True
        if new:
            _log(run, new, step)

    def _catch_up(self, run: Any, earlier: Sequence[Path]) -> None:
        aside = self.folder / "wandb" / "superseded"
        rows: dict[int, dict[str, Any]] = {}
        waiting, sent = [], 0
        for session in (*sessions(aside, self._id), *earlier):
            logged = list(history(session))
            there = 0 if session.parent == aside else delivered(session, len(logged))
            self._there |= {(step, name) for step, row in logged[:there] if step is not None for name in row}
            sent += there
            if there == 0 and session.name.startswith("offline-") and session.parent != aside:
                waiting.append(session)
            for step, row in logged:
                for name, value in row.items():
                    if step is not None and (name == "_timestamp" or not name.startswith("_")):
                        rows.setdefault(step, {})[name] = (value, session / "files")
        for step, name, number in _scalars(self.folder / "scalars.csv"):
            rows.setdefault(step, {})[name] = (number, None)
        # Of a run that has gone on elsewhere, no folder here tells what the server has.
        first = run.starting_step if run.resumed and not sent else 0
        for step in (step for step in sorted(rows) if first <= step <= self.start):
            missing = {name: found for name, found in rows[step].items() if (step, name) not in self._there}
            revived = {name: _revived(*found) for name, found in missing.items()}
            if revived:
                _log(run, {name: value for name, value in revived.items() if value is not None}, step)
        for session in waiting:
            aside.mkdir(exist_ok=True)
            session.rename(aside / session.name)


def _log(run: Any, row: Mapping[str, Any], step: int) -> None:
    """One row a step, numbered by it; W&B drops what comes with a smaller number than it has reached."""
    run.log({**row, STEP: step}, step=step if step >= run.step else None)


def _scalars(path: Path) -> list[tuple[int, str, float]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [(int(row[0]), row[1], float(row[2])) for row in csv.reader(file) if len(row) == 3 and row[0].isdigit()]


def _revived(value: Any, files: Path | None) -> Any:
    """A logged value, to be logged again; a picture or a table from its file in `files`, None where that is gone."""
    if files is None or not isinstance(value, dict) or "_type" not in value:
        return value
    import wandb as client

    kind = value["_type"]
    paths = [files / name for name in value.get("filenames", [value["path"]] if "path" in value else [])]
    if not all(path.is_file() for path in paths):
        return None
    if kind in ("image-file", "images/separated"):
        return [client.Image(str(path)) for path in paths]
    if kind == "table-file":
        table = json.loads(paths[0].read_text())
        return client.Table(columns=table["columns"], data=table["data"])
    return value
