"""What an offline W&B run holds."""

from pathlib import Path

from ddpm_lab.callbacks.wandb_file import records


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
