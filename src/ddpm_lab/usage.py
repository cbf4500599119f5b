"""What --help prints: how a door is called, what can be chosen, and every option with the value that it has now."""

from __future__ import annotations

import re
from pathlib import Path

from hydra import compose
from omegaconf import OmegaConf, open_dict

from ddpm_lab import searchpath


def usage(command: str, config_name: str, file: Path, overrides: list[str]) -> str:
    """The help of a command, with the overrides of its command line; `file` has a comment for each of its options.

    Hydra's own lists every group of all doors, and takes a second for it.
    """
    with searchpath.opened():
        config = compose(config_name, overrides, return_hydra_config=True)
        chosen = {group: name for group, name in config.hydra.runtime.choices.items() if not group.startswith("hydra/")}
        names = {group: searchpath.choices(group) for group in chosen}
    lines = [
        f"python {command} [group=choice …] [key=value …]",
        "",
        "  -m          a job for each of the values in a list: schedule=linear,cosine",
        "  --cfg job   print the options and do nothing",
        "  --config-dir=X   choices of your own: X/network/mine.yaml is network=mine (docs/own_repository.md)",
        "",
        "Groups (group=choice; what is taken now stands first):",
        "",
    ]
    for group, name in sorted(chosen.items()):
        others = [other for other in names[group] if other != name]
        lines.append(f"  {group:<18}{' '.join([str(name or '(none)'), *others])}")
    with open_dict(config):
        del config["hydra"]
    said = dict(re.findall(r"^(\w+):.*?# (.+)$", file.read_text(), re.MULTILINE))
    options = []
    for line in OmegaConf.to_yaml(config).splitlines():
        comment = said.get(line.split(":")[0])
        options.append(line if comment is None else f"{line:<32} # {comment}")
    return "\n".join([*lines, "", "Options (key=value, and key.inner=value):", "", *options])
