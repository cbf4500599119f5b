"""Checkpoints travel, by the real command line: out to diffusers and OpenAI's form, in from both, on to training."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from ddpm_lab.checkpoints import openai
from ddpm_lab.checkpoints.published import PUBLISHED
from ddpm_lab.checkpoints.tensors import read_tensors
from ddpm_lab.samplers.ancestral import Ancestral
from ddpm_lab.samplers.ddim import DDIM
from ddpm_lab.tasks.building import load_classifier, load_run
from ddpm_lab.tasks.card import card as model_card
from ddpm_lab.tasks.foreign import _built, read
from tests.doors import QUICK, checkpoint, environment, run
from tests.networks.randomise import randomised

SHORT = [option for option in QUICK if not option.startswith(("callbacks", "sampler"))]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("travel")
    options = {
        "hybrid": [*QUICK, "logger=csv", "objective=hybrid", "prediction=epsilon", "class_conditional=true"],
        "dropped": [*QUICK, "logger=csv", "class_conditional=true", "label_dropout=0.2"],
        "classifier": [*SHORT, "task=classifier", "logger=csv", "callbacks.noisy_accuracy.images=8"],
    }
    for name, arguments in options.items():
        run("train", *arguments, f"hydra.run.dir={folder / name}")
    return {"plain": trained} | {name: folder / name for name in options}


ALONE = r"""
import os, re, sys, numpy as np
for name in sys.argv[1:]:
    os.chdir(name)
    first, second = re.findall(r"```python\n(.*?)```", open("README.md").read(), re.S)
    exec(first)
    by_ddpm = images
    exec(second)
    by_ddim = images
    exec(second.replace(", use_clipped_model_output=True", ""))
    np.savez("../" + name, x_T=x_T, ddpm=by_ddpm, ddim=by_ddim, default=images)
    os.chdir("..")
