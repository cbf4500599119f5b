import pytest
import torch

from ddpm_lab.samplers.interpolation import slerp
from tests.worlds import randn


def test_ends_are_kept_and_the_way_is_an_arc() -> None:
    a, b = randn(3, 2, 4, 4), randn(3, 2, 4, 4, seed=1)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    # Of vectors of equal length every point has it too, and equal steps are equal angles.
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).view(3, 1, 1, 1)
    points = torch.stack([slerp(a, b, k / 4).flatten(1) for k in range(5)])
    torch.testing.assert_close(points.norm(dim=2), a.flatten(1).norm(dim=1).expand(5, 3))
    cosines = torch.cosine_similarity(points[1:], points[:-1], dim=2)
    torch.testing.assert_close(cosines, cosines[:1].expand(4, 3))


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_parallel_latents_are_mixed_linearly(fraction: float) -> None:
    a = randn(2, 1, 2, 2)
    torch.testing.assert_close(slerp(a, a, fraction), a)
    torch.testing.assert_close(slerp(a, 3 * a, fraction), (1 + 2 * fraction) * a)
