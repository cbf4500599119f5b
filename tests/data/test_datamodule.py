"""A real Trainer, and which images reach it at which step."""

import warnings
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from ddpm_lab.data.datamodule import DataModule
from ddpm_lab.data.memory import MemorySet
from ddpm_lab.parts import part
from ddpm_lab.pixels import to_uint8

pytestmark = [
    # Lightning asks for workers on machines with more cores than this one; a set in memory has nothing for them to do.
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    # Python 3.12 and later warn whenever a process with threads forks; torch's own thread pools are such threads.
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
    # Lightning 2.6 asks torch 2.15 for a type of tree node in a way that torch has deprecated.
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
    # Lightning warns that a checkpoint folder is in use when a run is resumed in it.
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory .* exists and is not empty.*"),
]

G = 4
TRAIN, TEST = 10, 7


def numbered(split: str) -> MemorySet:
    """Image i has label i, and its left column is i: a batch tells what is in it, flipped or not."""
    n = TRAIN if split == "train" else TEST
    images = torch.zeros(n, 1, 2, 2, dtype=torch.uint8)
    images[:, :, :, 0] = torch.arange(n)[:, None, None]
    return MemorySet(images, torch.arange(n))


def module(**changes: Any) -> DataModule:
    given = dict(
        name="numbered",
        dataset=numbered,
        image_size=2,
        channels=1,
        num_classes=TRAIN,
        batch_size=G,
        test_batch_size=3,
        num_workers=0,
        mirror=False,
        seed=5,
    )
    return DataModule(**given | changes)


def labels(loader: Any, count: int | None = None) -> list[list[int]]:
    return [batch[1].tolist() for batch in islice(loader, count)]


