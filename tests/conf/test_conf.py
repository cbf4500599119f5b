"""Every configuration composes, every section of it is built, and every combination trains or is refused."""

import functools
import inspect
import itertools
from collections.abc import Callable
from pathlib import Path

import lightning
import pytest
import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ddpm_lab import searchpath
from ddpm_lab.diffusion.process import Process
from ddpm_lab.tasks.building import build_module

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
DOORS = ("train", "sample")  # have groups of their own, conf/DOOR/GROUP
CHOICES = {
    folder.name: sorted(p.stem for p in folder.glob("*.yaml"))
    for folder in CONF.iterdir()
    if folder.is_dir() and folder.name not in DOORS
}
RECIPES = sorted(str(p.relative_to(ROOT / "experiments").with_suffix("")) for p in ROOT.glob("experiments/*/*.yaml"))
GIVEN = {"explicit": ["schedule.betas=[0.1,0.2]"]}  # what a choice has no default for
SMALL = ["schedule.T=25", "logger=csv"]


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    searchpath.enter(CONF, "train")
    with searchpath.opened():
        yield


def composed(*overrides: str, config: str = "train") -> DictConfig:
    return _composed(overrides, config).copy()


@functools.cache
def _composed(overrides: tuple[str, ...], config: str) -> DictConfig:
    if config == "train":
        return compose(config, list(overrides))
    with searchpath.opened(config):
        return compose(config, list(overrides))


OF_EVALUATION = ("bound", "dashboard", "guidance")


def rows(choices: dict[str, list[str]]) -> list[dict[str, str]]:
    """So many pickings of one choice of every group that each is picked: to compose costs a third of a second."""
    longest = max(map(len, choices.values()))
    return [{group: names[i % len(names)] for group, names in choices.items()} for i in range(longest)]


@pytest.mark.parametrize(
    ("config", "row"),
    [
        (config, row)
        for config in ("train", "evaluate")
        for row in rows({g: names for g, names in CHOICES.items() if (g in OF_EVALUATION) == (config == "evaluate")})
    ],
)
def test_every_choice_composes_and_names_what_exists(config: str, row: dict[str, str]) -> None:
    targets = []

    def collect(node) -> None:
        if OmegaConf.is_dict(node):
            if "_target_" in node:
                targets.append(node._target_)
            for key in node:
                if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
                    collect(node[key])

    collect(composed(*(f"{group}={choice}" for group, choice in row.items()), config=config))
    for target in targets:
        module, _, name = target.rpartition(".")
        assert hasattr(__import__(module, fromlist=[name]), name), target


@pytest.mark.parametrize("group", ["schedule", "prediction", "variance", "weighting", "timestep_sampler", "sampler"])
def test_every_choice_is_built(group: str) -> None:
    for choice in CHOICES[group]:
        node = composed(f"{group}={choice}", *GIVEN.get(choice, []))[group]
        built = instantiate(node, T=50) if group == "timestep_sampler" else instantiate(node)
        assert built is not None
        if group == "schedule":
            assert built.shape == (node.get("T", 2),)


@pytest.mark.parametrize("task", sorted(p.stem for p in (CONF / "sample" / "task").glob("*.yaml")))
def test_every_task_of_sample_is_built_and_counts(task: str) -> None:
    config = composed(f"task={task}", "run=somewhere", config="sample")
    assert instantiate(config.task).name == {"generate": "samples"}.get(task, task)
    assert config.n > 0
    assert composed(f"task={task}", "run=somewhere", "n=3", config="sample").n == 3
    assert composed(f"task={task}", "run=somewhere", "sampler=ddim", config="sample").sampler.eta == 0


