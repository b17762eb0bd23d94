"""The network that writes digits: its pen, the files it reads, and that both ways of training make it better."""

import gzip
import struct
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

FOLDER = Path(__file__).parent.parent.parent / "examples" / "digit_strokes"


@pytest.fixture(scope="module")
def example() -> tuple[ModuleType, ModuleType]:
    """The modules ``strokes`` and ``run`` of the example."""
    sys.path.insert(0, str(FOLDER))
    try:
        import run
        import strokes
    finally:
        sys.path.remove(str(FOLDER))
    return strokes, run


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    """scikit-learn's digits at the size of MNIST's."""
    small = torch.from_numpy(load_digits().images[:200]).float()[:, None] / 16
    return torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear").flatten(1)


def test_the_pen_inks_what_its_disc_reaches(example: tuple[ModuleType, ModuleType]) -> None:
    strokes, _ = example
    numbers = torch.rand(6, strokes.NUMBERS, generator=torch.Generator().manual_seed(0))
    numbers[0, :-1] = 0.0  # in a corner of the picture
    drawn = strokes.drawn(numbers).reshape(6, 28, 28)
    controls = numbers[:, :-1].reshape(6, -1, 2)
    pen = strokes.BASIS @ controls * 28
    radius = strokes.THIN + (strokes.THICK - strokes.THIN) * numbers[:, -1]
    spots = torch.arange(28) + 0.5
    y, x = torch.meshgrid(spots, spots, indexing="ij")
    nearest = torch.cdist(torch.stack([x, y], 2).reshape(1, -1, 2), pen).amin(2).reshape(6, 28, 28)
    assert torch.equal(drawn, (nearest <= radius[:, None, None]).float())
    assert 0 < drawn[0].sum() < 5


def test_the_curve_reaches_its_ends_and_weights_sum_to_one(example: tuple[ModuleType, ModuleType]) -> None:
    weights = example[0].basis(7, 30)
    torch.testing.assert_close(weights.sum(1), torch.ones(30))
    assert weights.min() >= 0
    torch.testing.assert_close(weights[[0, -1]], torch.eye(7)[[0, 6]], atol=1e-3, rtol=0)


def test_the_error_of_black_and_white_pictures_is_the_squared_one(
    example: tuple[ModuleType, ModuleType], digits: torch.Tensor
) -> None:
    pictures = (digits.roll(1, 0) > 0.5).float()
    torch.testing.assert_close(example[0].error(pictures, digits), (pictures - digits).square().sum(1))


@pytest.mark.parametrize("place", ["", "raw", "MNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_as_torchvision_lays_them_out(
    example: tuple[ModuleType, ModuleType], tmp_path: Path, place: str, packed: bool
) -> None:
    images = np.arange(2 * 784, dtype=np.uint16).astype(np.uint8).reshape(2, 28, 28)
    data = struct.pack(">4i", 2051, 2, 28, 28) + images.tobytes()
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    name = "train-images-idx3-ubyte"
    if packed:
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
    else:
        (folder / name).write_bytes(data)
    read = example[0].load(tmp_path, "train")
    np.testing.assert_allclose(read.numpy(), images.reshape(2, 784) / 255, rtol=1e-6)
    with pytest.raises(FileNotFoundError, match="t10k-images"):
        example[0].load(tmp_path, "t10k")


@pytest.mark.parametrize("way", ["through_renderer", "over_weights"])
def test_training_repeats_and_through_the_renderer_makes_it_better(
    example: tuple[ModuleType, ModuleType], digits: torch.Tensor, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = example
    monkeypatch.setattr(run, "BATCH", 8)
    train = getattr(run, way)
    settings = run.RENDERER if way == "through_renderer" else run.WEIGHTS
    writer, rows = run.trained(train, digits, digits[:100], 8, 0, **settings)
    _, again = run.trained(train, digits, digits[:100], 8, 0, **settings)
    assert [row[:2] for row in rows] == [row[:2] for row in again]
    assert rows[0][0] == 8 * 17
    assert rows[-1][1] < rows[0][1] if way == "through_renderer" else rows[-1][1] != rows[0][1]
    pictures = run.sampled(writer, 5)
    assert pictures.shape == (5, 784)
    assert set(pictures.unique().tolist()) == {0.0, 1.0}
    assert run.sheet(pictures[:4], 2).shape == (60, 60)
