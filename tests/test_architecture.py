"""The house rules: who may import whom, no circle, no long file, empty __init__.py."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src"
MODULES = {
    ".".join(path.relative_to(SRC).with_suffix("").parts): path
    for path in sorted(SRC.glob("ddpm_lab/**/*.py"))
    if path.name != "__init__.py"
}
DOORS = ("train.py", "sample.py", "evaluate.py", "report.py", "convert.py")

# A room (or module) may import itself, errors and these. seeds, parts, pixels, pictures and wording are leaves that anyone may
# use.
LEAVES = {"seeds", "parts", "pixels", "pictures", "wording", "provenance"}
MAY_IMPORT = {
    "diffusion": set(),
    "samplers": {"diffusion", "seeds", "wording"},
    "networks": set(),
    "training": {"diffusion", "samplers", "seeds"},
    "metrics": {"ranks", "pixels", "parts"},
    "evaluation": {"metrics", "diffusion", "samplers", "ranks", "runs", *LEAVES},
    "steering": {"evaluation", "diffusion", "samplers", "data", *LEAVES},
    "callbacks": {"training", "evaluation", "metrics", "diffusion", "samplers", "runs", "dashboards", *LEAVES},
    "data": {"pixels", "parts"},
    "checkpoints": {"networks", "diffusion"},
    "seeds": set(),
    "parts": set(),
    "pixels": set(),
    "pictures": {"pixels"},
    "wording": set(),
    "ranks": set(),
    "errors": set(),
    "provenance": set(),
    "runs": {"provenance"},
    "dashboards": set(),
    "sweeps": {"evaluation", "folders"},
    "folders": set(),
    "jobs": {"folders"},
    "arguments": set(),
    "searchpath": set(),
    "cli": {"runs", "folders", "jobs", "sweeps", "usage", "arguments", "searchpath", "sentences"},
    "sentences": {"folders", "jobs", "searchpath", "targets"},
    "targets": set(),
    "usage": {"searchpath"},
    "tasks": {
        *("training", "callbacks", "evaluation", "metrics", "diffusion", "samplers", "data", "ranks", "runs"),
        *("folders", "jobs", "sweeps", "steering", "searchpath", "checkpoints", "networks"),
        *LEAVES,
    },
}
INSIDE_DIFFUSION = {
    "coefficients": set(),
    "schedules": set(),
    "weightings": set(),
    "gaussian": set(),
    "timesteps": {"coefficients"},
    "process": {"gaussian", "coefficients"},
    "predictions": {"process", "coefficients"},
    "variances": {"coefficients"},
    "denoiser": {"predictions", "variances", "process", "gaussian", "coefficients"},
    "guidance": {"denoiser", "process", "gaussian", "coefficients"},
    "classifier": {"denoiser", "process"},
    "likelihood": {"denoiser", "process", "gaussian"},
    "objectives": {"likelihood", "denoiser", "variances", "weightings", "coefficients"},
}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides who imports whom"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", list(MODULES))
def test_a_room_imports_only_what_it_may(module: str) -> None:
    for name in imports(MODULES[module]):
        if name.startswith("ddpm_lab.") and room(name) not in (room(module), "errors"):
            assert room(name) in MAY_IMPORT[room(module)], f"{module} must not import {name}"


def test_inside_diffusion() -> None:
    for module, path in MODULES.items():
        if room(module) == "diffusion":
            _, _, leaf = module.split(".")
            used = {name.split(".")[2] for name in imports(path) if name.startswith("ddpm_lab.diffusion.")}
            assert used <= INSIDE_DIFFUSION[leaf], f"{module} must not import {used - INSIDE_DIFFUSION[leaf]}"


@pytest.mark.parametrize("name", ["diffusion", "networks", "samplers"])
def test_the_mathematics_needs_torch_alone(name: str) -> None:
    for module, path in MODULES.items():
        if room(module) == name:
            foreign = {n.split(".")[0] for n in imports(path)} - set(sys.stdlib_module_names) - {"torch", "ddpm_lab"}
            assert not foreign, f"{module} imports {foreign}"


def test_lightning_and_hydra_keep_to_their_rooms() -> None:
    for module, path in MODULES.items():
        top = {name.split(".")[0] for name in imports(path)}
        if "lightning" in top:
            assert room(module) in {"training", "callbacks", "data", "tasks"}, module
        if "hydra" in top:
            assert room(module) in {
                "tasks",
                "cli",
                "usage",
                "sweeps",
                "folders",
                "arguments",
                "searchpath",
                "sentences",
                "targets",
            }, module
        assert "hydra.utils.instantiate" not in imports(path) or room(module) == "tasks", module


def test_no_circle() -> None:
    edges = {m: {n for n in imports(path) if n in MODULES} for m, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"a circle: {' -> '.join((*trail, module))}"
        if module not in done:
            for other in edges[module]:
                visit(other, (*trail, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_files_stay_short() -> None:
    for path in [*MODULES.values(), *(ROOT / door for door in DOORS)]:
        assert len(path.read_text().splitlines()) <= 400, path
    for door in DOORS:
        assert len((ROOT / door).read_text().splitlines()) <= 12, door


def test_packages_are_empty() -> None:
    for path in SRC.glob("ddpm_lab/**/__init__.py"):
        assert path.read_text() == "", path


def test_the_lock_names_no_registry() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text()
