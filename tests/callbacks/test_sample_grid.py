"""The grids of samples, drawn by a real Trainer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm_lab.callbacks import sample_grid
from ddpm_lab.callbacks.sample_grid import SampleGrid
from ddpm_lab.data.digits import digits
from ddpm_lab.parts import part
from ddpm_lab.pixels import to_uint8
from ddpm_lab.samplers.ddim import DDIM
from tests.callbacks.toy import data, known_false_alarms, module, trainer

pytestmark = known_false_alarms


@pytest.mark.parametrize(("n", "every"), [(0, 5), (-1, 0), (4, -1)])
def test_numbers_that_make_no_sense_are_refused(n: int, every: int) -> None:
    with pytest.raises(ValueError, match=f"n={n} and every={every}"):
        SampleGrid("", DDIM(2), n, every)


def test_without_an_average_the_raw_weights_are_drawn_without_dropout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    drawn: list[torch.Tensor] = []
    draw = sample_grid.panels

    def panels(
        parts: list[tuple[str, torch.Tensor]], path: Path, columns: int | None = None, names: Sequence[str] = ()
    ) -> None:
        titles.extend(title for title, _ in parts)
        drawn.extend(images for _, images in parts)
        draw(parts, path, columns, names)

    monkeypatch.setattr(sample_grid, "panels", panels)
    model = module(dropout=0.5, ema_rates=[])
    run = trainer(tmp_path, SampleGrid(str(tmp_path), DDIM(3), 4, 2), max_steps=4, limit_val_batches=0)
    run.fit(model, datamodule=data())
    assert titles == ["step 2: raw weights", "generated, step 4", "real digits, test split"]
    # Beside them real images from all over the split, not the first folder's alone.
    assert torch.equal(to_uint8(drawn[-1]), digits("test").images[part(299, 4, seed=0)])
    found = np.load(tmp_path / "samples.npz")["arr_0"]
    assert model.denoiser.network.training  # as it was

    # The same weights, in evaluation mode, draw the same images again; with dropout they do not.
    grid = SampleGrid(str(tmp_path), DDIM(3), 4, 0)
    torch.manual_seed(1)
    again = grid._draw(model, model.averaged())
    bytes_again = ((again + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8).numpy()
    assert np.array_equal(found, bytes_again)


def test_each_class_has_a_column_of_drawn_and_of_real_images_and_the_npz_its_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[list[torch.Tensor], int | None, Sequence[str]]] = []
    draw, digits = sample_grid.panels, data()

    def panels(
        parts: list[tuple[str, torch.Tensor]], path: Path, columns: int | None = None, names: Sequence[str] = ()
    ) -> None:
        shown.append(([images for _, images in parts], columns, names))
        draw(parts, path, columns, names)

    monkeypatch.setattr(sample_grid, "panels", panels)
    model = module(conditional=True)
    grid = SampleGrid(str(tmp_path), DDIM(3), 25, 0)
    trainer(tmp_path, grid, max_steps=1, limit_val_batches=0).fit(model, datamodule=digits)
    ((drawn, real), columns, names) = shown[-1]
    assert columns == 10
    assert names == tuple("0123456789")
    assert len(drawn) == len(real) == 25
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays["arr_0"].shape == (25, 8, 8, 1)
        assert arrays["arr_1"].tolist() == [k % 10 for k in range(25)]
    images, labels = digits.test_images(len(digits.images("test")))
    places = [int((images == image).flatten(1).all(1).nonzero()[0, 0]) for image in real]
    assert len(set(places)) == 25
    assert labels[places].tolist() == [k % 10 for k in range(25)]

    # A class with too few images leaves its column short, and many classes have no columns.
    images, labels = digits.test_images(299)
    rare = labels == 3
    labels[rare] = torch.where(rare.cumsum(0)[rare] > 1, 4, 3)
    monkeypatch.setattr(digits, "test_images", lambda n, seed: (images[:n], labels[:n]))
    column = grid._real(digits, 10)[3::10]
    assert torch.equal(column[0], images[labels == 3][0])
    assert (column[1:] == column[1, 0, 0, 0]).all()
    digits.num_classes = 17
    assert grid._columns(model) == (None, ())
