import pytest
import torch

from ddpm_lab.networks.embeddings import TimeEmbedding, cosine_first_embedding, sine_first_embedding
from tests.golden import Golden

GOLDEN = Golden("embedding.npz")


def of(names):
    return [name for name in GOLDEN.names(names) if not name.endswith("_freqs")]


@pytest.mark.parametrize("name", of("openai/dim*"))
def test_cosine_first_equals_the_public_code(name):
    t = GOLDEN["t_frac" if name.endswith("_frac") else "t"]
    difference = (cosine_first_embedding(t, GOLDEN[name].shape[1]) - GOLDEN[name]).abs()
    assert difference.max() <= 1e-7 * max(1000, t.max())  # t times float32's last bit
    assert difference.mean() <= 1e-6


@pytest.mark.parametrize("name", of("ho/dim*"))
def test_sine_first_equals_ho_et_al(name):
    t = GOLDEN["t"]
    difference = (sine_first_embedding(t, GOLDEN[name].shape[1]) - GOLDEN[name]).abs()
    assert difference.max() <= 1.3e-7 * max(1000, t.max())
    assert difference.mean() <= 1e-5


def test_the_two_conventions_differ():
    t = torch.tensor([0])
    assert cosine_first_embedding(t, 5).tolist() == [[1, 1, 0, 0, 0]]
    assert sine_first_embedding(t, 5).tolist() == [[0, 0, 1, 1, 0]]
    # The slowest angle is t / 10000 for the half - 1 divisor only.
    t = torch.tensor([1.0])
    assert sine_first_embedding(t, 8)[0, 3] == pytest.approx(1e-4, rel=1e-4)
    assert cosine_first_embedding(t, 8)[0, 7] == pytest.approx(1e-3, rel=1e-4)


def test_fractions_lie_between_integers():
    t = torch.tensor([3.0, 3.5, 4.0])
    slowest = cosine_first_embedding(t, 32)[:, -1]
    assert slowest[0] < slowest[1] < slowest[2]


def test_one_projection_equals_one_linear_layer_for_each_block():
    time = TimeEmbedding(cosine_first_embedding, 8, None, [4, 6, 2])
    t = torch.tensor([0, 7, 900])
    embedding = torch.nn.functional.silu(time.embed(t, None))
    weights, biases = time.projection.weight.split([4, 6, 2]), time.projection.bias.split([4, 6, 2])
    for piece, weight, bias in zip(time(t, None), weights, biases, strict=True):
        torch.testing.assert_close(piece, embedding @ weight.T + bias)


def test_labels_are_added():
    time = TimeEmbedding(cosine_first_embedding, 8, 3, [4])
    t = torch.tensor([5, 5])
    first, second = time.embed(t, torch.tensor([0, 2]))
    torch.testing.assert_close(second - first, time.label.weight[2] - time.label.weight[0])


def test_labels_are_required_with_classes_and_refused_without():
    t = torch.tensor([5])
    with pytest.raises(ValueError, match="3 classes and got no labels"):
        TimeEmbedding(cosine_first_embedding, 8, 3, [4])(t, None)
    with pytest.raises(ValueError, match="without classes"):
        TimeEmbedding(cosine_first_embedding, 8, None, [4])(t, torch.tensor([0]))
