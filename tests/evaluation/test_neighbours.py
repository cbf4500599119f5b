from pathlib import Path

import pytest
import torch
from PIL import Image

from ddpm_lab.data.memory import MemorySet
from ddpm_lab.evaluation import neighbours
from ddpm_lab.evaluation.neighbours import nearest, neighbours_picture
from ddpm_lab.parts import part


def random_images(n: int, seed: int) -> torch.Tensor:
    return torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("block", [1, 7, 50, 1000])
def test_the_nearest_are_those_of_brute_force(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", block)
    images, train = random_images(9, 0), random_images(50, 1)
    every = ((images[:, None].double() - train[None].double()) ** 2).flatten(2).mean(2).sqrt()
    expected = every.sort(1)
    distances, indices = nearest(images, MemorySet(train), 4)
    torch.testing.assert_close(distances, expected.values[:, :4], rtol=1e-12, atol=0)
    assert torch.equal(indices, expected.indices[:, :4])


def test_a_copy_is_at_distance_zero_and_one_level_in_one_pixel_is_seen() -> None:
    train = random_images(20, 1)
    images = train[[3, 17]].clone()
    images[1, 0, 0, 0] ^= 1
    distances, indices = nearest(images, MemorySet(train), 1)
    assert indices.flatten().tolist() == [3, 17]
    assert distances[0].item() == 0
    assert distances[1].item() == pytest.approx((1 / 192) ** 0.5, rel=1e-12)


def test_of_a_large_set_a_part_is_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(neighbours, "AMONG", 10)
    train, test = random_images(40, 1), random_images(12, 2)
    distances, indices = nearest(train, MemorySet(train), 1, seed=3)
    assert (distances[:, 0] == 0).nonzero().flatten().tolist() == part(40, 10, seed=3)
    assert indices[distances == 0].tolist() == part(40, 10, seed=3)
    _, chosen = neighbours_picture(train[:5], MemorySet(train), MemorySet(test), tmp_path / "part.png", seed=3)
    assert chosen == {"train": "10 of 40, seed 3", "test": "5 of 12, seed 3"}


def test_a_set_smaller_than_k() -> None:
    assert nearest(random_images(2, 0), MemorySet(random_images(3, 1)), 6)[1].shape == (2, 3)


def test_the_picture_tells_copies_from_new_images(tmp_path: Path) -> None:
    train, test = random_images(40, 1), random_images(12, 2)
    copied, _ = neighbours_picture(train[:10], MemorySet(train), MemorySet(test), tmp_path / "copied.png")
    assert copied["generated"] == 0
    assert copied["test"] > 50
    honest, _ = neighbours_picture(random_images(10, 3), MemorySet(train), MemorySet(test), tmp_path / "honest.png")
    assert honest["generated"] == pytest.approx(honest["test"], rel=0.1)
    with Image.open(tmp_path / "copied.png") as picture:
        assert picture.width > 7 * 72
        assert picture.height > 8 * 72


@pytest.mark.parametrize(("block", "numbers"), [(1, 10**6), (33, 10**6), (1000, 10**6), (1000, 5 * 9), (1000, 1)])
def test_equals_come_in_the_order_of_their_indices_at_any_block_size(
    monkeypatch: pytest.MonkeyPatch, block: int, numbers: int
) -> None:
    """Images of two levels have few different distances."""
    monkeypatch.setattr(neighbours, "BLOCK", block)
    monkeypatch.setattr(neighbours, "NUMBERS", numbers)
    images, train = (random_images(n, seed)[:, :1, :3, :3] % 2 for n, seed in ((9, 0), (70, 1)))
    squared = ((images[:, None].int() - train[None].int()) ** 2).sum((2, 3, 4)).tolist()
    expected = [sorted(range(70), key=lambda i, row=row: (row[i], i))[:5] for row in squared]
    assert any(row[chosen[0]] == row[chosen[1]] for row, chosen in zip(squared, expected, strict=True))
    assert nearest(images, MemorySet(train), 5)[1].tolist() == expected


def test_one_level_in_one_pixel_of_a_large_image_is_seen() -> None:
    """|a|^2 has more digits than single precision holds."""
    train = random_images(768, 4).view(3, 3, 128, 128)
    image = train[1:2].clone()
    image[0, 1, 64, 64] ^= 1
    distances, indices = nearest(torch.cat([image, train[1:2]]), MemorySet(train), 1)
    assert indices.tolist() == [[1], [1]]
    assert distances.flatten().tolist() == pytest.approx([(1 / (3 * 128 * 128)) ** 0.5, 0], rel=1e-12, abs=0)