class Recorder(lightning.LightningModule):
    """Writes down the bytes it sees. Its weight depends on them, their order and the accumulation."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []
        self.evaluated: list[int] = []
        self.fail_at = fail_at

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if batch_idx == self.fail_at:
            raise RuntimeError("pulled the plug")
        self.seen.append(to_uint8(batch[0]).flatten().tolist())
        return (self.weight - batch[0].mean()).square()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.evaluated += batch[1].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class SaveIn(lightning.Callback):
    """Saves a checkpoint in one hook, once the model has seen so many batches."""

    def __init__(self, hook: str, path: Path, batches: int) -> None:
        def save(trainer: lightning.Trainer, model: Recorder, *_: object) -> None:
            if len(model.seen) == batches:
                trainer.save_checkpoint(path)

        setattr(self, hook, save)


@dataclass
class Run:
    data: DataModule
    model: Recorder = field(default_factory=Recorder)
    failed: bool = False


def fit(path: Path, steps: int, *, resume: Path | None = None, fail_at: int | None = None, **options: Any) -> Run:
    changes = {key: options.pop(key) for key in ("num_workers", "mirror", "batch_size") if key in options}
    run = Run(module(**changes), Recorder(fail_at))
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"enable_checkpointing": False, "limit_val_batches": 0} | options,
    )
    try:
        trainer.fit(run.model, run.data, ckpt_path=resume)
    except RuntimeError as error:
        if str(error) != "pulled the plug":
            raise
        run.failed = True
    return run


# the stream and the Trainer


def test_the_trainer_sees_the_stream(tmp_path):
    run = fit(tmp_path, 12)
    expected = [[b for i in batch for b in (i, 0, i, 0)] for batch in labels(module().train_dataloader(), 12)]
    assert run.model.seen == expected


@pytest.mark.parametrize("mirror", [False, True])
def test_workers_do_not_change_the_stream(tmp_path, mirror):
    assert fit(tmp_path, 9, num_workers=2, mirror=mirror).model.seen == fit(tmp_path, 9, mirror=mirror).model.seen


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_interrupted_run_resumes_where_it_was(tmp_path, accumulate, num_workers):
    options = {"accumulate_grad_batches": accumulate, "num_workers": num_workers, "mirror": True}
    whole = fit(tmp_path, 12, **options)

    def saving() -> dict[str, Any]:
        checkpoint = ModelCheckpoint(tmp_path / "runs", "{step}", every_n_train_steps=7, save_top_k=-1)
        return {"callbacks": [checkpoint], "enable_checkpointing": True}

    broken = fit(tmp_path, 12, fail_at=9 * accumulate, **options, **saving())
    assert broken.failed
    assert broken.data.state_dict() == {"samples": 9 * accumulate * G}
    resumed = fit(tmp_path, 12, resume=tmp_path / "runs" / "step=7.ckpt", **options, **saving())
    assert len(resumed.model.seen) == 5 * accumulate
    assert resumed.model.seen == whole.model.seen[7 * accumulate :]
    assert torch.equal(resumed.model.weight, whole.model.weight)
    assert resumed.data.state_dict() == {"samples": 12 * accumulate * G}


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_end", "on_exception"])
def test_whichever_hook_saves_no_batch_is_lost_or_repeated(tmp_path, hook):
    options = {"val_check_interval": 2, "check_val_every_n_epoch": None, "limit_val_batches": 1.0}
    whole = fit(tmp_path, 10, **options)
    fit(tmp_path, 10, fail_at=6, callbacks=[SaveIn(hook, tmp_path / "six.ckpt", 6)], **options)
    resumed = fit(tmp_path, 10, resume=tmp_path / "six.ckpt", **options)
    assert resumed.model.seen == whole.model.seen[6:]


def test_a_run_that_was_resumed_resumes(tmp_path):
    whole = fit(tmp_path, 9)
    for start in (3, 6):
        saving = SaveIn("on_train_batch_end", tmp_path / f"{start}.ckpt", 3)
        resume = tmp_path / f"{start - 3}.ckpt" if start > 3 else None
        assert fit(tmp_path, start, resume=resume, callbacks=[saving]).model.seen == whole.model.seen[start - 3 : start]
    assert fit(tmp_path, 9, resume=tmp_path / "6.ckpt").model.seen == whole.model.seen[6:]


def test_another_batch_size_goes_on_at_the_same_sample(tmp_path):
    fit(tmp_path, 3, callbacks=[SaveIn("on_train_batch_end", tmp_path / "three.ckpt", 3)])
    resumed = fit(tmp_path, 5, resume=tmp_path / "three.ckpt", batch_size=6)
    samples = [i for batch in labels(module().train_dataloader(), 6) for i in batch]
    assert [batch[::4] for batch in resumed.model.seen] == [samples[12:18], samples[18:24]]
    assert resumed.data.state_dict() == {"samples": 24}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epochs_cut_by_lightning_go_on_in_the_stream(tmp_path, num_workers):
    assert fit(tmp_path, 8, limit_train_batches=3, num_workers=num_workers).model.seen == fit(tmp_path, 8).model.seen


def test_fitting_on_goes_on_in_the_stream(tmp_path):
    run, whole = fit(tmp_path, 3), fit(tmp_path, 7)
    trainer = run.data.trainer
    assert trainer is not None
    trainer.fit_loop.epoch_loop.max_steps = 7
    trainer.fit(run.model, run.data)
    assert run.model.seen == whole.model.seen


def test_validation_sees_the_test_split_once_and_in_order(tmp_path):
    run = fit(tmp_path, 4, val_check_interval=2, check_val_every_n_epoch=None, limit_val_batches=1.0, mirror=True)
    assert run.model.evaluated == list(range(TEST)) * 2


@pytest.mark.parametrize(("limit", "batches"), [(1, 1), (2, 2), (0.7, 2)])
def test_a_limited_validation_sees_a_part_spread_over_the_split(tmp_path, limit, batches):
    run = fit(tmp_path, 2, val_check_interval=2, check_val_every_n_epoch=None, limit_val_batches=limit)
    assert run.model.evaluated != list(range(3 * batches))
    assert sorted(run.model.evaluated) == part(TEST, 3 * batches, seed=0)


def test_a_few_images_to_learn_by_heart_are_spread_over_the_set():
    few = [i for batch in labels(module(first=4).train_dataloader(), 5) for i in batch]
    assert sorted(set(few)) == part(TRAIN, 4, seed=0) != [0, 1, 2, 3]


# without a Trainer


def rank_of(rank: int, world: int, **changes: Any) -> DataModule:
    data = module(**changes)
    total = SimpleNamespace(processed=0)
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(total=total)))
    trainer = SimpleNamespace(global_rank=rank, world_size=world, fit_loop=loop, limit_val_batches=1.0)
    data.trainer = trainer  # type: ignore[assignment]
    return data


def test_two_ranks_together_see_the_batch_of_one():
    alone = labels(module().train_dataloader(), 8)
    first, second = (labels(rank_of(rank, 2).train_dataloader(), 8) for rank in (0, 1))
    assert [a + b for a, b in zip(first, second, strict=True)] == alone


def test_two_ranks_together_evaluate_every_image_once():
    ranks = [[i for batch in labels(rank_of(rank, 2).val_dataloader()) for i in batch] for rank in (0, 1)]
    assert ranks == [[0, 2, 4, 6], [1, 3, 5]]
    assert [i for batch in labels(module().test_dataloader()) for i in batch] == list(range(TEST))


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(ValueError, match=r"data\.batch_size is the global batch .* number, 3, and is 4"):
        rank_of(0, 3).train_dataloader()
    for key in ("batch_size", "test_batch_size"):
        with pytest.raises(ValueError, match=rf"data\.{key} must be positive and is 0\."):
            module(**{key: 0})


@pytest.mark.parametrize(("cores", "ranks", "expected"), [(2, 1, 2), (2, 4, 1), (64, 1, 8), (64, 16, 4)])
def test_workers_share_the_cores_that_there_are(monkeypatch, cores, ranks, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    data = rank_of(0, 1)
    data.num_workers, data.trainer.num_devices = "auto", ranks
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of more workers than cores
        assert data.val_dataloader().num_workers == expected
    with pytest.raises(ValueError, match=r"data\.num_workers=many is a number of processes, 0 or more, or auto"):
        module(num_workers="many")


@pytest.mark.parametrize("channels", [0, 5])
def test_images_that_cannot_be_shown_are_refused_before_they_are_trained_on(channels: int) -> None:
    with pytest.raises(
        ValueError, match=rf"data\.channels={channels} is of no image .*1 \(grey\), .*4 \(RGB with alpha\)"
    ):
        module(channels=channels)


def test_mirrored_training_shows_each_image_and_its_mirror_image_once_a_pass():
    loader = module(mirror=True, batch_size=1).train_dataloader()
    seen = sorted(tuple(images.flatten().tolist()) for images, _ in islice(loader, 2 * TRAIN))
    assert seen == sorted([(i, 0, i, 0) for i in range(TRAIN)] + [(0, i, 0, i) for i in range(TRAIN)])


def test_loading_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    data = module()
    labels(data.train_dataloader(), 5)
    labels(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_images_for_grids():
    images, classes = module(mirror=True).train_images(3)
    assert images.shape == (3, 1, 2, 2)
    assert images.dtype == torch.float32
    assert classes.tolist() == part(TRAIN, 3, seed=0) != [0, 1, 2]
    assert torch.equal(to_uint8(images)[:, 0, 0, 0], classes.to(torch.uint8))
    assert module().train_images(3, seed=1)[1].tolist() == part(TRAIN, 3, seed=1) != classes.tolist()
    assert module().test_images(TEST)[1].tolist() == list(range(TEST))
    with pytest.raises(ValueError, match="8 test images were asked for and the data set numbered has 7"):
        module().test_images(8)


def test_setup_loads_once_and_only_what_the_stage_needs():
    loaded = []

    def counting(split: str) -> MemorySet:
        loaded.append(split)
        return numbered(split)

    data = module(dataset=counting)
    data.setup("test")
    assert loaded == ["test"]
    data.setup("fit")
    data.setup("fit")
    data.train_dataloader()
    assert loaded == ["test", "train"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"channels": 3},
            r"numbered gives images \(C, H, W\) = \(1, 2, 2\) where .* declares \(3, 2, 2\): set data\.chan",
        ),
        ({"image_size": 32}, r"= \(1, 2, 2\) where the configuration declares \(1, 32, 32\)"),
        ({"dataset": lambda split: MemorySet(torch.empty(0, 1, 2, 2, dtype=torch.uint8))}, "train split .* is empty"),
    ],
)
def test_a_set_that_is_not_as_declared_is_refused_at_setup(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        module(**changes).setup("fit")


def test_a_label_out_of_range_is_refused_before_it_reaches_an_embedding():
    data = module(num_classes=9)
    with pytest.raises(ValueError, match=r"labels \d\.\.9 where the configuration declares data\.num_classes=9"):
        labels(data.train_dataloader(), 3)
    assert len(labels(module(num_classes=None).train_dataloader(), 3)) == 3


def test_float_images_are_refused():
    class Floats(MemorySet):
        def __getitems__(self, indices):
            images, classes = super().__getitems__(indices)
            return images / 255, classes

    with pytest.raises(TypeError, match=r"must give uint8 images and gave torch\.float32"):
        module(dataset=lambda split: Floats(numbered(split).images)).setup("fit")
