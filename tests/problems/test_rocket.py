"""The rocket: its physics, its valves, and that it can be landed."""

import numpy as np
import pytest
import torch

from zograd.problems import rocket
from zograd.problems.rocket import DEPARTURE, GRAVITY, THRUST, TICK, TIME, TURN, flown, valves

STEPS = round(TIME / TICK)


def test_without_engines_it_falls_as_anything_does() -> None:
    flight = flown(np.zeros((1, 4)), np.zeros((1, 4)))[0]
    seconds = TICK * np.arange(STEPS + 1)
    x, y, across, up, lean, _ = DEPARTURE
    falling = flight[:, 1] > 0
    assert 50 < falling.sum() < STEPS
    np.testing.assert_allclose(flight[falling, 0], (x + across * seconds)[falling])
    expected = y + up * seconds - GRAVITY * seconds * (seconds + TICK) / 2
    np.testing.assert_allclose(flight[falling, 1], expected[falling], atol=1e-9)
    np.testing.assert_allclose(flight[falling, 4], lean)
    # On the ground it stays as it arrived.
    ground = flight[~falling]
    assert (ground == ground[0]).all()
    assert ground[0, 3] < -20


def test_valves_are_open_for_their_share_of_each_burst() -> None:
    shares = np.array([[0.0, 1.0, 0.5], [0.25, 0.1, -0.3]])
    opened = valves(shares)
    assert opened.shape == (STEPS, 2)
    assert set(np.unique(opened)) == {0.0, 1.0}
    np.testing.assert_allclose(opened.reshape(3, STEPS // 3, 2).mean(1).T, [[0, 1, 0.5], [0.25, 0.1, 0.0]], atol=0.01)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_thrust_is_along_the_rocket_and_jets_turn_it(sign: float) -> None:
    flight = flown(np.ones((1, 1)), np.full((1, 1), sign))[0]
    assert flight[10, 5] == pytest.approx(sign * TURN * 10 * TICK)
    lean = flight[0, 4]
    push = (flight[1, 2:4] - flight[0, 2:4]) / TICK + [0, GRAVITY]
    np.testing.assert_allclose(push, THRUST * np.array([np.sin(lean), np.cos(lean)]))


def test_the_derivative_is_zero_and_the_loss_is_not_constant() -> None:
    problem = rocket()
    nudged = {name: values + 1e-6 for name, values in problem.x0.items()}
    assert problem.value(nudged) == problem.value({name: values - 1e-6 for name, values in nudged.items()})
    assert problem.value({**problem.x0, "engine": problem.x0["engine"] + 0.1}) != problem.value(problem.x0)
    assert problem.residual(problem.x0).shape == torch.Size([6])


def test_it_can_be_brought_much_nearer_to_a_landing() -> None:
    problem = rocket(12)
    result = problem.solve(3000)
    assert result.fun < 0.03 * problem.value(problem.x0)
    picture = problem.draw(result.x, 120)
    # The pad is drawn.
    assert (np.abs(picture.astype(int) - [209, 73, 91]).sum(2) < 30).any()
