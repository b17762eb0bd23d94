"""Steps to try: how many, and outputs that all count alike."""

import pytest
import torch

from zograd.strategies._krylov import damped_steps
from zograd.strategies._slopes import Slopes
from zograd.strategies._trials import FAR, equalised, wave


@pytest.mark.parametrize(("cost", "rows"), [(2, 1), (31, 1), (32, 4), (100, 12), (1024, 16)])
def test_a_wave_is_a_small_part_of_a_measurement(cost, rows):
    assert wave(cost, jumps=False) == rows


@pytest.mark.parametrize(("cost", "rows"), [(2, 8), (31, 8), (64, 8), (100, 12), (1024, 16)])
def test_where_the_program_jumps_a_wave_is_eight_steps_at_least(cost, rows):
    assert wave(cost, jumps=True) == rows


def test_lengths_are_those_of_the_matrix_and_of_its_entries(generator):
    some = torch.rand(9, 40, generator=generator) < 0.2
    matrix = torch.randn(9, 40, dtype=torch.float64, generator=generator) * some
    whole = Slopes(9, 40, matrix)
    assert torch.allclose(whole.lengths(), matrix.norm(dim=0))
    assert torch.allclose(whole.thinned(1e-9, 0.5).lengths(), matrix.norm(dim=0), rtol=1e-5)


def test_an_output_near_its_end_counts_as_much_as_the_others():
    """Two parameters move three outputs; the third hardly moves, and is right: the step leaves it alone."""
    matrix = torch.tensor([[1.0, 0.0, 1e-4], [0.0, 1.0, 1e-4]], dtype=torch.float64)
    residuals = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    slopes, scale = Slopes(2, 3, matrix), torch.ones(2, dtype=torch.float64)
    plain = damped_steps(slopes, residuals, [1e-9], scale)[0]
    weight, wanted = equalised(slopes, residuals)
    alike = damped_steps(slopes, wanted, [1e-9], scale, weight.mul)[0]
    assert torch.allclose(plain, torch.tensor([-1.0, -1.0], dtype=torch.float64), atol=1e-4)
    assert torch.allclose(alike, plain / 2, atol=1e-2)


def test_no_output_asks_for_more_than_its_slope_can_tell():
    matrix = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1e-4, 0.0], dtype=torch.float64))
    residuals = torch.tensor([0.1, -0.1, 0.1, -1.0, 0.5], dtype=torch.float64)
    weight, wanted = equalised(Slopes(5, 5, matrix), residuals)
    assert torch.equal(wanted[:3], residuals[:3])
    assert float(wanted[3]) == pytest.approx(-FAR * 0.1 * 1e-4)
    assert float(weight[4]) == float(wanted[4]) == 0.0


def test_outputs_that_nothing_moves_ask_for_nothing():
    weight, wanted = equalised(Slopes.zeros(2, 3), torch.ones(3, dtype=torch.float64))
    assert not weight.any()
    assert not wanted.any()
