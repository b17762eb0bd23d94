"""The caustic against a plain, slow count of photons."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.interpolate import BSpline

import zograd as zo
from zograd.problems import caustic
from zograd.problems._spline import basis
from zograd.problems.caustic import Water, ring


def slow(control_points: NDArray[np.float64], photons: int, size: int) -> NDArray[np.float64]:
    """One photon after the other, with vectors and Snell's law as a textbook has them."""
    count = len(control_points)
    padded = np.pad(control_points, 1, mode="reflect", reflect_type="odd")  # goes on in a straight line
    knots = (np.arange(count + 6) - 3) / (count - 1)

    def along(weights: NDArray[np.float64], u: float, derivative: int) -> float:
        # A spline ends before its last knot, and these go one interval further.
        return float(BSpline(knots, weights, 3)(min(u, 1 - 1e-12), nu=derivative))

    counts = np.zeros((size, size))
    for x in np.linspace(-1, 1, photons):
        for y in np.linspace(-1, 1, photons):
            u, v = x / 2 + 0.5, y / 2 + 0.5
            lines = [along(row, v, 0) for row in padded]
            height = along(np.array(lines), u, 0) / 4 + 0.75
            to_x = along(np.array(lines), u, 1) / 8
            to_y = along(np.array([along(row, v, 1) for row in padded]), u, 0) / 8
            normal = np.array([-to_x, -to_y, 2.0])
            normal /= np.linalg.norm(normal)
            light = np.array([0.0, 0.0, -1.0])
            cosine = -light @ normal
            rest = 1 - 1.33**2 * (1 - cosine**2)
            place = np.array([x, y])
            if rest >= 0:
                refracted = 1.33 * (light + cosine * normal) - np.sqrt(rest) * normal
                place = place + height / -refracted[2] * refracted[:2]
            if (np.abs(place) < 1).all():
                row, column = np.trunc((place / 2 + 0.5) * size - 1).astype(int)
                counts[row, column] += 1
    return np.minimum(counts / np.quantile(counts, 0.995), 1)


@pytest.mark.parametrize("spread", [0.05, 3.0], ids=["gentle", "with total reflection"])
def test_the_light_is_that_of_a_slow_count(spread: float) -> None:
    control, photons, size = 6, 22, 10
    generator = torch.Generator().manual_seed(0)
    points = 0.5 + spread * torch.randn(2, control**2, generator=generator, dtype=torch.float64)
    light = Water(control, photons, size, False)(points)
    for point, seen in zip(points, light, strict=True):
        np.testing.assert_allclose(seen, slow(point.view(control, control).numpy(), photons, size), atol=1e-12)


def test_the_loss_at_the_start_is_that_of_the_released_program() -> None:
    # Recorded from it, for this start and this goal, at 128^2 photons and 64^2 pixels.
    problem = caustic()
    assert problem.value(problem.x0) == pytest.approx(0.2208888828754425, rel=1e-4)
    assert len(problem.x0) == 1024


def test_flat_water_lets_the_light_straight_through() -> None:
    light = Water(8, 64, 16, False)(torch.full((1, 64), 0.5))[0]
    assert (light[:-2, :-2] > 0.2).all()  # the last row and column of pixels get none: the released program's offset
    assert not light[-1].any()


def test_a_spline_of_a_straight_line_is_the_line() -> None:
    places = torch.linspace(0, 1, 17, dtype=torch.float64)
    values, slopes = basis(places, 5)
    line = torch.linspace(2, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(values @ line, 2 + 2 * places)
    torch.testing.assert_close(slopes @ line, torch.full((17,), 2.0, dtype=torch.float64))


def test_the_goal_is_a_ring_with_a_bar() -> None:
    goal = ring(64)
    area = np.pi * (0.8**2 - 0.6**2) / 4 + 0.2 * 1.0 / 4
    assert float(goal.mean()) == pytest.approx(area, rel=0.05)


def test_noise_is_common_to_a_wave_and_other_in_the_next() -> None:
    problem = caustic(8, 32, 16, noise=True)
    assert problem.noise
    assert isinstance(problem.fun, zo.BlackBox)
    twice = problem.x0.repeat(2, 1)
    torch.manual_seed(0)
    waves = [problem.fun(twice) for _ in range(8)]
    assert all(wave[0] == wave[1] for wave in waves)
    assert len({float(wave[0]) for wave in waves}) > 1
    torch.manual_seed(3)
    seeded = problem.fun(twice)
    torch.manual_seed(3)
    assert torch.equal(problem.fun(twice), seeded)


def test_optimisation_lowers_it() -> None:
    problem = caustic(4, 24, 12)
    assert problem.solve(300).fun < 0.95 * problem.value(problem.x0)
