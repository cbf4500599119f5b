"""What a session of W&B left in its folder: the history that it logged, and whether `wandb sync` has sent it."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7  # LevelDB's log format, around protobuf records
STEP = "trainer/global_step"  # Lightning's name for the optimizer's step


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file, up to where a killed session broke off."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    offset, parts = HEADER, []
    while offset + HEADER <= len(data):
        if BLOCK - offset % BLOCK < HEADER:  # a record's header never crosses a block
            offset += BLOCK - offset % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[offset : offset + HEADER])
        part = data[offset + HEADER : offset + HEADER + length]
        if kind == 0 or len(part) < length:
            return
        parts.append(part)
        offset += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def history(session: Path) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """The optimizer's step, None where it was not told, and the values of every row that a session's folder holds."""
    for path in sorted(session.glob("run-*.wandb")):
        for record in records(path):
            if record.WhichOneof("record_type") != "history":
                continue
            row: dict[str, Any] = {}
            for item in record.history.item:
                *groups, name = item.nested_key or [item.key]
                place = row
                for group in groups:
                    place = place.setdefault(group, {})
                place[name] = json.loads(item.value_json)
            yield row.pop(STEP, None), row


def delivered(session: Path, rows: int) -> int:
    """How many of the first `rows` of a session a server has.

    Of an offline session none, until `wandb sync` has sent it. A session that was online and killed had its last seconds
    under way: the client's own log tells what was answered.
    """
    if any(session.glob("*.wandb.synced")):
        return rows
    log = session / "logs" / "debug-internal.log"
    if session.name.startswith("offline-") or not log.is_file():
        return 0
    sending = answered = 0
    for line in log.read_text(errors="replace").splitlines():
        if '"filestream: sending request"' in line:
            sending = int(found[1]) if (found := re.search(r'"history_lines":(\d+)', line)) else 0
        elif '"filestream: request sent","status":"200' in line:
            answered, sending = answered + sending, 0
    return min(answered, rows)


def sessions(folder: Path, run_id: str | None) -> list[Path]:
    """The folders of a run's sessions under `folder`, oldest first."""
    return sorted(folder.glob(f"*run-*-{run_id}"), key=lambda path: path.name.removeprefix("offline-"))
