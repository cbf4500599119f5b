"""One DataModule for every data set: which bytes reach which rank at which step."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import lightning
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ddpm_lab.data.decoding import Background
from ddpm_lab.data.memory import Batch, ImageSet, Mirrored, Part
from ddpm_lab.data.splits import is_train
from ddpm_lab.data.stream import EndlessBatches, OrderedBatches
from ddpm_lab.errors import UserError, WrongTypeError
from ddpm_lab.parts import part, shuffled
from ddpm_lab.pixels import KINDS, to_float

MOST_WORKERS = 8  # that "auto" takes


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Declared:
    """Passes a batch on if it is what the configuration declares: an error here, on the CPU, names its cause.

    Args:
        name: of the data set.
        channels: C.
        image_size: H and W.
        num_classes: labels are below it; None means that labels are not used.

    """

    name: str
    channels: int
    image_size: int
    num_classes: int | None

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch: images uint8 [B, C, H, W], labels int64 [B].

        Raises:
            TypeError: if the images are not uint8.
            ValueError: if shape or labels are not as declared.

        """
        images, labels = batch
        if images.dtype != torch.uint8:
            raise WrongTypeError(f"The data set {self.name} must give uint8 images and gave {images.dtype}.")
        declared, found = (self.channels, self.image_size, self.image_size), tuple(images.shape[1:])
        if found != declared:
            raise UserError(
                f"The data set {self.name} gives images (C, H, W) = {found} where the configuration declares "
                f"{declared}: set data.channels and data.image_size to what the files hold."
            )
        if (
            self.num_classes is not None
            and len(labels)
            and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes
        ):
            raise UserError(
                f"The data set {self.name} gives labels {int(labels.min())}..{int(labels.max())} where the "
                f"configuration declares data.num_classes={self.num_classes}: labels count from 0 and stay below it."
            )
        return batch


