"""Against diffusers itself: networks, schedulers and whole walks, read and written."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers as hugging_face  # imports what is asked of it, and no more
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddpm_lab.checkpoints import diffusers, schedulers
from ddpm_lab.diffusion import schedules
from ddpm_lab.diffusion.denoiser import Denoiser
from ddpm_lab.diffusion.predictions import Epsilon, Prediction, PreviousMean, Start, Velocity
from ddpm_lab.diffusion.process import Process
from ddpm_lab.diffusion.variances import FixedLarge, FixedSmall, Learned, LearnedRange, Variance
from ddpm_lab.networks.adm_unet import ADMUNet
from ddpm_lab.networks.ho_unet import HoUNet
from ddpm_lab.networks.noisy_classifier import AdaptivePool, NoisyClassifier
from ddpm_lab.samplers.ancestral import Ancestral
from ddpm_lab.samplers.ddim import DDIM
from tests.networks.randomise import randomised
from tests.worlds import name

HO: dict[str, Any] = {
    "sample_size": 16,
    "layers_per_block": 2,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
ADM: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 1,
    "out_channels": 2,
    "layers_per_block": 1,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 8,
    "num_class_embeds": 5,
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 32,
}
RESNET = {
    **ADM,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
}
KINDS = {"ho": HO, "adm": ADM, "resnet": RESNET}
# Ho et al.'s CIFAR-10 network, as google/ddpm-cifar10-32 is published.
CIFAR10 = {
    **HO,
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}


def theirs(config: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    model = hugging_face.UNet2DModel(**config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def inputs(config: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    size = config["sample_size"]
    x = torch.randn(2, config.get("in_channels", 3), size, size, generator=generator)
    return x, torch.tensor([3, 700]), torch.tensor([1, 4]) if config.get("num_class_embeds") else None


@torch.no_grad()
def test_their_networks_are_read(tmp_path: Path) -> None:
    for kind, config in {**KINDS, "cifar10": CIFAR10}.items():
        model = theirs(config)
        model.save_pretrained(tmp_path / kind)
        network = diffusers.load(tmp_path / kind).network
        x, t, y = inputs(config)
        torch.testing.assert_close(network(x, t, y), model(x, t, y).sample, rtol=0, atol=1e-5)
        back = diffusers.slots(network).read()
        assert back.keys() == model.state_dict().keys()
        assert all(torch.equal(back[key], value) for key, value in model.state_dict().items())
    assert sum(p.numel() for p in network.parameters()) == 35_746_307


OURS = {
    "ho": lambda: HoUNet(16, 3, 6, model_channels=32, channel_mult=[1, 2], num_res_blocks=1, attention_resolutions=[8]),
    "adm": lambda: ADMUNet(
        16,
        3,
        6,
        model_channels=32,
        channel_mult=[1, 2, 2],
        num_res_blocks=2,
        attention_resolutions=[8],
        num_classes=7,
        scale_shift_norm=True,
        head_channels=32,
    ),
    "updown": lambda: ADMUNet(
        16,
        1,
        1,
        model_channels=32,
        channel_mult=[1, 2],
        num_res_blocks=1,
        attention_resolutions=[8],
        resblock_updown=True,
    ),
    "heads": lambda: ADMUNet(
        16,
        3,
        3,
        model_channels=64,
        channel_mult=[1, 1],
        num_res_blocks=1,
        attention_resolutions=[],
        num_heads=4,
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", OURS)
def test_our_networks_are_read_there(kind: str, tmp_path: Path) -> None:
    network = randomised(OURS[kind]()).eval()
    diffusers.save_unet(tmp_path, network, 16)
    model = hugging_face.UNet2DModel.from_pretrained(tmp_path).eval()
    x = torch.randn(2, network.in_channels, 16, 16, generator=torch.Generator().manual_seed(1))
    t, y = torch.tensor([3, 700]), torch.tensor([1, 4]) if network.time.label is not None else None
    torch.testing.assert_close(model(x, t, y).sample, network(x, t, y), rtol=0, atol=1e-5)
    again = diffusers.load(tmp_path).network
    assert type(again) is type(network)
    assert torch.equal(again(x, t, y), network(x, t, y))


PAIRS: list[tuple[Prediction, Variance]] = [
    (Epsilon(), FixedLarge()),
    (Epsilon(), LearnedRange()),
    (Velocity(), FixedSmall()),
    (Start(), FixedSmall()),
]


@torch.no_grad()
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("prediction", "variance"), PAIRS, ids=name)
def test_whole_walks_agree(prediction: Prediction, variance: Variance, clip: bool, tmp_path: Path) -> None:
    """A full DDPM walk and DDIM in five steps, by diffusers from what we wrote, with the same noise: 1e-3 on pixels."""
    torch.manual_seed(0)
    network = randomised(OURS["ho" if variance.heads == 2 else "heads"]()).eval()
    for parameter in network.conv_out.parameters():
        parameter.mul_(0.1)  # a network without meaning sends an unclipped walk far away
    process = Process(schedules.linear(25, 1e-4, 0.02, rescale=True))
    denoiser = Denoiser(network, process, prediction, variance)
    diffusers.save_pipeline(tmp_path, network, 16, schedulers.describe(process, prediction, variance, clip))
    pipeline = hugging_face.DDPMPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        batch_size=2, generator=torch.Generator().manual_seed(5), num_inference_steps=25, output_type="pt"
    )
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 3, 16, 16, generator=generator)
    ours = Ancestral(clip=clip)(denoiser, x, randn_like=lambda like: torch.randn(like.shape, generator=generator))
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs.images, rtol=0, atol=1e-3)

    scheduler = hugging_face.DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(5)
    image = x
    for t in scheduler.timesteps:
        output = pipeline.unet(image, t).sample[:, :3]
        image = scheduler.step(output, t, image, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(DDIM(5, spacing="ddim", clip=clip)(denoiser, x), image, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "variance_type": "learned_range"},
        {"beta_schedule": "sigmoid", "num_train_timesteps": 200, "variance_type": "fixed_large", "clip_sample": False},
        {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3, "prediction_type": "sample"},
    ],
)
def test_their_schedulers_are_read(config: dict[str, Any]) -> None:
    scheduler = hugging_face.DDPMScheduler(**config)
    found = schedulers.read(scheduler.config)
    torch.testing.assert_close(
        Process(found.betas).alpha_bar[1:].float(), scheduler.alphas_cumprod, rtol=1e-4, atol=1e-9
    )
    again = schedulers.describe(Process(found.betas), found.prediction, found.variance, found.clip)
    for option in ("prediction_type", "variance_type", "clip_sample"):
        assert again[option] == scheduler.config[option]
    torch.testing.assert_close(schedulers.read(again).betas, found.betas)


def test_a_pipeline_of_theirs_is_read(tmp_path: Path) -> None:
    model = theirs(HO)
    hugging_face.DDPMPipeline(model, hugging_face.DDPMScheduler(variance_type="fixed_large")).save_pretrained(tmp_path)
    loaded = diffusers.load(tmp_path)
    assert loaded.scheduler is not None
    assert isinstance(schedulers.read(loaded.scheduler).variance, FixedLarge)
    x, t, _ = inputs(HO)
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(x, t), model(x, t).sample, rtol=0, atol=1e-5)


def test_bin_files_and_old_names_of_attention_are_read(tmp_path: Path) -> None:
    """As google/ddpm-cifar10-32 was published: a pickle, with query, key, value and proj_attn."""
    model = theirs(HO)
    model.save_pretrained(tmp_path / "new")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for key, value in model.state_dict().items():
        for new, was in old.items():
            key = key.replace(new, was)
        state[key] = value
    (tmp_path / "old").mkdir()
    torch.save(state, tmp_path / "old" / "diffusion_pytorch_model.bin")
    shutil.copy(tmp_path / "new" / "config.json", tmp_path / "old")
    x, t, _ = inputs(HO)
    with torch.no_grad():
        both = [diffusers.load(tmp_path / which).network(x, t) for which in ("new", "old")]
    assert torch.equal(*both)


def test_the_first_published_pipelines_lie_in_one_folder(tmp_path: Path) -> None:
    """As google/ddpm-cifar10-32 does: config.json, weights, scheduler_config.json and model_index.json side by side."""
    hugging_face.DDPMPipeline(theirs(HO), hugging_face.DDPMScheduler(variance_type="fixed_large")).save_pretrained(
        tmp_path
    )
    wanted = diffusers.load(tmp_path)
    for index in (True, False):
        flat = tmp_path / f"flat_{index}"
        flat.mkdir()
        for path in [*(tmp_path / "unet").iterdir(), *(tmp_path / "scheduler").iterdir()]:
            shutil.copy(path, flat)
        if index:
            shutil.copy(tmp_path / "model_index.json", flat)
        found = diffusers.load(flat)
        assert found.scheduler == wanted.scheduler
        assert found.image_size == 16
        assert torch.equal(found.network.conv_in.weight, wanted.network.conv_in.weight)


def test_sizes_are_square_and_may_be_left_unsaid(tmp_path: Path) -> None:
    theirs(HO).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for said, size in (([16, 16], 16), (None, None)):
        (tmp_path / "config.json").write_text(json.dumps({**config, "sample_size": said}))
        assert diffusers.load(tmp_path).image_size == size
    (tmp_path / "config.json").write_text(json.dumps({**config, "sample_size": [16, 8]}))
    with pytest.raises(ValueError, match="only square images"):
        diffusers.load(tmp_path)


class Evil:
    def __reduce__(self) -> tuple:
        return (print, ("this must not run",))


def test_foreign_and_damaged_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = tmp_path / "whole"
    theirs(HO).save_pretrained(whole)
    config = json.loads((whole / "config.json").read_text())
    weights = whole / "diffusion_pytorch_model.safetensors"

    def folder(**changes: Any) -> Path:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        (copy / "config.json").write_text(json.dumps({**config, **changes}))
        return copy

    def refused(path: Path, sentence: str, kind: type[Exception] = ValueError) -> None:
        with pytest.raises(kind, match=sentence):
            diffusers.load(path)

    refused(tmp_path / "nowhere", "There is no folder", FileNotFoundError)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no config.json", FileNotFoundError)
    refused(folder(_class_name="UNet2DConditionModel"), "holds a UNet2DConditionModel, and only UNet2DModel")
    refused(folder(act_fn="gelu"), "act_fn='gelu': only 'silu'")
    refused(folder(norm_num_groups=16), "norm_num_groups=16: only 32")
    refused(folder(center_input_sample=True), "center_input_sample=True")
    refused(folder(freq_shift=0), "neither Ho et al.'s network")
    refused(folder(attention_head_dim=8), "one head and adds the timestep")
    refused(folder(down_block_types=["SkipDownBlock2D"] * 3), "only .*'AttnDownBlock2D'")
    refused(folder(downsample_type="resnet"), "in more than one way")
    refused(folder(resnet_time_scale_shift="spatial", attn_norm_num_groups=32), "resnet_time_scale_shift='spatial'")
    refused(folder(block_out_channels=[32, 32, 64]), "have another shape, first .* describes another network")
    refused(folder(layers_per_block=1), "are unexpected, first")
    refused(folder(layers_per_block=3), "keys are missing, first")
    refused(folder(block_out_channels=[]), "make no network")
    refused(folder(block_out_channels=["a", 3]), "make no network")
    refused(folder(in_channels=None), "make no network")
    (folder() / "config.json").write_text("{")
    refused(tmp_path / "copy", "cannot be read as JSON")
    (folder() / "config.json").write_text("[]")
    refused(tmp_path / "copy", "holds no options")
    (folder() / weights.name).unlink()
    refused(tmp_path / "copy", "holds no weights", FileNotFoundError)
    (folder() / weights.name).write_bytes(weights.read_bytes()[:5000])
    refused(tmp_path / "copy", "is damaged, or holds more")
    for evil in ({"conv_in.weight": Evil()}, [1, 2], {"a": 3}):
        copy = folder()
        (copy / weights.name).unlink()
        torch.save(evil, copy / "diffusion_pytorch_model.bin")
        refused(copy, "plain tensors|other than a dict of tensors")
    assert "must not run" not in capsys.readouterr().out
    state = load_file(weights)
    del state["conv_out.bias"]
    save_file(state, folder() / weights.name)
    refused(tmp_path / "copy", "1 keys are missing, first conv_out.bias")
    (tmp_path / "copy" / "model_index.json").write_text('{"vae": []}')
    refused(tmp_path / "copy", "pipeline without unet")


def test_what_diffusers_cannot_do_is_not_written() -> None:
    shape: dict[str, Any] = {"model_channels": 32, "num_res_blocks": 1, "attention_resolutions": [8]}
    for options, sentence in (
        ({"rescale_residual": True}, "rescale residual branches"),
        ({"num_heads": 2}, "heads of one width, and this network has some of 16, 32"),
        ({"conv_resample": False}, "halves by convolutions"),
    ):
        network = ADMUNet(16, 3, 3, channel_mult=[1, 1, 2], **{**shape, "attention_resolutions": [16]}, **options)
        with pytest.raises(ValueError, match=sentence):
            diffusers.describe(network, 16)
    classifier = NoisyClassifier(16, 3, 5, pool=AdaptivePool, channel_mult=[1, 2], **shape)
    with pytest.raises(ValueError, match="NoisyClassifier is no UNet2DModel"):
        diffusers.describe(classifier, 16)
    process = Process(schedules.cosine(10))
    for parts, sentence in (
        ((PreviousMean(), FixedSmall()), "no prediction PreviousMean"),
        ((Epsilon(), Learned()), "no variance Learned"),
    ):
        with pytest.raises(ValueError, match=sentence):
            schedulers.describe(process, *parts, True)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"thresholding": True}, "thresholding=true"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr=true"),
        ({"clip_sample_range": 2.0}, "only ±1"),
        ({"prediction_type": "flow"}, "prediction_type='flow'"),
        ({"variance_type": "learned"}, "variance_type='learned'"),
        ({"beta_schedule": "laplace"}, "beta_schedule='laplace'"),
        ({"_class_name": "ScoreSdeVpScheduler"}, "is a ScoreSdeVpScheduler: only DDPMScheduler"),
        ({"variance_type": None}, "variance_type=None"),
        ({"trained_betas": "many"}, "trained_betas='many', which are no numbers"),
    ],
)
def test_schedulers_that_are_not_here(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        schedulers.read(option)
