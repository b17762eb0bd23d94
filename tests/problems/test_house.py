"""The house: what is drawn where, and that whole numbers are found."""

import numpy as np
import torch

from zograd.problems import house
from zograd.problems.house import FENCE, GLASS, INTEGERS, START, WANTED, batch, drawn


def runs(line: torch.Tensor, color: tuple[float, float, float]) -> int:
    """How many stretches of a colour there are along a line of pixels."""
    same = (line == torch.tensor(color)).all(1).int()
    return int((same.diff() == 1).sum() + same[0])


def test_counts_are_what_one_sees() -> None:
    for floors, windows in ((1, 1), (3, 7), (8, 2)):
        picture = drawn(batch({**WANTED, "floors": floors, "windows": windows}), 400)[0]
        glass = (picture == torch.tensor(GLASS)).all(2)
        row, column = int(glass.sum(1).argmax()), int(glass.sum(0).argmax())
        assert runs(picture[row], GLASS) == windows
        assert runs(picture[:, column], GLASS) == floors


def test_pickets_stand_on_both_sides_of_the_gate() -> None:
    point = {**WANTED, "pickets": 20, "door": 0.04, "middle": 0.5}
    picture = drawn(batch(point), 400)[0]
    top = int(((picture == torch.tensor(FENCE)).all(2)).any(1).int().argmax())
    # Those two at the gate, of 20, are cut.
    assert runs(picture[top + 1], FENCE) in (18, 19, 20)
    assert not (picture[:, 195:205] == torch.tensor(FENCE)).all(2).any()


def test_whole_numbers_stay_whole_and_the_answer_is_worth_nothing() -> None:
    problem = house(32)
    assert problem.value(WANTED) == 0.0
    result = problem.solve(300)
    assert all(isinstance(result.x[name], int) for name in INTEGERS)
    assert result.fun < problem.value(START)


def test_the_loss_is_a_staircase() -> None:
    problem = house(32)
    assert problem.value({**START, "width": START["width"] + 1e-6}) == problem.value(START)
    assert problem.value({**START, "width": START["width"] + 0.1}) != problem.value(START)


def test_a_picture_of_another_size_shows_the_same() -> None:
    problem = house(32)
    assert problem.target is not None
    small, large = problem.draw(WANTED, 50), problem.target(100)
    same = (small == large[::2, ::2]).all(2) | (small == large[1::2, 1::2]).all(2)
    assert np.mean(same) > 0.9