assert "ddpm_lab" not in sys.modules
"""


def test_the_card_s_code_draws_the_same_images_in_diffusers_alone(runs: dict[str, Path], tmp_path: Path) -> None:
    names = ["plain", "dropped"]
    for name in names:
        said = run("convert", f"from={runs[name]}", "to=diffusers", f"out={tmp_path}/{name}", "weights=raw")
        assert "largest difference of outputs" in said
    outside = {**environment(), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", ALONE, *names]
    subprocess.run(command, cwd=tmp_path, env=outside, check=True, capture_output=True)
    for name in names:
        found = np.load(tmp_path / f"{name}.npz")
        _, denoiser, _ = load_run(str(runs[name]), "raw")
        y = torch.arange(4) if name == "dropped" else None
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(4, 1, 8, 8, generator=generator)
        noise = partial(torch.randn, generator=generator)
        ancestral = Ancestral()(denoiser, x, y, lambda like, noise=noise: noise(like.shape))
        for sampler, ours in (("ddpm", ancestral), ("ddim", DDIM(10, spacing="ddim")(denoiser, x, y))):
            np.testing.assert_allclose(found[sampler], (ours / 2 + 0.5).clamp(0, 1), atol=1e-3)
        assert abs(found["default"] - found["ddim"]).max() > 0.01  # what the card warns of
    card = (tmp_path / "plain" / "README.md").read_text()
    for part in ("test/bits_per_dim", "Velocity", "schedule:", "no labels"):
        assert part in card
    card = (tmp_path / "dropped" / "README.md").read_text()
    assert "Labels: 0 to 9; 10 stands for none" in card
    source = read(str(runs["dropped"]))._replace(class_names=list("abcdefghij"))
    named = model_card(OmegaConf.create({"from": "run", "to": "diffusers", "weights": "ema"}), source)
    assert "Labels: 0 = a, 1 = b, 2 = c, 3 = d, 4 = e, 5 = f, 6 = g, 7 = h, 8 = i, 9 = j; 10 stands for none" in named


def test_out_and_in_again_is_the_same_model(runs: dict[str, Path], tmp_path: Path) -> None:
    run("convert", f"from={runs['hybrid']}", "to=diffusers", f"out={tmp_path}/exported")
    run("convert", f"from={tmp_path}/exported", "to=run", f"out={tmp_path}/back", "data=digits")
    drawn = []
    for folder in (runs["hybrid"], tmp_path / "back"):
        run(
            "sample",
            f"run={folder}",
            "n=10",
            "sampler.steps=5",
            "threads=1",
            f"hydra.run.dir={tmp_path}/{folder.name}_drawn",
        )
        with np.load(tmp_path / f"{folder.name}_drawn" / "samples.npz") as arrays:
            assert arrays["arr_1"].tolist() == list(range(10))
            drawn.append(arrays["arr_0"].astype(int))
    assert abs(drawn[0] - drawn[1]).max() <= 1
    run("evaluate", f"run={tmp_path}/back", "bound=fast", "bound.images=8", "bound.draws=2", "dashboard=none")
    _, before, _ = load_run(str(runs["hybrid"]), "ema")
    _, after, _ = load_run(str(tmp_path / "back"), "ema")
    torch.testing.assert_close(after.process.alpha_bar, before.process.alpha_bar)
    assert type(after.variance) is type(before.variance)


def test_weights_as_safetensors_and_as_a_program(runs: dict[str, Path], tmp_path: Path) -> None:
    run("convert", f"from={runs['plain']}", "to=safetensors", f"out={tmp_path}/weights")
    state = checkpoint(runs["plain"])["state_dict"]
    for name, prefix in (("raw", "denoiser.network."), ("ema", "emas.0.network.")):
        found = load_file(tmp_path / "weights" / f"{name}.safetensors")
        assert all(torch.equal(value, state[prefix + key]) for key, value in found.items())
    assert (tmp_path / "weights" / "config.yaml").is_file()
    two = tmp_path / "two"
    run("train", *QUICK, "logger=csv", "ema_rates=[0.9,0.5]", f"hydra.run.dir={two}")
    run("convert", f"from={two}", "to=safetensors", f"out={tmp_path}/both", "weights=1")
    second = load_file(tmp_path / "both" / "1.safetensors")
    assert torch.equal(second["conv_in.weight"], checkpoint(two)["state_dict"]["emas.1.network.conv_in.weight"])
    assert sorted(p.stem for p in (tmp_path / "both").glob("*.safetensors")) == ["1", "ema", "raw"]
    run("convert", f"from={runs['plain']}", "to=export", f"out={tmp_path}/network.pt2", "weights=raw")
    program = torch.export.load(tmp_path / "network.pt2").module()
    _, denoiser, _ = load_run(str(runs["plain"]), "raw")
    x, t = torch.randn(5, 1, 8, 8), torch.tensor([0.0, 1.0, 7.0, 20.0, 39.0])
    with torch.no_grad():
        torch.testing.assert_close(program(x, t), denoiser.network(x, t), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["hybrid", "classifier"])
def test_openai_s_form_is_theirs_bit_by_bit(runs: dict[str, Path], tmp_path: Path, name: str) -> None:
    run("convert", f"from={runs[name]}", "to=openai", f"out={tmp_path}/model.pt")
    foreign = read(str(runs[name]))
    state = read_tensors(tmp_path / "model.pt")
    assert "Options:" in (tmp_path / "model.pt.md").read_text()
    assert "input_blocks.0.0.weight" in state
    again = openai.to_openai(foreign.network)  # type: ignore[arg-type]
    assert again.keys() == state.keys()
    assert all(torch.equal(state[key], value) for key, value in again.items())


# By the READMEs of the two public repositories: image size, classes, schedule, T, rescaled timesteps, new order of attention
# channels, dropout, millions of parameters.
FLAGS = {
    "imagenet64_uncond_100M_1500K": (64, None, "cosine", 4000, True, False, 0.0, 121.1),
    "imagenet64_uncond_vlb_100M_1500K": (64, None, "cosine", 4000, True, False, 0.0, 121.1),
    "cifar10_uncond_50M_500K": (32, None, "cosine", 4000, True, False, 0.3, 52.5),
    "cifar10_uncond_vlb_50M_500K": (32, None, "cosine", 4000, True, False, 0.3, 52.5),
    "imagenet64_cond_270M_250K": (64, 1000, "cosine", 4000, False, False, 0.0, 273.0),
    "upsample_cond_500K": (256, 1000, "linear", 4000, False, False, 0.0, 279.8),
    "lsun_uncond_100M_1200K_bs128": (256, None, "linear", 1000, False, False, 0.0, 113.7),
    "lsun_uncond_100M_2400K_bs64": (256, None, "linear", 1000, False, False, 0.0, 113.7),
    "64x64_diffusion": (64, 1000, "cosine", 1000, False, True, 0.1, 295.9),
    "128x128_diffusion": (128, 1000, "linear", 1000, False, False, 0.0, 421.5),
    "256x256_diffusion": (256, 1000, "linear", 1000, False, False, 0.0, 553.8),
    "256x256_diffusion_uncond": (256, None, "linear", 1000, False, False, 0.0, 552.8),
    "512x512_diffusion": (512, 1000, "linear", 1000, False, False, 0.0, 559.0),
    "lsun_bedroom": (256, None, "linear", 1000, False, False, 0.1, 552.8),
    "lsun_cat": (256, None, "linear", 1000, False, False, 0.1, 552.8),
    "lsun_horse": (256, None, "linear", 1000, False, False, 0.1, 552.8),
    "lsun_horse_nodropout": (256, None, "linear", 1000, False, False, 0.0, 552.8),
    "64x64_classifier": (64, 1000, "cosine", 1000, False, False, 0.0, 65.4),
    "128x128_classifier": (128, 1000, "linear", 1000, False, False, 0.0, 42.6),
    "256x256_classifier": (256, 1000, "linear", 1000, False, False, 0.0, 54.1),
    "512x512_classifier": (512, 1000, "linear", 1000, False, False, 0.0, 54.5),
    "64_256_upsampler": (256, 1000, "linear", 1000, False, False, 0.0, 311.8),
    "128_512_upsampler": (512, 1000, "linear", 1000, False, False, 0.0, 308.8),
}


def test_published_flags_are_those_of_the_readmes() -> None:
    assert FLAGS.keys() == PUBLISHED.keys()
    for name, (size, classes, schedule, T, rescaled, new, dropout, millions) in FLAGS.items():
        known, network = PUBLISHED[name], _built(PUBLISHED[name])
        assert (known.image_size, known.classes, known.schedule, known.T) == (size, classes, schedule, T), name
        assert (known.rescaled, known.new_attention_order) == (rescaled, new), name
        assert {m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)} == {dropout}, name
        count = sum(parameter.numel() for parameter in network.parameters())
        assert count / 1e6 == pytest.approx(millions, abs=0.06), name


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_checkpoint_has_a_network(name: str) -> None:
    known = PUBLISHED[name]
    network = _built(known)
    assert openai.fits(
        network, {key: torch.empty(slot.shape, device="meta") for key, slot in openai._slots(network, True).items()}
    )
    time = network.unet.time if known.kind == "upsampler" else network.time
    assert (time.label is not None) == (known.classes is not None and known.kind != "classifier")
    assert known.time_scale == (0.25 if known.rescaled and known.T == 4000 else 1.0)


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as cifar10_uncond_50M_500K.pt is published, with random weights."""
    network = randomised(_built(PUBLISHED["cifar10_uncond_50M_500K"]).to_empty(device="cpu"))
    path = tmp_path_factory.mktemp("published") / "cifar10_uncond_50M_500K.pt"
    torch.save(openai.to_openai(network), path)
    return path


