"""The network that writes digits: its start, the files it reads, and that both ways of training make it better."""

import struct
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import zograd as zo

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


def test_the_error_of_black_and_white_pictures_is_the_squared_one(
    example: tuple[ModuleType, ModuleType], digits: torch.Tensor
) -> None:
    pictures = (digits.roll(1, 0) > 0.5).float()
    torch.testing.assert_close(example[0].error(pictures, digits), (pictures - digits).square().sum(1))


@pytest.mark.parametrize("place", ["", "MNIST/raw"])
def test_the_folder_of_the_files_or_that_of_torchvision(
    example: tuple[ModuleType, ModuleType], tmp_path: Path, place: str
) -> None:
    images = np.arange(2 * 784, dtype=np.uint16).astype(np.uint8).reshape(2, 28, 28)
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 2, 28, 28) + images.tobytes())
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 2) + bytes(2))
    read = example[0].load(tmp_path, train=True)
    np.testing.assert_allclose(read.numpy(), images.reshape(2, 784) / 255, rtol=1e-6)
    with pytest.raises(zo.ArgumentError, match="t10k-images"):
        example[0].load(tmp_path, train=False)


def test_the_first_strokes_are_rings_and_codes_are_narrow(
    example: tuple[ModuleType, ModuleType], digits: torch.Tensor
) -> None:
    strokes, run = example
    torch.manual_seed(0)
    writer = strokes.Writer(run.Pen())
    with torch.no_grad():
        numbers = writer.strokes(torch.randn(20, strokes.LATENT))
        mean, spread = writer.codes(digits)
        first, again = (writer(digits, noise)[0] for noise in torch.zeros(2, 200, strokes.LATENT))
    assert (numbers.mean(0) - torch.sigmoid(writer.decoder[-1].bias)).abs().max() < 0.1
    assert mean.std(0).min() > (0.5 * spread).exp().mean()
    assert torch.equal(first, again)
    assert torch.equal(first, run.reconstructed(writer, digits))


@pytest.mark.parametrize("way", ["through_renderer", "over_weights"])
def test_training_repeats_and_makes_it_better(
    example: tuple[ModuleType, ModuleType], digits: torch.Tensor, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = example
    monkeypatch.setattr(run, "BATCH", 8)
    train = getattr(run, way)
    settings = run.RENDERER if way == "through_renderer" else run.WEIGHTS
    writer, rows = run.trained(train, digits, digits[:100], 30, 0, **settings)
    _, again = run.trained(train, digits, digits[:100], 30, 0, **settings)
    assert [row[:2] for row in rows] == [row[:2] for row in again]
    assert rows[0][0] == 8 * 17
    assert rows[-1][1] < 0.95 * rows[0][1]
    pictures = run.sampled(writer, 5)
    assert pictures.shape == (5, 784)
    assert set(pictures.unique().tolist()) == {0.0, 1.0}
    assert run.sheet(pictures[:4], 2).shape == (60, 60)
