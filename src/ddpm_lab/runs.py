"""A run folder: what a training run leaves behind, and how the other doors find their way in it.

config.yaml       every option, resolved            checkpoints/last.ckpt, best.ckpt
configs/          those of before a resume          metrics.json  the numbers at the end
provenance.json   overrides, versions, every package's commit
scalars.csv       every scalar: step,name,value     samples.png, samples/  pictures
DONE              the steps of a finished run       evaluations/, drawn/  what evaluate.py and sample.py made of it, by date
"""

from __future__ import annotations

import json
import os
import platform
import sys
import uuid
import zipfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from ddpm_lab.errors import FolderInUseError, NoSuchFileError, UserError
from ddpm_lab.provenance import commit, packages

PACKAGES = ("torch", "lightning", "hydra-core", "torchmetrics", "torch-fidelity", "wandb", "numpy", "ddpm-lab")


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write all or nothing: a crash leaves the previous file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    partial.replace(path)


def add_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Add to the folder's metrics.json; equal keys are replaced."""
    path = folder / "metrics.json"
    write_json(path, (json.loads(path.read_text()) if path.exists() else {}) | metrics)


def provenance_of(folder: Path, config: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """Where this session of the folder's run comes from, under the run's id where it has one already."""
    return {
        "id": _read_json(folder / "provenance.json").get("id", uuid.uuid4().hex[:8]),
        "overrides": overrides,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": commit(),
        "packages": packages(config),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def record_session(
    folder: Path,
    config: DictConfig,
    provenance: dict[str, Any],
    step: int,
    checkpoint: Path | None,
    before: dict[str, Any] | None,
) -> None:
    """Write config.yaml and provenance.json of a session that begins at `step`, and keep what was there.

    Another configuration of before, the folder's own or that of a checkpoint from elsewhere, becomes configs/until_step_….yaml;
    provenance.json has the newest session's entries and, under "sessions", all of them.
    """
    path = folder / "config.yaml"
    if path.is_file():
        before = OmegaConf.to_container(OmegaConf.load(path))  # type: ignore[assignment]
    if before is not None and _what_trains(before) != _what_trains(OmegaConf.to_container(config, resolve=True)):
        kept, again = folder / "configs" / f"until_step_{step:08d}.yaml", 1
        while kept.exists():
            kept, again = kept.with_name(f"until_step_{step:08d}-{again}.yaml"), again + 1
        kept.parent.mkdir(exist_ok=True)
        OmegaConf.save(before, kept)
    partial = folder / "config.yaml.partial"
    OmegaConf.save(config, partial, resolve=True)
    partial.replace(path)
    previous = _read_json(folder / "provenance.json")
    session = {"step": step, "checkpoint": checkpoint and str(checkpoint)} | {
        k: v for k, v in provenance.items() if k != "id"
    }
    earlier = previous.pop("sessions", None) or [{k: v for k, v in previous.items() if k != "id"}] * bool(previous)
    write_json(folder / "provenance.json", {**provenance, "sessions": [*earlier, session]})


def _what_trains(config: Any) -> dict[str, Any]:
    """A configuration but for how it was told to go on."""
    return {key: value for key, value in config.items() if key not in ("resume", "allow_changes", "skip_finished")}


def _read_json(path: Path) -> dict[str, Any]:
    """Its content, nothing if there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def latest_checkpoint(folder: Path) -> Path | None:
    """checkpoints/last.ckpt, else the newest last*.ckpt, or None; never a last.ckpt.partial, which a crash may leave.

    Times come second: a copy of a folder has others.
    """
    last = folder / "checkpoints" / "last.ckpt"
    found = sorted((folder / "checkpoints").glob("last*.ckpt"), key=os.path.getmtime)
    return last if last in found else found[-1] if found else None


def sound_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoints/last*.ckpt that can be read whole, or None if there is none at all.

    One that cannot is told of and set aside as ….damaged. Raises ValueError where none is left.
    """
    last_error: ValueError | None = None
    while (path := latest_checkpoint(folder)) is not None:
        try:
            load_checkpoint(path)
            return path
        except FileNotFoundError:  # another rank has set it aside
            continue
        except ValueError as error:
            last_error = error
            print(f"warning: {error}; going on from the one before it", file=sys.stderr, flush=True)
            with suppress(FileNotFoundError):
                path.replace(path.with_name(f"{path.name}.damaged"))
    if last_error is not None:
        raise UserError(f"{folder} holds no other checkpoint to go on from: {last_error}")
    return None


def checked_run(folder: str | Path) -> Path:
    """The run folder, given itself or a checkpoint in its folder checkpoints.

    Raises FileNotFoundError if it is not a run folder.
    """
    path = Path(folder)
    if path.suffix == ".ckpt":
        path = path.parent.parent
    if not (path / "config.yaml").is_file():
        near = sorted({str(p.parent) for p in Path("outputs").glob("**/config.yaml") if p.parent.name != ".hydra"})
        known = f"; runs here: {', '.join(near[-5:])}" if near else "; train one first: python train.py"
        raise NoSuchFileError(f"run={folder} is not a run folder: it holds no config.yaml{known}")
    return path


def load_config(folder: Path) -> DictConfig:
    """The run's config.yaml, complete."""
    return complete(OmegaConf.load(folder / "config.yaml"))


def complete(config: DictConfig | ListConfig) -> DictConfig:
    """A run's configuration in which options that earlier versions did not have get the value that they had in effect."""
    earlier = {"task": {"name": "diffusion"}, "label_dropout": 0.0, "ema_warmup": True}
    merged = OmegaConf.merge(earlier, config)
    assert isinstance(merged, DictConfig)
    return merged


def output_folder(kind: str, run: str | None, pretrained: str | None, samples: str | None = None) -> Path:
    """Where a model's images or numbers go, each command's to a folder of its own in there: the folder `kind` of its run; for a
    model or images from elsewhere, a folder of their name.

    Raises ValueError unless one of the three is given.
    """
    if sum(given is not None for given in (run, pretrained, samples)) != 1:
        raise UserError(
            "give one of run=… (a run folder), network=pretrained network.path=… (a model from elsewhere) and, in evaluate.py, "
            "samples=… (a folder of images, or an .npz with arr_0)"
        )
    if run is not None:
        return checked_run(run) / kind
    source = Path(str(samples or pretrained))
    name = source.stem if source.suffix in (".pt", ".ckpt", ".npz") else source.name
    return Path("outputs") / kind / name if pretrained is None else Path("outputs") / "pretrained" / name / kind


def results_folder(output_dir: str) -> Path:
    """Where evaluate.py or sample.py writes. Raises FolderInUseError for a run's own folder."""
    folder = Path(output_dir)
    if (folder / "config.yaml").is_file():
        raise FolderInUseError(
            f"hydra.run.dir={folder} is a run's folder, whose own numbers and pictures would be replaced: name another, or "
            "leave it out for a new one in there"
        )
    return folder


def read_metrics(folder: Path) -> dict[str, Any]:
    """The folder's metrics.json, empty if there is none."""
    path = folder / "metrics.json"
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): move it away") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint's plain tensors, once every byte has met its checksum; nothing else is unpickled.

    Raises FileNotFoundError, or ValueError for a damaged or foreign file.
    """
    if not path.is_file():
        raise NoSuchFileError(f"there is no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise zipfile.BadZipFile(f"{broken} has another checksum")
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): it is damaged or of another kind"
        ) from error
    if not isinstance(loaded, dict) or not {"state_dict", "global_step"} <= loaded.keys():
        raise UserError(f"{path} holds no state_dict and global_step: it is not a checkpoint of train.py")
    return loaded


def check_same(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise ValueError, naming what differs, unless both hold tensors of the same names and shapes."""
    missing = [key for key in wanted if key not in found]
    unexpected = [key for key in found if key not in wanted]
    shapes = [k for k in wanted if k in found and getattr(wanted[k], "shape", None) != getattr(found[k], "shape", None)]
    if not (missing or unexpected or shapes):
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} tensors are missing (first {missing[0]})")
    if unexpected:
        parts.append(f"{len(unexpected)} are not expected (first {unexpected[0]})")
    if shapes:
        first = shapes[0]
        parts.append(
            f"{len(shapes)} have another shape (first {first}: {tuple(found[first].shape)} in the file, "
            f"{tuple(wanted[first].shape)} here)"
        )
    raise UserError(f"{path} is of another model: {'; '.join(parts)}; use the options in its run's config.yaml")


def weights_prefix(weights: str, ema_rates: list[float]) -> str:
    """Where a checkpoint's state_dict holds "raw", "ema" (the first average) or average number i."""
    if weights == "raw" or (weights == "ema" and not ema_rates):
        return "denoiser.network."
    index = "0" if weights == "ema" else weights
    if index.isdigit() and int(index) < len(ema_rates):
        return f"emas.{index}.network."
    raise UserError(
        f"weights={weights} is neither ema, raw, nor the number of one of the run's {len(ema_rates)} averages "
        f"(ema_rates={ema_rates}), counted from 0"
    )
