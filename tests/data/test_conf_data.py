"""Each file of conf/data makes a DataModule that reads its data set."""

import copy
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ddpm_lab.data.datamodule import DataModule
from ddpm_lab.tasks.comparing import differences
from ddpm_lab.tasks.resuming import FILLED_IN

FILES = sorted((Path(__file__).parents[2] / "conf" / "data").glob("*.yaml"))


def compose(file: Path, root: Path, **changes: object) -> DictConfig:
    primary = {"data_root": str(root), "cache": str(root / "cache"), "seed": 0, "data": OmegaConf.load(file)}
    return OmegaConf.merge(primary, {"data": changes})


@pytest.mark.usefixtures("_tiny_cifar_is_genuine")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_file_reads_its_data_set(file, data_root):
    data = instantiate(compose(file, data_root, num_workers=0).data)
    assert isinstance(data, DataModule)
    assert data.name == file.stem
    data.setup("fit")
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (data.batch_size, data.channels, data.image_size, data.image_size)
    assert images.dtype == torch.uint8
    assert labels.shape == (data.batch_size,)
    assert data.test_images(1)[0].shape == (1, data.channels, data.image_size, data.image_size)


def test_every_data_set_has_its_file():
    names = "celeba cifar10 cifar100 digits fashion_mnist image_folder imagenet64 lsun mnist npz webdataset"
    assert [file.stem for file in FILES] == names.split()


@pytest.mark.parametrize("name", ["image_folder", "lsun", "celeba", "webdataset"])
def test_size_and_channels_are_set_in_one_place(name, data_root):
    file = next(file for file in FILES if file.stem == name)
    data = instantiate(compose(file, data_root, image_size=16, channels=1, num_workers=0).data)
    assert data.train_images(2)[0].shape == (2, 1, 16, 16)


def test_classes_of_a_folder_as_configurations_of_earlier_versions_say(data_root):
    file = next(file for file in FILES if file.stem == "image_folder")
    for function in ("folder_name", "name_prefix"):
        class_of = {"_target_": f"ddpm_lab.data.folder.{function}", "_partial_": True}
        old = compose(file, data_root, num_classes=2, dataset={"class_of": class_of}).data
        for key in ("classes", "class_names", "background"):
            del old[key]
        del old.dataset["background"]
        assert set(instantiate(old).train_images(18)[1].tolist()) == {0, 1}


@pytest.mark.parametrize("name", ["image_folder", "webdataset", "npz"])
def test_runs_of_before_these_options_go_on(name, data_root):
    now = OmegaConf.to_container(
        compose(next(f for f in FILES if f.stem == name), data_root, num_classes=5), resolve=True
    )
    now["data"]["class_names"] = list("abcde")
    before = copy.deepcopy(now)
    for options in (before["data"], before["data"]["dataset"]):
        for key in ("classes", "class_names", "background", "class_of", "image", "label"):
            options.pop(key, None)
    before["data"]["dataset"].pop("num_classes", None)
    found = differences(before, now)
    assert [one.name for one in found if not (one.name in FILLED_IN and one.before == "null")] == []
