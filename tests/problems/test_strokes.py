"""The network that writes: its pen, its layers, its digits, and that it learns."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import zograd as zo
from zograd.problems import strokes
from zograd.problems._digits import printed
from zograd.problems.strokes import CONTROLS, CURVE, NUMBERS, THICK, THIN, drawn, sheet


def idx(pictures: np.ndarray) -> bytes:
    return struct.pack(">4i", 2051, *pictures.shape) + pictures.astype(np.uint8).tobytes()


@pytest.fixture(scope="module")
def handwritten() -> np.ndarray:
    """scikit-learn's digits, of 8 x 8 pixels, as MNIST would have them: 24 x 24 in the middle of 28 x 28."""
    small = load_digits().images[:12] * 15.9375
    return np.pad(np.kron(small, np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2))).astype(np.uint8)


def test_the_pen_inks_what_its_disc_reaches() -> None:
    numbers = torch.rand(6, NUMBERS, generator=torch.Generator().manual_seed(0))
    numbers[0, :-1] = 0.0  # in a corner of the picture
    inked = drawn(numbers).reshape(6, 28, 28)
    pen = CURVE @ numbers[:, :-1].reshape(6, -1, 2) * 28
    radius = THIN + (THICK - THIN) * numbers[:, -1]
    spots = torch.arange(28) + 0.5
    y, x = torch.meshgrid(spots, spots, indexing="ij")
    nearest = torch.cdist(torch.stack([x, y], 2).reshape(1, -1, 2), pen).amin(2).reshape(6, 28, 28)
    assert torch.equal(inked, (nearest <= radius[:, None, None]).float())
    assert 0 < inked[0].sum() < 5


def test_the_curve_goes_from_the_first_control_point_to_the_last() -> None:
    torch.testing.assert_close(CURVE.sum(1), torch.ones(len(CURVE)))
    assert CURVE.min() > -1e-6  # within the picture, as its control points are
    torch.testing.assert_close(CURVE[[0, -1]], torch.eye(CONTROLS)[[0, -1]], atol=1e-5, rtol=0)


def test_it_is_a_network_of_torch_modules_and_a_pen() -> None:
    problem = strokes(pictures=4, seed=3)
    assert len(problem.x0) == 945
    x, generator = problem.x0, torch.Generator().manual_seed(3)
    torch.randn(49 * 4, generator=generator), torch.randn(4 * 24, generator=generator)
    torch.randn(24 * 25, generator=generator)
    noise = 0.1 * torch.randn(4, 4, generator=generator)
    goal = torch.stack([torch.from_numpy(printed(digit).copy()) for digit in range(4)]) / 255
    values = goal.reshape(4, 7, 4, 7, 4).sum((2, 4)).flatten(1) / 4
    net = torch.nn.Sequential(
        torch.nn.Linear(49, 4), torch.nn.Tanh(), torch.nn.Linear(4, 24), torch.nn.Tanh(), torch.nn.Linear(24, 25)
    )
    used = 0
    with torch.no_grad():
        for module in net[::2]:
            width, before = module.weight.shape
            module.weight.copy_(x[used : used + before * width].reshape(before, width).T / before**0.5)
            used += before * width
            module.bias.copy_(x[used : used + width])
            used += width
        numbers = net[2:](net[:2](values) + noise).sigmoid()
        torch.testing.assert_close(problem.residual(x).float(), drawn(numbers) - goal.flatten(1))


def test_the_first_strokes_are_rings() -> None:
    problem = strokes()
    numbers = strokes_of(problem)
    ring = torch.linspace(-0.5, 1.5, CONTROLS) * torch.pi
    wanted = torch.stack([ring.cos(), ring.sin()], 1).sigmoid().flatten()
    assert (numbers[:, :-1] - wanted).abs().max() < 0.25
    assert not torch.equal(problem.x0, strokes(seed=1).x0)


def strokes_of(problem: object) -> torch.Tensor:
    """Where the pen goes at the start for ten codes."""
    from zograd.problems.strokes import layer

    points = problem.x0[None]  # type: ignore[attr-defined]
    codes = 2 * torch.rand(10, 4, generator=torch.Generator().manual_seed(0)) - 1
    numbers: torch.Tensor = layer(points, 2, layer(points, 1, codes).tanh()).sigmoid()[0]
    return numbers


def test_ten_digits_of_a_font_are_repeated_with_other_noise() -> None:
    problem = strokes(pictures=12)
    residuals = problem.residual(problem.x0)
    assert residuals.shape == (12, 784)
    assert problem.target is not None
    picture = problem.target(300)
    assert picture.shape == (round(300 * 90 / 150), 300, 3)
    goal = (residuals > 0) & (residuals < 1)  # grey pixels of the digit under ink
    assert goal.any()
    assert not torch.equal(residuals[0], residuals[10])


def test_the_picture_has_what_it_writes_and_digits_of_its_own() -> None:
    problem = strokes(pictures=3)
    picture = problem.draw(problem.x0, 1000)
    assert picture.shape[1] == 1000
    rows = [torch.zeros(7, 784), torch.ones(7, 784)]
    both = sheet(rows, 150)
    assert both.shape == (4 * 30 + 10, 150, 3)
    assert (both[:60] == 255).all()
    assert (both[71:99, 1:29] == 0).all()
    assert (both[100:, 60:] == 255).all()  # the second row has two


class TestFiles:
    def test_mnist_is_what_is_written(self, tmp_path: Path, handwritten: np.ndarray) -> None:
        (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(handwritten))
        problem = strokes(tmp_path, pictures=3)
        assert problem.target is not None
        np.testing.assert_array_equal(problem.target(90)[1:29, 1:29, 0], 255 - handwritten[0])
        assert problem.details["digits"] == f"3 of {tmp_path.name}"

    def test_too_few_or_small_ones_are_said(self, tmp_path: Path, handwritten: np.ndarray) -> None:
        (tmp_path / "few").write_bytes(idx(handwritten))
        (tmp_path / "small").write_bytes(idx(handwritten[:, :8, :8]))
        for name, found in [("few", "12 of 28 x 28"), ("small", "12 of 8 x 8")]:
            with pytest.raises(zo.ArgumentError, match=f"`digits` must have 13 .* found {found}") as error:
                strokes(tmp_path / name, pictures=13)
            assert error.value.argument == "digits"


def test_it_learns() -> None:
    problem = strokes(pictures=2)
    assert problem.solve(2000).fun < 0.8 * problem.value(problem.x0)