def test_a_published_checkpoint_becomes_a_run(cifar10: Path, tmp_path: Path) -> None:
    said = run("convert", f"from={cifar10}", "to=run", f"out={tmp_path}/run", "data=cifar10")
    assert "OpenAI's cifar10_uncond_50M_500K" in said
    config, denoiser, _ = load_run(str(tmp_path / "run"), "ema")
    assert (denoiser.process.T, denoiser.shown.time_scale) == (4000, 0.25)
    assert denoiser.variance.heads == 2
    assert config.network.num_heads == 4
    run("sample", f"run={tmp_path}/run", "n=1", "sampler.steps=2", "threads=1")
    other = tmp_path / "mine.pt"
    shutil.copy(cifar10, other)
    said = run("convert", f"from={other}", "to=run", f"out={tmp_path}/no", "data=cifar10", expect=1)
    assert "its tensors fit cifar10_uncond_50M_500K, cifar10_uncond_vlb_50M_500K; add published=…" in said
    said = run("convert", f"from={cifar10}", "published=64x64_diffusion", "to=run", f"out={tmp_path}/no", expect=1)
    assert "keys are missing, first" in said
    assert "its tensors fit cifar10_uncond_50M_500K" in said


def test_a_classifier_travels_and_guides(runs: dict[str, Path], tmp_path: Path) -> None:
    run("convert", f"from={runs['classifier']}", "to=run", f"out={tmp_path}/judge", "data=digits")
    drawn = []
    for judge in (runs["classifier"], tmp_path / "judge"):
        run(
            *("sample", f"run={runs['plain']}", "n=2", "labels=3", "sampler.steps=3", "threads=1"),
            *("guidance=classifier", f"guidance.classifier={judge}", f"hydra.run.dir={tmp_path}/{judge.name}_drawn"),
        )
        drawn.append(np.load(tmp_path / f"{judge.name}_drawn" / "samples.npz")["arr_0"])
    assert np.array_equal(*drawn)


