"""Ask and tell: nothing is executed inside, and the state is whole."""

import functools

import numpy as np
import pytest
import torch

import zograd as zo

ADAM = functools.partial(torch.optim.Adam, lr=0.05)


def bowl(points):
    return ((points - 0.3) ** 2).sum(1)


def make(seed=0, scheduler=None):
    return zo.Descent(
        torch.zeros(4),
        estimator=zo.RandomGradient(samples=3, step=0.01),
        optimizer=ADAM,
        scheduler=scheduler,
        seed=seed,
    )


def test_asking_twice_gives_the_same_probes():
    descent = make()
    assert descent.ask() is descent.ask()
    descent.tell(bowl(descent.ask().points()))
    assert descent.number == 1


def test_ask_and_tell_descend_and_count():
    descent = make()
    for _ in range(100):
        step = descent.tell(bowl(descent.ask().points()))
    assert step.evaluations == 600
    assert step.best_value < 1e-3
    assert {"gradient_norm", "signal_to_noise", "step_length"} <= step.diagnostics.keys()
    assert step.best_value == pytest.approx(float(bowl(step.best_point[None])))


@pytest.mark.parametrize(
    "scheduler", [None, functools.partial(torch.optim.lr_scheduler.StepLR, step_size=2)], ids=["none", "step"]
)
def test_a_state_dict_carries_on_bit_for_bit(scheduler):
    one = make(scheduler=scheduler)
    for _ in range(5):
        one.tell(bowl(one.ask().points()))
    two = make(seed=9, scheduler=scheduler)
    two.load_state_dict(one.state_dict())
    for _ in range(5):
        a, b = one.ask(), two.ask()
        assert torch.equal(a.points(), b.points())
        first, second = one.tell(bowl(a.points())), two.tell(bowl(b.points()))
        assert (first.best_value, first.number, first.evaluations) == (
            second.best_value,
            second.number,
            second.evaluations,
        )


def test_values_of_the_wrong_shape_are_refused():
    descent = make()
    with pytest.raises(zo.ArgumentError, match=r"shape \(6,\)"):
        descent.tell(torch.zeros(5))


def test_all_lost_is_a_gradient_error():
    descent = make()
    with pytest.raises(zo.GradientError):
        descent.tell(torch.full((6,), float("nan")))


def test_the_centre_stays_inside_the_bounds():
    parameters = zo.Parameters(np.array([0.0, 0.5]), bounds=(0, 1))
    descent = zo.Descent(
        parameters, estimator=zo.CoordinateGradient(), optimizer=functools.partial(torch.optim.SGD, lr=100.0)
    )
    for _ in range(5):
        descent.tell((descent.ask().points() - 0.7).square().sum(1))
        assert bool(((descent.center >= 0) & (descent.center <= 1)).all())
