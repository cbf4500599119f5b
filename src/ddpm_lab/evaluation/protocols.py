"""Whether numbers may be compared: what the protocols beside them have in common, and in what they differ."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

Protocol = Mapping[str, Any]

# Of the model and of the place; two numbers that differ in no more are of one protocol.
OF_THE_MODEL = {"step", "weights", "variance", "seed", "commit", "packages", "batch_size"}


def protocol_of(metrics: Mapping[str, Any], name: str) -> Protocol:
    """The protocol of a number of metrics.json: its own, or of the number that it is a part of; empty where there is none."""
    of = [key.removesuffix("_protocol") for key in metrics if key.endswith("_protocol")]
    whole = max((key for key in of if name == key or name.startswith(f"{key}_")), key=len, default=None)
    return {} if whole is None else metrics[f"{whole}_protocol"]


def differences(protocols: Sequence[Protocol], may_differ: Collection[str]) -> list[str]:
    """The keys, other than `may_differ`, of which protocols have different values. Whether there are labels is the model's."""
    keys = dict.fromkeys(key for protocol in protocols for key in protocol if key not in may_differ)
    values = {key: {_said(p[key]) for p in protocols if key in p and (key, p[key]) != ("labels", None)} for key in keys}
    return [key for key, found in values.items() if len(found) > 1]


def refusal(name: str, protocols: Sequence[tuple[str, Protocol]], keys: Sequence[str]) -> str:
    """Why a number is not compared: for each key its values, each with the first, by name, whose it is."""
    parts = []
    for key in keys:
        first: dict[str, str] = {}
        for whose, protocol in protocols:
            if key in protocol:
                first.setdefault(repr(protocol[key]), whose)
        parts.append(f"{key}: {', '.join(f'{value} for {whose}' for value, whose in first.items())}")
    return f"{name} is left out, for numbers of different protocols are not compared: {'; '.join(parts)}"


def _said(value: Any) -> str:
    """The value as it is compared: one with a seed in its words, as any of another seed."""
    return re.sub(r"\bseed \d+", "seed", str(value))
