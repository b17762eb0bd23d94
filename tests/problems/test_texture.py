"""The texture: a picture is its own parameters."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zograd.problems import texture


def test_the_loss_is_the_mean_squared_error() -> None:
    problem = texture(size=16)
    assert problem.target is not None
    goal = torch.from_numpy(problem.target(16) / 255).flatten()
    assert problem.value(goal.float()) == pytest.approx(0.0, abs=1e-12)
    assert problem.value(problem.x0) == pytest.approx(float(((problem.x0 - goal) ** 2).mean()), rel=1e-5)
    np.testing.assert_array_equal(problem.draw(goal.float(), 16), problem.target(16))


def test_any_picture_of_any_shape(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), "red").save(tmp_path / "red.png")
    problem = texture(tmp_path / "red.png", size=8)
    assert len(problem.x0) == 3 * 8 * 4
    assert problem.details["photograph"] == "red.png"
    assert problem.draw(problem.x0, 40).shape == (20, 40, 3)


def test_it_has_as_many_parameters_as_said() -> None:
    assert len(texture().x0) == 196_608
