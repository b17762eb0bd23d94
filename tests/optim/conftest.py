"""What the tests of the step rules share: functions of a batch, and a descent that is told their values."""

from collections.abc import Callable

import pytest
import torch

import zograd as zo


def _solve(function, descent, evaluations):
    """Ask and tell within the budget; returns the descent."""
    while descent.evaluations + len(descent.ask()) <= evaluations:
        points = descent.ask().points()
        descent.tell(function(descent.parameters.clip(points)))
    return descent


def _same_after_reload(function, make, steps, after):
    """Whether a state that went through a file gives the same probes, values and steps, bit for bit."""
    one, two = make(seed=0), make(seed=7)
    for _ in range(steps):
        one.tell(function(one.ask().points()))
    two.load_state_dict(after(one.state_dict()))
    for _ in range(6):
        first, second = one.ask().points(), two.ask().points()
        if not torch.equal(first, second):
            return False
        left, right = one.tell(function(first)), two.tell(function(second))
        if (left.best_value, left.number, left.evaluations) != (right.best_value, right.number, right.evaluations):
            return False
    return torch.equal(one.center, two.center)


@pytest.fixture
def solve() -> Callable[..., zo.Descent]:
    """``solve(function, descent, evaluations)``."""
    return _solve


@pytest.fixture
def same_after_reload(tmp_path) -> Callable[..., bool]:
    """``same_after_reload(function, make, steps)``: with a file between, read back as weights only."""

    def through_a_file(state):
        torch.save(state, tmp_path / "state.pt")
        return torch.load(tmp_path / "state.pt", weights_only=True)

    return lambda function, make, steps: _same_after_reload(function, make, steps, through_a_file)
