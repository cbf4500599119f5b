"""What --help prints: how a door is called, what can be chosen, and every option with the value that it has now."""

from __future__ import annotations

import re
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf, open_dict


def usage(command: str, config_name: str, root: Path, overrides: list[str]) -> str:
    """The help of a command whose options are root/conf/<config_name>.yaml, with the overrides of its command line.

    Hydra's own lists every group of all doors, and takes a second for it.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        config = compose(config_name, overrides, return_hydra_config=True)
    lines = [
        f"python {command} [group=choice …] [key=value …]",
        "",
        "  -m          a job for each of the values in a list: schedule=linear,cosine",
        "  --cfg job   print the options and do nothing",
        "",
        "Groups (group=choice; what is taken now stands first):",
        "",
    ]
    for group, chosen in sorted(config.hydra.runtime.choices.items()):
        if not group.startswith("hydra/"):
            names = [name for name in _choices(root, config_name, group) if name != chosen]
            lines.append(f"  {group:<18}{' '.join([str(chosen or '(none)'), *names])}")
    with open_dict(config):
        del config["hydra"]
    said = dict(re.findall(r"^(\w+):.*?# (.+)$", (root / "conf" / f"{config_name}.yaml").read_text(), re.MULTILINE))
    options = []
    for line in OmegaConf.to_yaml(config).splitlines():
        comment = said.get(line.split(":")[0])
        options.append(line if comment is None else f"{line:<32} # {comment}")
    return "\n".join([*lines, "", "Options (key=value, and key.inner=value):", "", *options])


def _choices(root: Path, config_name: str, group: str) -> list[str]:
    """The names of a group's files; of one that only this door has, conf/<config_name>/<group>."""
    folders = [root / "conf" / group, root / "conf" / config_name / group, root / group]
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.glob("**/*.yaml"))
