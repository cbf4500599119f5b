"""Reads an offline W&B run: LevelDB's log format around protobuf records, which the installed package defines."""

import struct
from collections.abc import Iterator
from pathlib import Path

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7


def records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    offset, parts = HEADER, []
    while offset + HEADER <= len(data):
        if BLOCK - offset % BLOCK < HEADER:  # a record's header never crosses a block
            offset += BLOCK - offset % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[offset : offset + HEADER])
        parts.append(data[offset + HEADER : offset + HEADER + length])
        offset += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def keys_of(path: Path) -> dict[str, set[str]]:
    """Kind of record -> the keys in it."""
    found: dict[str, set[str]] = {"history": set(), "summary": set(), "config": set(), "kinds": set()}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        found["kinds"].add(kind)
        items = {
            "history": lambda r: r.history.item,
            "summary": lambda r: r.summary.update,
            "config": lambda r: r.config.update,
        }.get(kind)
        if items is not None:
            found[kind] |= {item.key or "/".join(item.nested_key) for item in items(record)}
        if kind == "artifact":
            found["artifacts"] = found.get("artifacts", set()) | set(record.artifact.aliases)
        if kind == "run":
            found["config"] |= {item.key for item in record.run.config.update}
            found["group"] = {record.run.run_group}
    return found
