import os
import pickle

import pytest
import torch
import torch.nn.functional as F

from ddpm_lab.checkpoints.openai import load, to_openai
from ddpm_lab.networks.adm_unet import ADMUNet
from ddpm_lab.networks.noisy_classifier import NoisyClassifier
from ddpm_lab.networks.super_resolution import SuperResolutionUNet
from tests.golden import Golden
from tests.networks.randomise import randomised

GOLDEN = Golden("toy_model.npz")
UNETS = GOLDEN.groups("*/emb_t_int")
CLASSIFIERS = GOLDEN.groups("*/log_prob_y")
TIMES = ["t_int", "t_float"]


def state(model):
    prefix, keys = f"{model}/state/", GOLDEN.names()
    return {key.removeprefix(prefix): GOLDEN[key].float() for key in keys if key.startswith(prefix)}


def flags(model, **changes):
    return {**GOLDEN.text(f"{model}/config"), **changes}


def published(model, **changes):
    return load(state(model), **flags(model, **changes))


def labels(model):
    return (GOLDEN[f"{model}/y"],) if "num_classes" in flags(model) else ()


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("model", UNETS + CLASSIFIERS)
def test_outputs_equal_the_public_codes(model, t):
    out = published(model)(GOLDEN[f"{model}/x"], GOLDEN[f"{model}/{t}"], *labels(model))
    GOLDEN.close(out, f"{model}/out_{t}")


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("new", [False, True])
def test_both_orders_of_attention_channels(new, t):
    network = published("gd_unet", use_new_attention_order=new)
    out = network(GOLDEN["gd_unet/x"], GOLDEN[f"gd_unet/{t}"], GOLDEN["gd_unet/y"])
    GOLDEN.close(out, f"gd_unet/out_{t}_{'new' if new else 'legacy'}_order")


@pytest.mark.parametrize("model", UNETS)
def test_inner_values_equal_the_public_codes(model):
    network = published(model)
    seen = []
    network.middle.register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(GOLDEN[f"{model}/x"], GOLDEN[f"{model}/t_int"], *labels(model))
    GOLDEN.close(seen[0], f"{model}/middle_t_int")
    embedding = network.time.embed(GOLDEN[f"{model}/t_int"], *(labels(model) or (None,)))
    GOLDEN.close(embedding, f"{model}/emb_t_int", floor=1e-6)  # sums of 128 products of order 1, in any order


@pytest.mark.parametrize("model", CLASSIFIERS)
def test_classifier_gradients_equal_the_public_codes(model):
    x = GOLDEN[f"{model}/x"].requires_grad_()
    logits = published(model)(x, GOLDEN[f"{model}/t_int"])
    log_prob = F.log_softmax(logits, dim=1).gather(1, GOLDEN[f"{model}/y"][:, None])[:, 0]
    GOLDEN.close(log_prob.detach(), f"{model}/log_prob_y")
    (gradient,) = torch.autograd.grad(log_prob.sum(), x)
    GOLDEN.close(gradient, f"{model}/grad_log_prob_y")


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("model", [*UNETS, "gd_unet", *CLASSIFIERS])
def test_back_and_forth_is_bitwise(model, new):
    original = state(model)
    back = to_openai(published(model, use_new_attention_order=new), use_new_attention_order=new)
    assert list(back) == list(original)
    assert all(torch.equal(back[key], original[key]) and back[key].is_contiguous() for key in original)


@pytest.mark.parametrize("model", [*UNETS, "gd_unet", *CLASSIFIERS])
def test_every_parameter_is_converted_once(model):
    network = published(model)
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in to_openai(network).values())


@pytest.mark.parametrize("pool", ["spatial", "spatial_v2"])
def test_the_other_pools(pool):
    switches = flags("gd_cls_adaptive", pool=pool)
    with pytest.raises(ValueError, match=r"first out\.0"):
        load(state("gd_cls_adaptive"), **switches)
    body = {key: value for key, value in state("gd_cls_adaptive").items() if not key.startswith("out.")}
    last = "out.3" if pool == "spatial_v2" else "out.2"
    channels = 32 + 32 + 32 + 64 + 64
    head = {"out.0.weight": torch.randn(2048, channels), "out.0.bias": torch.randn(2048)}
    if pool == "spatial_v2":
        head |= {"out.1.weight": torch.randn(2048), "out.1.bias": torch.randn(2048)}
    head |= {f"{last}.weight": torch.randn(10, 2048), f"{last}.bias": torch.randn(10)}
    network = load(body | head, **switches)
    assert network(GOLDEN["gd_cls_adaptive/x"], GOLDEN["gd_cls_adaptive/t_int"]).shape == (2, 10)
    assert all(torch.equal(value, (body | head)[key]) for key, value in to_openai(network).items())


