"""Pictures among the outputs, and what can be measured together."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zograd._colours import colours
from zograd.strategies._footprints import Grid


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((8, 9), Grid(8, 9)),
        ((8, 9, 3), Grid(8, 9, 3)),
        ((3, 8, 9), Grid(8, 9, 3, channels_first=True)),
        ((7, 9), None),
        ((100,), None),
        ((8, 9, 20), None),
        ((), None),
    ],
)
def test_a_picture_is_known_by_its_shape(shape, grid):
    assert Grid.of(shape) == grid


@pytest.mark.parametrize("grid", [Grid(8, 9, 3), Grid(8, 9, 3, channels_first=True), Grid(10, 8)])
def test_a_blur_is_symmetric_and_local(grid, generator):
    count = grid.pixels * grid.channels
    one, two = torch.randn(2, count, dtype=torch.float64, generator=generator)
    assert torch.allclose(grid.blurred(one, 1.5) @ two, one @ grid.blurred(two, 1.5), atol=1e-5)
    spike = torch.zeros(count, dtype=torch.float64)
    spike[0] = 1.0
    lit = grid.blurred(spike, 1.0).nonzero()[:, 0]
    channel = torch.zeros(count, dtype=torch.bool)
    channel[lit] = True
    assert grid.pixel(lit).unique().numel() == len(lit)  # one channel alone
    assert 0 < len(lit) < grid.pixels


def test_footprints_widen_and_the_nearest_owns_what_is_between():
    grid = Grid(9, 30)
    marked = torch.zeros(1, 270, dtype=torch.bool)
    marked[0, 4 * 30 + 15] = True
    assert int(grid.widened(marked).sum()) == 25
    owner = torch.full((1, 270), -1)
    owner[0, 4 * 30 + 5], owner[0, 4 * 30 + 11] = 3, 7
    line = grid.nearest(owner)[0, 4 * 30 : 5 * 30].tolist()
    assert line[:8] == [3] * 8
    assert line[9:20] == [7] * 11
    assert line[25] == -1


@given(st.lists(st.sets(st.integers(0, 11), max_size=5), min_size=1, max_size=12))
def test_no_two_of_one_colour_share_a_cell(touched):
    pairs = [(item, cell) for item, cells in enumerate(touched) for cell in sorted(cells)]
    item, cell = (torch.tensor([pair[side] for pair in pairs], dtype=torch.long) for side in (0, 1))
    found = colours(len(touched), item, cell, 12).tolist()
    assert all((colour < 0) == (not cells) for colour, cells in zip(found, touched, strict=True))
    for colour in set(found) - {-1}:
        together = [cells for mine, cells in zip(found, touched, strict=True) if mine == colour]
        assert sum(map(len, together)) == len(set().union(*together))
