"""The LED displays: every parameter counts, and counts as 0 or 1."""

import pytest
import torch

import zograd as zo
from zograd.problems import led
from zograd.problems.led import BOX_PIXELS, HEIGHT, WIDTH, glow, shown


def test_every_parameter_changes_the_loss() -> None:
    problem = led()
    assert isinstance(problem.fun, zo.BlackBox)
    start = problem.x0.round()
    switched = start.repeat(len(start), 1)
    switched.diagonal().mul_(-1).add_(1)
    assert len(start) == 336
    assert (problem.fun(switched) != problem.value(start)).all()


def test_only_rounding_counts() -> None:
    problem = led(2)
    assert problem.value(problem.x0) == problem.value(problem.x0.round())


def test_its_least_value_shows_pi() -> None:
    problem = led(1)
    lit = torch.tensor([1, 1, 1, 1, 0, 0, 1, *[0, 1, 1, 0, 0, 0, 0], *[0, 1, 1, 0, 0, 1, 1], *[0, 1, 1, 0, 0, 0, 0]])
    assert problem.value(lit.float()) == 0.0
    others = torch.rand(50, 28, generator=torch.Generator().manual_seed(0))
    assert isinstance(problem.fun, zo.BlackBox)
    assert (problem.fun(others) > 0).all()


def test_light_is_that_of_a_slow_sum() -> None:
    points = torch.rand(3, 14, generator=torch.Generator().manual_seed(0))
    shine = glow().view(7, HEIGHT, WIDTH)
    for row, point in enumerate(points):
        for digit in range(2):
            expected = torch.zeros(HEIGHT, WIDTH)
            for segment in range(7):
                if point[7 * digit + segment] > 0.5:
                    expected += shine[segment]
            seen = shown(points, glow())[row].view(2, HEIGHT, WIDTH)[digit]
            torch.testing.assert_close(seen, expected.clamp(max=1))


def test_a_segment_lights_itself_and_little_else() -> None:
    shine = glow()
    assert shine.shape == (7, BOX_PIXELS)
    assert (shine.max(1).values == 1).all()
    # Its own length times its width, and what shines beyond.
    assert ((shine == 1).sum(1) <= 12).all()
    assert ((shine > 0.05).sum(1) < 60).all()


@pytest.mark.parametrize(("displays", "shape"), [(1, 18 / 48), (3, 36 / 96)])
def test_pictures_keep_their_shape(displays: int, shape: float) -> None:
    problem = led(displays)
    picture = problem.draw(problem.x0, 192)
    assert picture.shape[0] / picture.shape[1] == pytest.approx(shape)


def test_the_default_solves_it() -> None:
    assert led().solve().fun == 0.0
