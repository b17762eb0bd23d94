"""NewtonOrCMAES: Newton steps where there are slopes, a population where they are chance."""

import pytest
import torch

import zograd as zo
from zograd.strategies import NewtonOrCMAES
from zograd.strategies._newton_or_cmaes import RUGGED

D = 6


CREASES = torch.randn(40, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def rugged(points):
    """Creases in every direction, and ripples on them: a Newton step is right by chance."""
    directions = CREASES[:, : points.shape[-1]].T
    creases, ripples = ((points - 0.3) @ directions).abs().sqrt(), 1 - torch.cos(60 * points @ directions)
    return (creases + 0.2 * ripples).mean(-1)


def smooth(points):
    scales = torch.logspace(0, 4, points.shape[-1], dtype=points.dtype)
    return (scales * (points - 0.1).square()).sum(-1)


def make(d=D, seed=0, **given):
    parameters = zo.Parameters(torch.full((d,), 0.9, dtype=torch.float64), bounds=(-2, 2))
    return NewtonOrCMAES(parameters, seed=seed, **given)


def tell(strategy, program):
    points = strategy.parameters.clip(strategy.ask().points())
    return strategy.tell(program(4 * points - 2))


def until_left(strategy, program=rugged, most=4000):
    step = tell(strategy, program)
    while strategy.then is None and step.evaluations < most:
        step = tell(strategy, program)
    return step


def test_a_rugged_landscape_is_passed_on_from_the_best_point_and_said():
    said = []
    strategy = make(report=said.append)
    left = until_left(strategy)
    assert strategy.left == (left.number, left.evaluations)
    assert said == [f"from {left.evaluations} evaluations on CMA-ES, for {RUGGED} Newton steps in a row missed"]
    assert torch.equal(strategy.ask().center, left.best_point)
    step = tell(strategy, rugged)
    assert (step.number, step.evaluations) == (left.number + 1, left.evaluations + len(strategy.ask()))
    while step.evaluations < 3000:
        step = tell(strategy, rugged)
    assert step.best_value < left.best_value
    point, value = strategy.answer
    assert value == strategy.best_value == pytest.approx(rugged(4 * point - 2).item())


def test_without_its_second_part_a_rugged_landscape_is_left_higher():
    ended = {"descent": 0.0, "both": 0.0}
    for seed in range(3):
        both, parts = make(seed=seed), {"estimator": zo.FrameGradient(), "optimizer": zo.optim.QuasiNewton}
        for name, strategy in (("both", both), ("descent", zo.Descent(both.parameters, **parts, seed=seed))):
            while tell(strategy, rugged).evaluations < 3000:
                pass
            ended[name] += strategy.best_value
    assert ended["both"] < ended["descent"]


def test_a_smooth_landscape_never_is():
    strategy = make()
    while tell(strategy, smooth).evaluations < 2000:
        assert strategy.then is None
    assert strategy.best_value < 1e-12


def test_noise_never_is():
    noise = torch.Generator().manual_seed(1)
    strategy = make()
    while tell(strategy, lambda x: smooth(x) + 10 * torch.randn(len(x), generator=noise).double()).evaluations < 2000:
        assert strategy.then is None


def test_one_parameter_never_is():
    strategy = make(d=1)
    while tell(strategy, rugged).evaluations < 500:
        assert strategy.then is None


@pytest.mark.parametrize("later", [False, True])
def test_a_state_goes_on_bit_for_bit(later):
    one = make()
    if later:
        until_left(one)
    for _ in range(3):
        tell(one, rugged)
    assert (one.then is not None) == later
    two = make()
    two.load_state_dict(one.state_dict())
    assert two.left == one.left
    for _ in range(60):
        assert torch.equal(one.ask().points(), two.ask().points())
        first, second = tell(one, rugged), tell(two, rugged)
        assert (first.number, first.evaluations, first.best_value) == (
            second.number,
            second.evaluations,
            second.best_value,
        )


def test_an_interrupted_generation_is_worth_its_best():
    strategy = make()
    until_left(strategy)
    probes = strategy.ask()
    strategy.notice(torch.full((len(probes),), -1.0).double())
    assert strategy.best_value == -1.0
    assert torch.equal(strategy.best_point, strategy.parameters.clip(probes.points()[0]))


def test_a_start_elsewhere_leaves_the_parameters_as_they_are():
    parameters = zo.Parameters({"a": 1.0, "b": [0.0, 2.0]}, bounds={"a": (0, 4), "b": (-1, 3)})
    before = parameters.initial.clone()
    moved = parameters.started_at(torch.tensor([2.0, 0.5, 0.25], dtype=before.dtype))
    assert torch.equal(parameters.initial, before)
    assert moved.decode(moved.initial)["a"] == 4.0  # clipped
    assert moved.names == parameters.names