def test_a_published_classifier_becomes_a_run(tmp_path: Path) -> None:
    known = PUBLISHED["64x64_classifier"]
    network = randomised(_built(known).to_empty(device="cpu"))
    torch.save(openai.to_openai(network), tmp_path / "64x64_classifier.pt")
    run("convert", f"from={tmp_path}/64x64_classifier.pt", "to=run", f"out={tmp_path}/run", "data=imagenet64")
    config, judge, _ = load_classifier(str(tmp_path / "run"), "ema")
    assert (config.task.name, judge.process.T, config.data.num_classes) == ("classifier", 1000, 1000)


def test_a_file_is_read_whole_or_not_at_all(runs: dict[str, Path], tmp_path: Path) -> None:
    """Bytes that are changed in the middle of the tensors meet their checksum."""
    run("convert", f"from={runs['hybrid']}", "to=openai", f"out={tmp_path}/model.pt")
    data = bytearray((tmp_path / "model.pt").read_bytes())
    whole, refused = read_tensors(tmp_path / "model.pt"), 0
    for place in range(len(data) // 8, len(data), len(data) // 8):
        flipped = data.copy()
        flipped[place] ^= 0x10
        (tmp_path / "flipped.pt").write_bytes(flipped)
        try:
            found = read_tensors(tmp_path / "flipped.pt")
        except ValueError as error:
            refused += "is damaged" in str(error)
        else:  # a byte of the padding between tensors, which nothing reads
            assert all(torch.equal(value, whole[key]) for key, value in found.items())
    assert refused >= 4


def test_training_goes_on_from_a_folder_and_needs_it_no_more(runs: dict[str, Path], tmp_path: Path) -> None:
    run("convert", f"from={runs['plain']}", "to=diffusers", f"out={tmp_path}/exported")
    short = [*QUICK[1:], "trainer.max_steps=1", "optimizer.lr=0", "logger=csv"]  # the network is what it is
    for path in (tmp_path / "exported", runs["plain"]):
        run(
            "train", *short, "network=pretrained", f"network.path={path}", f"hydra.run.dir={tmp_path}/tuned_{path.name}"
        )
    shutil.rmtree(tmp_path / "exported")
    wanted = checkpoint(runs["plain"])["state_dict"]
    for name in ("exported", runs["plain"].name):
        _, denoiser, _ = load_run(str(tmp_path / f"tuned_{name}"), "raw")
        for key, value in denoiser.network.state_dict().items():
            assert torch.equal(value, wanted[f"emas.0.network.{key}"]), key
    pretrained = ["network=pretrained", f"network.path={runs['classifier']}"]
    run(
        "train",
        *SHORT[1:],
        "task=classifier",
        *pretrained,
        "callbacks.noisy_accuracy.images=8",
        f"hydra.run.dir={tmp_path}/c",
    )


def test_a_model_from_elsewhere_is_sampled_and_judged_as_it_is(runs: dict[str, Path], tmp_path: Path) -> None:
    """A pipeline of ours, read back without a run, draws what the run draws, and is worth what the run is."""
    run("convert", f"from={runs['hybrid']}", "to=diffusers", f"out={tmp_path}/exported")
    elsewhere = ["network=pretrained", f"network.path={tmp_path}/exported", "network.format=diffusers"]
    steps, judged = (
        ["sampler.steps=5", "threads=1"],
        ["bound=fast", "bound.images=8", "bound.draws=2", "dashboard=none"],
    )
    run("sample", f"run={runs['hybrid']}", "n=10", f"hydra.run.dir={tmp_path}/a", *steps)
    run("sample", *elsewhere, "n=10", f"hydra.run.dir={tmp_path}/b", *steps)
    a, b = (np.load(tmp_path / folder / "samples.npz") for folder in "ab")
    assert a["arr_1"].tolist() == b["arr_1"].tolist() == list(range(10))
    assert abs(a["arr_0"].astype(int) - b["arr_0"].astype(int)).max() <= 1
    run("sample", *elsewhere, "n=2", "task=edit", "data=digits", f"hydra.run.dir={tmp_path}/c", *steps)
    said = run("sample", *elsewhere, "n=2", "task=edit", f"hydra.run.dir={tmp_path}/c", *steps, expect=1)
    assert "add images=… (files), or data=…" in said
    run("evaluate", f"run={runs['hybrid']}", *judged, f"hydra.run.dir={tmp_path}/d")
    run("evaluate", *elsewhere, "data=digits", *judged, f"hydra.run.dir={tmp_path}/e")
    of_run, of_file = (json.loads((tmp_path / folder / "metrics.json").read_text()) for folder in "de")
    name = next(key for key in of_run if key.startswith("test/bits_per_dim") and isinstance(of_run[key], float))
    assert of_file[name] == pytest.approx(of_run[name], rel=1e-4)
    for arguments, sentence in (
        (["data=cifar10"], "the model is of images of 1x8x8 and data=cifar10 has 3x32x32"),
        ([f"run={runs['hybrid']}"], "give one of run=…"),
        ([], "add data=… (such as data=cifar10)"),
    ):
        assert sentence in run("evaluate", *elsewhere, *arguments, *judged, expect=1)
    for arguments, sentence in (
        (["network=tiny"], "give one of run=…"),
        (["network=pretrained"], "give one of run=…"),
        ([*elsewhere[:2], "network.format=openai"], "is a folder"),
        (["network=pretrained", f"network.path={tmp_path}/exported/unet"], "does not say its schedule"),
    ):
        assert sentence in run("sample", *arguments, "n=2", *steps, expect=1)


def test_dropped_labels_travel(runs: dict[str, Path], tmp_path: Path) -> None:
    run("convert", f"from={runs['dropped']}", "to=diffusers", f"out={tmp_path}/exported")
    run("convert", f"from={tmp_path}/exported", "to=run", f"out={tmp_path}/back", "data=digits")
    guided = ["n=4", "guidance=classifier_free", "sampler.steps=3", "threads=1"]
    run("sample", f"run={tmp_path}/back", *guided)
    run("sample", f"run={tmp_path}/back", *guided[2:], "n=2", "labels=none")


class Evil:
    def __reduce__(self) -> tuple:
        return (print, ("this must not run",))


def test_misuse_is_told_in_a_sentence_and_leaves_nothing(runs: dict[str, Path], cifar10: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "cifar10_uncond_50M_500K.pt").write_bytes(cifar10.read_bytes()[:100_000])
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "empty").mkdir()
    out = f"out={tmp_path}/out"
    plain = f"from={runs['plain']}"
    cases = [
        ([plain, "to=diffusers"], "out=… must be given"),
        ([plain, "to=onnx", out], "to=onnx is none of diffusers, openai, safetensors, export, run"),
        ([plain, "to=diffusers", f"out={tmp_path}/there"], "is there already"),
        (
            [plain, "to=diffusers", out, "format=tensorflow"],
            "format=tensorflow is none of auto, openai, diffusers, run",
        ),
        ([plain, "to=diffusers", out, "weights=7"], "weights=7 is neither ema, raw"),
        ([plain, "to=export", out], "ends in .pt2"),
        ([plain, "to=run", out], "add data=…"),
        ([plain, "to=run", out, "data=cifar10"], "the model is of images of 1x8x8 and data=cifar10 has 3x32x32"),
        (
            [f"from={runs['hybrid']}", "to=run", out, "data=digits", "data.num_classes=7"],
            "has 10 classes and data=digits 7",
        ),
        ([f"from={runs['classifier']}", "to=diffusers", out], "is a classifier, which guides and draws nothing"),
        ([f"from={cifar10}", "to=diffusers", out], "tells its network (t - 1) * 0.25"),
        (["from=nowhere", "to=run", out], "there is nothing at nowhere"),
        ([f"from={tmp_path}/empty", "to=run", out], "holds no config.json"),
        ([f"from={tmp_path}/cifar10_uncond_50M_500K.pt", "to=run", out], "not a file of plain tensors"),
        ([f"from={tmp_path}/evil.pt", "to=run", out], "not a file of plain tensors"),
        ([f"from={tmp_path}/list.pt", "to=run", out], "other than a dict of tensors"),
    ]
    for arguments, sentence in cases:
        said = run("convert", *arguments, expect=1)
        assert sentence in said, said
        assert "Traceback" not in said
        assert "must not run" not in said
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".converting*"))
    pretrained = ["network=pretrained", f"hydra.run.dir={tmp_path}/run", "logger=csv"]
    for arguments, sentence in [
        ([], "network.path"),
        ([f"network.path={cifar10}"], "data.image_size is 32 there and 8 here"),
        ([f"network.path={runs['plain']}", "objective=hybrid"], "number of output channels"),
        ([f"network.path={runs['plain']}", "class_conditional=true"], "the number of labels"),
        ([f"network.path={runs['plain']}", "task=classifier"], "the number of output channels"),
    ]:
        said = run("train", *pretrained, *arguments, expect=1)
        assert sentence in said, said
        assert "Traceback" not in said


def test_the_index_of_a_pipeline_comes_last(runs: dict[str, Path], tmp_path: Path) -> None:
    run("convert", f"from={runs['plain']}", "to=diffusers", f"out={tmp_path}/exported")
    index = json.loads((tmp_path / "exported" / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DModel"]
    config = json.loads((tmp_path / "exported" / "scheduler" / "scheduler_config.json").read_text())
    assert (config["prediction_type"], config["variance_type"], len(config["trained_betas"])) == (
        "v_prediction",
        "fixed_large",
        40,
    )
