"""Relay: Gauss-Newton while its steps pay, then the loss alone."""

import pytest
import torch

import zograd as zo
from zograd.strategies import NewtonOrCMAES, Relay


def stairs(points):
    """Every output is a staircase of its own: slopes lead to the last step but one, and no further."""
    goal = torch.linspace(-0.4, 0.4, points.shape[1], dtype=points.dtype)
    turned = points - goal + 0.3 * (points - goal).roll(1, 1)
    return torch.cat([(turned * 40).round() / 40, ((turned + 0.3) * 23).floor() / 23 - 6 / 23], 1)


def bowl(points):
    return points.square() - 0.25


def make(d, budget=4000, seed=0):
    return Relay(
        zo.Parameters(torch.full((d,), 0.9, dtype=torch.float64), bounds=(-1, 1)), evaluations=budget, seed=seed
    )


def asked(relay):
    return relay.parameters.clip(relay.ask().points())


def drive(relay, program, evaluations):
    steps = []
    while not steps or steps[-1].evaluations < evaluations:
        steps.append(relay.tell(program(asked(relay))))
    return steps


@pytest.mark.parametrize(("d", "rule"), [(6, "QuasiNewton"), (220, "BlockNewton")])
def test_where_steps_pay_no_more_the_loss_goes_on_and_gains(d, rule):
    relay = make(d, 600 * d)
    before = drive(relay, stairs, 1)[-1]
    while relay.then is None and before.evaluations < 500 * d:
        before = drive(relay, stairs, 1)[-1]
    descent = relay.then.first if isinstance(relay.then, NewtonOrCMAES) else relay.then
    assert type(descent.optimizer).__name__ == rule
    assert f"by {rule}" in relay.said
    assert f"From {before.evaluations} evaluations" in relay.said
    steps = drive(relay, stairs, before.evaluations + 25 * d)
    assert [step.number for step in steps] == list(range(before.number + 1, before.number + 1 + len(steps)))
    assert all(step.evaluations > before.evaluations for step in steps)
    assert steps[-1].best_value <= before.best_value
    point, value = relay.answer
    assert value == steps[-1].best_value == relay.losses(stairs(point[None])).item()


def test_few_parameters_are_passed_on_long_before_a_tenth_of_a_large_budget():
    relay = make(6, 100_000)
    while relay.then is None:
        last = drive(relay, stairs, 1)[-1]
        assert last.evaluations < 2000


def test_a_smooth_program_is_never_passed_on():
    relay = make(6, 600)
    drive(relay, bowl, 590)
    assert relay.then is None
    assert relay.best_value < 1e-12


@pytest.mark.parametrize("share", [0.02, 0.9])
def test_a_state_goes_on_bit_for_bit(share):
    one = make(6, 3600)
    drive(one, stairs, share * 3600)
    assert (one.then is None) == (share < 0.5)
    two = make(6, 3600, seed=9)
    two.seed = one.seed
    two.load_state_dict(one.state_dict())
    for _ in range(5):
        assert torch.equal(one.ask().points(), two.ask().points())
        outputs = stairs(asked(one))
        first, second = one.tell(outputs), two.tell(outputs)
        assert (first.best_value, first.evaluations) == (second.best_value, second.evaluations)


def test_an_interrupted_wave_is_worth_its_best():
    relay = make(6, 3600)
    drive(relay, stairs, 3300)
    probes = relay.ask()
    relay.notice(torch.zeros_like(stairs(probes.points())))
    assert relay.best_value == 0.0
    assert torch.equal(relay.best_point, relay.parameters.clip(probes.points()[0]))
