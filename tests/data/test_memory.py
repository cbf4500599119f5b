import pytest
import torch

from ddpm_lab.data.memory import MemorySet, Mirrored


def six() -> MemorySet:
    return MemorySet(torch.arange(6 * 2 * 3 * 4, dtype=torch.uint8).view(6, 2, 3, 4), torch.arange(6) * 10)


def test_a_batch_is_the_images_asked_for_in_that_order():
    images, labels = six().__getitems__([4, 0, 4])
    assert torch.equal(images, torch.stack([six().images[i] for i in (4, 0, 4)]))
    assert labels.tolist() == [40, 0, 40]


def test_a_batch_is_a_copy():
    original = six()
    original.__getitems__([0])[0].zero_()
    assert torch.equal(original.images, six().images)


def test_without_labels_all_are_of_class_0():
    images, labels = MemorySet(torch.zeros(3, 1, 2, 2, dtype=torch.uint8)).__getitems__([0, 2])
    assert images.shape == (2, 1, 2, 2)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 0]


def test_wrong_tensors_are_refused():
    with pytest.raises(TypeError, match=r"uint8 images .* got torch\.float32"):
        MemorySet(torch.zeros(3, 1, 2, 2))
    with pytest.raises(ValueError, match=r"got \[3, 1, 2, 2\] and \[4\]"):
        MemorySet(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))


def test_mirrored_is_the_set_and_its_mirror_images():
    original, mirrored = six(), Mirrored(six())
    images, labels = mirrored.__getitems__(list(range(12)))
    assert len(mirrored) == 12
    assert torch.equal(images[:6], original.images)
    for i in range(6):
        for column in range(4):
            assert torch.equal(images[6 + i, :, :, column], original.images[i, :, :, 3 - column])
    assert labels.tolist() == original.labels.tolist() * 2