@pytest.mark.parametrize("network", [name for name in CHOICES["network"] if name.startswith("classifier")])
@pytest.mark.parametrize("pool", ["AttentionPool", "AdaptivePool", "SpatialPool", "NormedSpatialPool"])
def test_every_classifier_ends_in_classes_by_every_pool(network: str, pool: str) -> None:
    options = [f"network.pool._target_=ddpm_lab.networks.noisy_classifier.{pool}"]
    if pool != "AttentionPool":
        options.append("~network.pool.head_channels")
    config = composed("task=classifier", f"network={network}", *options, *SMALL)
    module = build_module(config)
    assert type(module.denoiser.network.pool).__name__ == pool
    losses = module.objective(module.denoiser, torch.zeros(2, 1, 8, 8), torch.tensor([1, 25]), torch.tensor([0, 9]))
    assert losses["loss"].shape == losses["accuracy"].shape == (2,)


def test_what_task_and_network_do_not_share_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"task=classifier needs a network that ends in classes.*ADMUNet ends in images"
    ):
        build_module(composed("task=classifier", "network=tiny", *SMALL))
    with pytest.raises(ValueError, match="NoisyClassifier has no images as output"):
        build_module(composed("network=classifier_tiny", *SMALL))
    with pytest.raises(ValueError, match="data=digits has no labelled classes"):
        build_module(composed("task=classifier", "data.num_classes=null", *SMALL))
    with pytest.raises(ValueError, match="label_dropout drops labels"):
        build_module(composed("label_dropout=0.1", *SMALL))
    for p in ("1.0", "-0.1", "often"):
        with pytest.raises(ValueError, match=f"label_dropout={p} is a probability"):
            build_module(composed("class_conditional=true", f"label_dropout={p}", *SMALL))


def test_dropped_labels_have_a_row_of_their_own() -> None:
    for p, rows in (("0.0", 10), ("0.1", 11)):
        module = build_module(composed("class_conditional=true", f"label_dropout={p}", *SMALL))
        assert module.denoiser.network.time.label.num_embeddings == rows


@pytest.mark.parametrize("recipe", [name for name in RECIPES if "classifier" in name])
def test_every_recipe_of_a_classifier_is_one(recipe: str) -> None:
    config = composed(f"experiments={recipe}")
    assert config.task.name == "classifier"
    assert build_module(config).conditional


@pytest.mark.parametrize("recipe", [name for name in RECIPES if "classifier" not in name])
def test_every_recipe_is_a_model(recipe: str) -> None:
    config = composed(f"experiments={recipe}")
    variance, objective = instantiate(config.variance), instantiate(config.objective)
    objective.check(variance)
    T = len(instantiate(config.schedule))
    assert instantiate(config.timestep_sampler, T=T).probabilities().shape == (T,)
    assert instantiate(config.sampler).times(Process(instantiate(config.schedule)))[-1] <= T
    channels = config.data.channels
    with torch.device("meta"):
        network = instantiate(
            config.network,
            image_size=config.data.image_size,
            in_channels=channels,
            out_channels=channels * variance.heads,
            num_classes=None,
        )
    optimizer = instantiate(config.optimizer)(network.parameters())
    assert instantiate(config.lr_scheduler)(optimizer).get_last_lr()[0] > 0


def test_every_argument_of_the_trainer_is_an_option() -> None:
    arguments = set(inspect.signature(lightning.Trainer.__init__).parameters) - {"self", "callbacks", "logger"}
    assert arguments == set(composed().trainer) - {"_target_"}


def test_an_objective_brings_its_variance_and_the_command_line_wins() -> None:
    assert "LearnedRange" in composed("objective=hybrid").variance._target_
    assert "LearnedRange" in composed("objective=vlb").variance._target_
    assert "FixedSmall" in composed("objective=vlb", "variance=fixed_small").variance._target_
    assert "Learned" in composed("variance=learned", "objective=hybrid").variance._target_
    assert "LearnedRange" not in composed("variance=learned", "objective=hybrid").variance._target_
    assert "FixedLarge" in composed("objective=simple").variance._target_


COMBINED = {
    group: [choice for choice in CHOICES[group] if choice not in GIVEN]
    for group in ("schedule", "prediction", "variance", "objective", "timestep_sampler")
}
COMBINATIONS = list(itertools.product(*COMBINED.values()))


