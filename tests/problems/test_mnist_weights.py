"""The weights of a network, and the files of digits."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import zograd as zo
from zograd.problems import mnist_weights
from zograd.problems._digits import images, printed


def idx(pictures: np.ndarray) -> bytes:
    return struct.pack(">4i", 2051, *pictures.shape) + pictures.astype(np.uint8).tobytes()


@pytest.fixture(scope="module")
def handwritten() -> np.ndarray:
    """scikit-learn's digits, of 8 x 8 pixels, as MNIST would have them: 24 x 24 in the middle of 28 x 28."""
    small = load_digits().images[:12] * 15.9375
    return np.pad(np.kron(small, np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2))).astype(np.uint8)


def test_the_output_is_that_of_torch_modules() -> None:
    problem = mnist_weights()
    assert len(problem.x0) == 35_152
    net = torch.nn.Sequential(
        torch.nn.Linear(256, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 784),
        torch.nn.Sigmoid(),
    )
    torch.nn.utils.vector_to_parameters(problem.x0, net.parameters())
    given = torch.rand(256, generator=torch.Generator().manual_seed(0))
    goal = torch.from_numpy(printed(7).copy()).flatten() / 255
    with torch.no_grad():
        torch.testing.assert_close(
            problem.residual(problem.x0).flatten().float(), net(given) - goal, rtol=1e-5, atol=1e-6
        )


def test_the_start_is_uniform_in_one_over_the_root_of_the_fan_in() -> None:
    start = mnist_weights().x0
    first, last = start[: 32 * 256 + 32].abs(), start[-784 * 33 :].abs()
    assert first.max() == pytest.approx(1 / 16, rel=1e-2)
    assert last.max() == pytest.approx(1 / 32**0.5, rel=1e-2)
    assert not torch.equal(start, mnist_weights(seed=1).x0)


def test_a_font_has_digits_as_large_as_mnist() -> None:
    for digit in range(10):
        rows, columns = np.nonzero(printed(digit) > 127)
        assert np.ptp(rows) + 1 == pytest.approx(20, abs=1)
        assert columns.mean() == pytest.approx(13.5, abs=3)
        assert 30 < (printed(digit) > 127).sum() < 200


class TestFiles:
    @pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "MNIST/raw/train-images-idx3-ubyte.gz"])
    def test_a_folder_is_searched_as_torchvision_lays_it_out(
        self, tmp_path: Path, handwritten: np.ndarray, name: str
    ) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(idx(handwritten)) if name.endswith("gz") else idx(handwritten))
        for path in (tmp_path, file):
            np.testing.assert_array_equal(images(path), handwritten)
            problem = mnist_weights(path, number=3)
            assert problem.target is not None
            np.testing.assert_array_equal(problem.target(28)[:, :, 0], handwritten[3])
        assert images(tmp_path, 5).shape == (5, 28, 28)

    def test_what_is_no_file_of_digits_is_said(self, tmp_path: Path, handwritten: np.ndarray) -> None:
        (tmp_path / "labels").write_bytes(struct.pack(">2i", 2049, 3) + bytes(20))
        (tmp_path / "short").write_bytes(idx(handwritten)[:1000])
        (tmp_path / "text.gz").write_text("not a file of gzip")
        (tmp_path / "small").write_bytes(idx(handwritten[:, :8, :8]))
        (tmp_path / "empty").mkdir()
        for name, found in [
            ("none", "no such file"),
            ("labels", "of another kind"),
            ("short", "cannot be read"),
            ("text.gz", "cannot be read"),
            ("empty", "a folder without"),
            ("small", "of 8 x 8"),
        ]:
            with pytest.raises(zo.ArgumentError, match=f"`digits` must .* found .*{found}") as error:
                mnist_weights(tmp_path / name)
            assert error.value.argument == "digits"
        (tmp_path / "good").write_bytes(idx(handwritten))
        with pytest.raises(zo.ArgumentError, match="picture number 12"):
            mnist_weights(tmp_path / "good", number=12)
