"""Slopes as a matrix and as entries, and the damped steps that follow from them."""

import pytest
import torch

from zograd.strategies._krylov import damped_steps
from zograd.strategies._slopes import Slopes

MATRIX = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 3.0, 0.0, 0.0], [0.5, 0.0, 0.0, -1.0]], dtype=torch.float64)


def as_matrix():
    return Slopes(3, 4, MATRIX.clone())


def as_entries():
    return Slopes(3, 4, MATRIX.clone()).thinned(0.0, 1.0)


@pytest.mark.parametrize("make", [as_matrix, as_entries])
def test_products_are_those_of_the_matrix(make, generator):
    slopes = make()
    step = torch.randn(3, dtype=torch.float64, generator=generator)
    outputs = torch.randn(4, dtype=torch.float64, generator=generator)
    assert torch.allclose(slopes.times(step), step @ MATRIX, atol=1e-6)
    assert torch.allclose(slopes.transposed(outputs), MATRIX @ outputs, atol=1e-6)
    assert torch.allclose(slopes.squares(), MATRIX.square().sum(1))
    assert torch.equal(slopes.dense().value.double(), MATRIX)


def test_few_entries_stay_entries_and_many_a_matrix():
    assert as_entries().direction is not None
    assert as_matrix().thinned(0.0, 0.1).direction is None


@pytest.mark.parametrize("make", [as_matrix, as_entries])
def test_a_correction_makes_the_step_lead_where_it_led(make, generator):
    slopes = make()
    step = torch.randn(3, dtype=torch.float64, generator=generator)
    error = torch.tensor([0.1, -0.2, 0.3, 0.4], dtype=torch.float64)
    after = slopes.corrected(step, error)
    assert torch.allclose(after.times(step), slopes.times(step) + error, atol=1e-5)
    if slopes.direction is not None:  # and nothing appears where nothing was
        assert torch.equal(after.dense().value != 0, MATRIX != 0)


def test_entries_are_renewed_and_stale_ones_kept():
    place, new = torch.tensor([2, 0]), torch.tensor([9.0, 7.0])
    after = as_entries().renewed(torch.tensor([False, True, False]), place, torch.tensor([1, 3]), new)
    assert after.dense().value.tolist() == [[0, 0, 0, 7], [0, 3, 0, 0], [0, 9, 0, 0]]
    assert after.direction.tolist() == sorted(after.direction.tolist())


@pytest.mark.parametrize(("directions", "outputs"), [(5, 9), (9, 5), (1, 1), (60, 70)])
@pytest.mark.parametrize("damping", [0.0, 1e-3, 1.0, 100.0])
def test_steps_solve_the_damped_equations(directions, outputs, damping, generator):
    if damping == 0.0 and directions > outputs:
        pytest.skip("without damping there are many solutions")
    matrix = torch.randn(directions, outputs, dtype=torch.float64, generator=generator)
    residuals = torch.randn(outputs, dtype=torch.float64, generator=generator)
    scale = torch.rand(directions, dtype=torch.float64, generator=generator) + 0.5
    slopes = Slopes(directions, outputs, matrix)
    step = damped_steps(slopes, residuals, [damping], scale)[0]
    scaled = scale[:, None] * matrix
    mean = scaled.square().sum() / directions
    normal = scaled @ scaled.T + damping * mean * torch.eye(directions, dtype=torch.float64)
    exact = -scale * torch.linalg.lstsq(normal, (scaled @ residuals)[:, None]).solution[:, 0]
    assert torch.allclose(step, exact, rtol=1e-6, atol=1e-8)


def test_many_directions_are_solved_for_well_enough(generator):
    matrix = torch.randn(200, 300, dtype=torch.float64, generator=generator)
    residuals = matrix.T @ torch.randn(200, dtype=torch.float64, generator=generator)
    step = damped_steps(Slopes(200, 300, matrix), residuals, [1e-3], torch.ones(200, dtype=torch.float64))[0]
    assert float((residuals + step @ matrix).norm() / residuals.norm()) < 0.05


def test_a_filter_weighs_the_residuals():
    weights = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    residuals = torch.tensor([1.0, 5.0, 2.0, 5.0], dtype=torch.float64)
    ones = torch.ones(3, dtype=torch.float64)
    step = damped_steps(as_matrix(), residuals, [1e-9], ones, lambda outputs: weights * outputs)[0]
    assert torch.allclose(weights * (residuals + step @ MATRIX), torch.zeros(4, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("nothing", ["residuals", "slopes", "room"])
def test_there_is_no_step_where_there_is_nothing_to_gain(nothing):
    ones = torch.ones(3, dtype=torch.float64)
    slopes = Slopes.zeros(3, 4) if nothing == "slopes" else as_matrix()
    residuals = torch.full((4,), 0.0 if nothing == "residuals" else 1.0, dtype=torch.float64)
    steps = damped_steps(slopes, residuals, [1.0, 0.1], 0.0 * ones if nothing == "room" else ones)
    assert steps.shape == (2, 3)
    assert not bool(steps.any())


def test_a_held_direction_does_not_move():
    scale = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    step = damped_steps(as_matrix(), torch.ones(4, dtype=torch.float64), [1e-3], scale)[0]
    assert step[1] == 0
    assert bool(step[[0, 2]].all())