def sensible(variance: str, objective: str) -> bool:
    learned = variance.startswith("learned")
    return {"simple": not learned, "hybrid": learned, "vlb": True}[objective]


def covering(combinations: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """A few of the combinations in which every two choices that ever meet, meet."""

    def pairs(combination: tuple[str, ...]) -> set[tuple[int, str, int, str]]:
        return {(i, a, j, b) for (i, a), (j, b) in itertools.combinations(enumerate(combination), 2)}

    left, found = set().union(*map(pairs, combinations)), []
    while left:
        found.append(max(combinations, key=lambda combination: len(pairs(combination) & left)))
        left -= pairs(found[-1])
    return found


@pytest.fixture(scope="module")
def combined() -> Callable[[tuple[str, ...]], DictConfig]:
    """Turns one configuration into that of a combination, by sections that were composed once each."""
    found = [(row, composed(*(f"{group}={choice}" for group, choice in row.items()), *SMALL)) for row in rows(COMBINED)]
    sections = {(group, choice): config[group] for row, config in found for group, choice in row.items()}
    one = composed(*SMALL, "network.model_channels=32", "network.num_res_blocks=1", "network.channel_mult=[1]")

    def of(combination: tuple[str, ...]) -> DictConfig:
        for place in zip(COMBINED, combination, strict=True):
            one[place[0]] = sections[place]
        return one

    return of


def test_every_combination_is_accepted_or_refused(combined: Callable[[tuple[str, ...]], DictConfig]) -> None:
    """Schedules x predictions x variances x objectives x timestep samplers."""
    for combination in COMBINATIONS:
        config = combined(combination)
        if sensible(*combination[2:4]):
            instantiate(config.task).check(config)
        else:
            with pytest.raises(ValueError, match="set variance="):
                instantiate(config.task).check(config)


def test_every_two_choices_train_together(combined: Callable[[tuple[str, ...]], DictConfig]) -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 1, 8, 8) * 2 - 1
    for combination in covering([each for each in COMBINATIONS if sensible(*each[2:4])]):
        module = build_module(combined(combination))
        optimizer = module.configure_optimizers()["optimizer"]
        for _ in range(2):
            t, weight = module.timesteps.draw(4)
            losses = module.objective(module.denoiser, x, t)
            module.timesteps.update(t, losses["loss"].detach())
            optimizer.zero_grad()
            (weight * losses["loss"]).mean().backward()
            norm = torch.nn.utils.clip_grad_norm_(module.denoiser.parameters(), 1.0)
            assert torch.isfinite(norm), combination
            optimizer.step()
        assert all(torch.isfinite(p).all() for p in module.denoiser.parameters()), combination


def test_a_weighting_that_plays_no_part_is_refused() -> None:
    with pytest.raises(ValueError, match="weighting=min_snr has no part"):
        build_module(composed("objective=vlb", "weighting=min_snr", *SMALL))


@pytest.mark.parametrize("weighting", CHOICES["weighting"])
@pytest.mark.parametrize("objective", ["simple", "hybrid"])
def test_weightings_reach_the_objective(objective: str, weighting: str) -> None:
    module = build_module(composed(f"objective={objective}", f"weighting={weighting}", *SMALL))
    assert module.objective.weighting.func.__name__ == weighting


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_how_its_averages_begin(recipe: str) -> None:
    """As the paper's code does; for so few steps that a constant rate would keep the initial weights, with warm-up."""
    config = composed(f"experiments={recipe}")
    assert "ema_warmup:" in (ROOT / "experiments" / f"{recipe}.yaml").read_text()
    if recipe.startswith(("ho2020/", "nichol2021/cifar10", "nichol2021/imagenet64")):
        assert not config.ema_warmup
    if not config.ema_warmup:
        assert max(config.ema_rates) ** config.trainer.max_steps < 0.001