class DataModule(lightning.LightningDataModule):
    """Feeds any data set to a Trainer, or to anyone else: without a Trainer it is rank 0 of 1.

    The training stream is endless and exact under resume: sample k depends on the seed, the set and k alone, and k is
    all that the state holds. Run the Trainer with use_distributed_sampler=False and no epochs (max_steps).

    Args:
        name: of the data set, for folders and errors.
        dataset: called as dataset(split="train") or dataset(split="test"); returns the images of that split.
        image_size: H and W of the images.
        channels: C, one of `pixels.KINDS`.
        num_classes: number of classes, or None where labels are not used.
        batch_size: the GLOBAL training batch, over all ranks.
        test_batch_size: batch of one rank in evaluation; changes no result.
        num_workers: decoding processes for each rank; 0 is fastest for sets in memory, "auto" shares the machine's cores among
            its ranks, up to MOST_WORKERS each.
        mirror: whether the training set also has each image's mirror image.
        seed: of the order of the training stream.
        first: train on so many images alone, chosen by seed 0 from all, to see a network learn them by heart; None: on all.
        inspect: whether a run tells at its start what is in the set.
        classes: how the set names its classes, where it has a choice; they are counted then, if num_classes is None.
        class_names: names of the classes in the order of their numbers, of a set that does not know them itself.
        background: what the set composites transparent pixels over, where it has a choice.

    Raises:
        ValueError: if a batch size is not positive, workers are no number, or channels are of no kind of image.

    """

    def __init__(
        self,
        *,
        name: str,
        dataset: Callable[..., ImageSet],
        image_size: int,
        channels: int,
        num_classes: int | None,
        batch_size: int,
        test_batch_size: int,
        num_workers: int | str = 0,
        mirror: bool,
        seed: int,
        first: int | None = None,
        inspect: bool = True,
        classes: object = None,
        class_names: Sequence[str] | None = None,
        background: Background = "white",
    ) -> None:
        super().__init__()
        for key, size in (("batch_size", batch_size), ("test_batch_size", test_batch_size)):
            if size < 1:
                raise UserError(f"data.{key} must be positive and is {size}.")
        if num_workers != "auto" and not (isinstance(num_workers, int) and num_workers >= 0):
            raise UserError(f"data.num_workers={num_workers} is a number of processes, 0 or more, or auto.")
        if channels not in KINDS:
            kinds = ", ".join(f"{count} ({kind})" for count, kind in KINDS.items())
            raise UserError(f"data.channels={channels} is of no image that can be shown: take one of {kinds}.")
        self.name: str = name
        self.image_size, self.channels, self.num_classes = image_size, channels, num_classes
        self.batch_size, self.test_batch_size, self.num_workers = batch_size, test_batch_size, num_workers
        self.mirror, self.seed, self.first, self.inspect = mirror, seed, first, inspect
        self.classes, self.background = classes, background
        self.class_names = None if class_names is None else tuple(class_names)
        self.dataset = dataset
        self._loaded: dict[str, ImageSet] = {}
        # The stream stood at sample `_samples` when the Trainer had processed `_batches` batches (None: not yet begun).
        self._samples = 0
        self._batches: int | None = None

    # What there is

    def images(self, split: str) -> ImageSet:
        """Return the images of a split, without flips; loaded at the first call, which tells the classes.

        Args:
            split: "train" or "test".

        Raises:
            ValueError: if the set is empty or its images or classes are not as declared, or the split is another.

        """
        is_train(split)
        if split not in self._loaded:
            images = self.dataset(split=split)
            if len(images) == 0:
                raise UserError(f"The {split} split of the data set {self.name} is empty.")
            self.tell_classes(images)
            self.declared(images.__getitems__([0]))
            self._loaded[split] = images
        return self._loaded[split]

    def trained_on(self) -> ImageSet:
        """Return the images of a pass over the data, without flips: the training split, or `first` of it."""
        images = self.images("train")
        return images if self.first is None else Part(images, self.first)

    def tell_classes(self, images: ImageSet) -> None:
        """Count and name the classes as a set of the data does.

        Raises:
            ValueError: if they are others than num_classes and class_names say.

        """
        # () where there are no labels, None where their names are not known.
        found: Sequence[str] | None = getattr(images, "classes", None)
        given = self.class_names
        if found is None:
            if given is not None and len(given) != self.num_classes:
                raise UserError(
                    f"data.class_names has {len(given)} names and data.num_classes is {self.num_classes}: name each class."
                )
            return
        if self.num_classes is None and self.classes is not None:
            self.num_classes = len(found)
        names = ", ".join(found[:20]) + (", …" if len(found) > 20 else "")
        if self.num_classes not in (None, len(found)):
            what, advice = f"{len(found)} classes ({names})", f"set it to {len(found)}"
            if not found:
                what, advice = (
                    "no labels",
                    "set it to null, or name those of a folder of images with data.classes=folders",
                )
            raise UserError(
                f"The data set {self.name} has {what} where the configuration declares data.num_classes={self.num_classes}: "
                f"{advice}."
            )
        if given is not None and given != tuple(found):
            raise UserError(
                f"The data set {self.name} has the classes {names}, and data.class_names says {', '.join(given)}: leave it out."
            )
        self.class_names = tuple(found) if found and self.num_classes is not None else None

    @property
    def declared(self) -> Declared:
        """What passes on a batch that is as the configuration declares."""
        return Declared(self.name, self.channels, self.image_size, self.num_classes)

    def train_images(self, n: int, seed: int = 0) -> Batch:
        """Return n training images that the seed chooses, float32 [n, C, H, W] in [-1, 1], and their labels int64 [n].

        Raises:
            ValueError: if there are fewer.

        """
        return self._part("train", n, seed)

    def test_images(self, n: int, seed: int = 0) -> Batch:
        """Return n test images that the seed chooses, float32 [n, C, H, W] in [-1, 1], and their labels int64 [n].

        Raises:
            ValueError: if there are fewer.

        """
        return self._part("test", n, seed)

    def _part(self, split: str, n: int, seed: int) -> Batch:
        images = self.images(split)
        if not 1 <= n <= len(images):
            raise UserError(f"{n} {split} images were asked for and the data set {self.name} has {len(images)}.")
        pixels, labels = self.declared(images.__getitems__(part(len(images), n, seed)))
        return to_float(pixels), labels

    # Lightning's hooks

    def setup(self, stage: str | None = None) -> None:
        """Load what the stage needs, so that a missing file or a wrong size is found before the first step."""
        for split in ("train", "test") if stage in ("fit", None) else ("test",):
            self.images(split)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return this rank's part of the endless stream, from the position of the state on.

        Raises:
            ValueError: if batch_size is not divisible by the number of ranks.

        """
        self._samples, self._batches = self._position(), self._processed()
        images = Mirrored(self.trained_on()) if self.mirror else self.trained_on()
        # The position is asked for at each iteration: limit_train_batches makes Lightning begin several.
        batches = EndlessBatches(len(images), self.batch_size, self.seed, self._position, *self._rank())
        return self._loader(images, batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the test split once, in order; rank r of W has the images r, r + W, …, without padding or flips.

        Under limit_val_batches the order is shuffled, by seed 0: the batches that are left stand for the whole split.
        """
        images = self.images("test")
        limit = (
            1.0 if self.trainer is None else self.trainer.limit_val_batches
        )  # an int counts batches, a float is a share
        whole = isinstance(limit, float) and limit == 1
        order = range(len(images)) if whole else shuffled(len(images), seed=0)
        return self._loader(images, OrderedBatches(order, self.test_batch_size, *self._rank()))

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the same as val_dataloader."""
        return self.val_dataloader()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn uint8 [B, C, H, W] into float32 in [-1, 1], on the device: bytes are a quarter of the transfer."""
        images, labels = batch
        return to_float(images), labels

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream: samples that all ranks together have been trained on."""
        return {"samples": self._position()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a saved position. Lightning restores its own counters after this and before asking for the loader."""
        self._samples, self._batches = state_dict["samples"], None

    # Where we are

    def _position(self) -> int:
        """Return the number of samples consumed by all ranks; what workers have prefetched does not count."""
        trained = 0 if self._batches is None else self._processed() - self._batches
        return self._samples + trained * self.batch_size

    def _processed(self) -> int:
        """Return how many training batches the Trainer has finished.

        `processed` moves before on_train_batch_end, where checkpoints are written; `completed` moves after it and would
        repeat a batch on resume, `ready` and `started` move before the step and would lose one after an exception.
        """
        if self.trainer is None:
            return 0
        counters: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total  # typed as its base, without `processed`
        return int(counters.processed)

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def workers(self) -> int:
        """Return how many processes decode for this rank."""
        if isinstance(self.num_workers, int):
            return self.num_workers
        here = self.trainer.num_devices if self.trainer else 1  # ranks on this machine
        return min(MOST_WORKERS, max(1, cores() // here))

    def _loader(self, images: ImageSet, batches: Sampler[list[int]]) -> DataLoader[Batch]:
        workers = self.workers()
        return DataLoader(
            cast("Dataset[Batch]", images),
            batch_sampler=batches,
            collate_fn=cast("Callable[..., Batch]", self.declared),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            # Its own: a loader otherwise draws from the global generator whenever an iteration begins.
            generator=torch.Generator(),
        )