def test_upsamplers():
    body = {"model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1}
    network = randomised(SuperResolutionUNet(16, 3, 6, **body, attention_resolutions=[8])).eval()
    loaded = load(
        to_openai(network),
        in_channels=3,
        out_channels=6,
        **body,
        attention_resolutions=[2],
        image_size=16,
        super_resolution=True,
    )
    assert isinstance(loaded, SuperResolutionUNet)
    x, t, low_res = torch.randn(2, 3, 16, 16), torch.tensor([1, 2]), torch.randn(2, 3, 4, 4)
    assert torch.equal(loaded(x, t, low_res=low_res), network(x, t, low_res=low_res))


def test_files_are_read(tmp_path):
    torch.save(state("idm_uncond"), tmp_path / "ema.pt")
    network = load(tmp_path / "ema.pt", **flags("idm_uncond"))
    assert isinstance(network, ADMUNet)
    assert not network.training
    assert isinstance(published("gd_cls_adaptive"), NoisyClassifier)
    GOLDEN.close(network(GOLDEN["idm_uncond/x"], GOLDEN["idm_uncond/t_int"]), "idm_uncond/out_t_int")


def test_loading_leaves_random_numbers_and_the_file_alone():
    original = state("idm_uncond")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    network = load(original, **flags("idm_uncond"))
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert original["out.2.weight"].any()


@pytest.mark.parametrize("model", ["idm_uncond", "gd_cls_attention"])
def test_loaded_networks_can_be_trained(model):
    network = published(model, use_checkpoint=True, use_fp16=True, dropout=0.1)
    assert network.middle.before.checkpointing
    assert network.middle.before.dropout.p == 0.1
    network.train()(GOLDEN[f"{model}/x"], GOLDEN[f"{model}/t_int"]).mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_other_flags_are_refused_by_the_first_key_that_differs():
    with pytest.raises(ValueError, match=r"keys are missing, first label_emb\.weight"):
        published("idm_uncond", num_classes=3)
    with pytest.raises(ValueError, match=r"unexpected, first input_blocks\.3\.1\.norm\.weight"):
        published("idm_uncond", attention_resolutions=[])
    with pytest.raises(ValueError, match=r"first out\.2\.weight with \[6, 32, 3, 3\] where the network has \[3, "):
        published("idm_uncond", out_channels=3)


def test_what_no_published_network_has_is_refused():
    for changes, sentence in [
        ({"dims": 3}, "dims is 3"),
        ({"num_heads_upsample": 4}, "num_heads_upsample is 4 and num_heads 2"),
        ({"pool": "max"}, "No pool 'max'"),
        ({"pool": "attention", "image_size": 16}, "No pool 'attention'"),
        ({"pool": "adaptive"}, "needs image_size"),
        ({"pool": "adaptive", "num_classes": 3}, "leave num_classes out"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            published("idm_uncond", **({"image_size": 16} if changes.get("pool") == "max" else {}) | changes)
    with pytest.raises(TypeError, match="chanel_mult"):
        published("idm_uncond", chanel_mult=(1, 2))
    rescaled = ADMUNet(
        8, 3, 3, model_channels=32, channel_mult=[1], num_res_blocks=1, attention_resolutions=[], rescale_residual=True
    )
    with pytest.raises(ValueError, match="rescale_residual=False"):
        to_openai(rescaled)


class Opened:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_but_tensors_is_unpickled(tmp_path):
    torch.save({"out.2.bias": Opened(tmp_path / "opened")}, tmp_path / "evil.pt")
    (tmp_path / "pickled.pt").write_bytes(pickle.dumps(Opened(tmp_path / "opened"), protocol=2))
    (tmp_path / "noise.pt").write_bytes(b"not a checkpoint")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("evil.pt", "pickled.pt", "noise.pt", "empty.pt"):
        with pytest.raises(ValueError, match="not a file of plain tensors"):
            load(tmp_path / name, **flags("idm_uncond"))
    assert not (tmp_path / "opened").exists()
    torch.save({"step": 3}, tmp_path / "numbers.pt")
    with pytest.raises(ValueError, match="something other than a dict of tensors"):
        load(tmp_path / "numbers.pt", **flags("idm_uncond"))
