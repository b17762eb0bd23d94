"""BlockNewton: many parameters, in blocks."""

import functools
import math

import pytest
import torch

import zograd as zo
from zograd._probes import Coordinates, Probes
from zograd.optim._block_newton import lowest

RULE = zo.optim.BlockNewton


def sphere(points):
    target = torch.linspace(0.25, 0.75, points.shape[1], dtype=points.dtype)
    return ((points - target) ** 2).sum(1)


def descent(d=100, seed=0, estimator=None, block=32, **parameters):
    return zo.Descent(
        zo.Parameters(torch.full((d,), 0.5).double(), **(parameters or {"bounds": (0, 1)})),
        estimator=estimator or zo.CoordinateGradient(step=0.05),
        optimizer=functools.partial(RULE, block=block),
        seed=seed,
    )


@pytest.mark.parametrize("block", [7, 32, 1000])
def test_a_sphere_takes_one_sweep(block, solve):
    start = float(sphere(torch.full((1, 300), 0.5).double()))
    at = solve(sphere, descent(300, block=block), 780)
    assert at.best_value < 1e-12 * start


def test_a_sweep_moves_every_coordinate_once(solve):
    at = descent(50, block=8)
    moved = []
    while len(moved) < 7:
        at.tell(sphere(at.ask().points()))
        moved.append(at.optimizer._now["active"])
        at.tell(sphere(at.ask().points()))
    assert torch.cat(moved).sort().values.tolist() == list(range(50))
    at.ask()
    assert at.optimizer._now["order"].tolist() != torch.cat(moved)[8:].tolist()  # another order in the next sweep


def test_coordinates_that_interact_are_not_thrown_away(solve):
    """The sum couples all of a block: the Newton step of each alone is 8 times too long for all together."""

    def coupled(points):
        return (points - 0.3).sum(1) ** 2 + 0.1 * ((points - 0.3) ** 2).sum(1)

    start = float(coupled(torch.full((1, 32), 0.5).double()))
    at = descent(32, block=8)
    values = []
    while at.evaluations < 4000:
        step = at.tell(coupled(at.ask().points()))
        values += [step.value] if step.value is not None else []
    assert values == sorted(values, reverse=True)  # the centre never gets worse
    assert at.best_value < start / 50


def test_whole_numbers_and_flat_coordinates():
    d, whole = 300, 150

    def program(points):
        n, real = points["n"], points["a"]
        return ((n - 5) ** 2).sum(1) / 10 + ((real[:, ::2] - 0.2) ** 2).sum(1)  # every second one is ignored

    x0 = {"n": torch.full((whole,), 2.0).double(), "a": torch.full((d - whole,), 0.9).double()}
    bounds = {"n": (0, 9), "a": (0, 1)}
    run = functools.partial(zo.minimize, zo.batched(program), x0, bounds=bounds, integers=("n",), optimizer=RULE)
    start = program({name: value[None] for name, value in x0.items()}).item()
    result = run(evaluations=3000, estimator=zo.CoordinateGradient(step=0.05))
    assert result.fun < 1e-3 * start
    assert bool((result.x["n"] == 5).all())


def test_whole_numbers_without_bounds_keep_their_neighbours_in_sight(solve):
    at = zo.Descent(
        zo.Parameters({"n": 3}, integers=("n",)), estimator=zo.CoordinateGradient(step=0.05), optimizer=RULE
    )
    for _ in range(10):
        at.tell(torch.full((len(at.ask()),), 1.0).double())  # flat
    at.optimizer.refine(at.estimator)
    assert float(at.optimizer._now["lengths"]) >= 0.6


def test_probes_that_show_nothing_look_further_up_to_half_the_range(solve):
    at = descent(4)
    lengths = []
    for _ in range(14):
        if not at.optimizer.trying:
            lengths.append(float(at.ask().offsets.step.abs().max()))
        at.tell(torch.zeros(len(at.ask())).double())
    assert lengths == pytest.approx([0.05, 0.2, 0.5, 0.5, 0.5, 0.5, 0.5])


def test_lengths_may_be_given_for_each_coordinate_or_left_to_the_rule():
    given = descent(3, estimator=zo.CoordinateGradient(step=torch.tensor([0.1, 0.2, 0.3])))
    probes = given.ask()
    assert probes.offsets.step.abs().max() == pytest.approx(0.3)
    assert descent(3, estimator=zo.CoordinateGradient()).ask().offsets.step.abs().max() == pytest.approx(0.05)


@pytest.mark.parametrize("lost", [[0], [1], [1, 2, 3, 4], [7, 8]])
def test_lost_rows_are_left_out(lost):
    """Row 0 is the centre; the block is of 4: without its centre it is not stepped, other losses cost a coordinate."""
    at = descent(4)
    values = sphere(at.ask().points())
    values[lost] = torch.nan
    at.tell(values)
    assert at.optimizer.trying == (lost != [0])
    while at.evaluations < 60:
        points = at.ask().points()
        assert bool(points.isfinite().all())
        at.tell(sphere(points))
    assert at.best_value < 1e-12


def test_lost_trials_leave_the_centre_where_it_is():
    at = descent(4)
    at.tell(sphere(at.ask().points()))
    before = at.center.clone()
    at.tell(torch.tensor([math.nan, math.inf, math.nan]).double())
    assert torch.equal(at.center, before)
    assert not at.optimizer.trying


def test_a_slope_without_curvature_goes_as_far_as_allowed(solve):
    at = solve(lambda x: x.sum(1), descent(4), 12)
    assert at.center.tolist() == pytest.approx([0.2] * 4)


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 8])
def test_a_state_goes_on_bit_for_bit(steps, same_after_reload):
    assert same_after_reload(sphere, lambda seed: descent(100, seed=seed, block=16), steps)


def test_indices_are_still_indices_after_a_reload():
    at = descent(100)
    at.tell(sphere(at.ask().points()))
    other = descent(100)
    other.load_state_dict(at.state_dict())
    assert {other.optimizer._now[name].dtype for name in ("order", "active")} == {torch.int64}


@pytest.mark.parametrize(
    "estimator", [zo.RandomGradient(4), zo.CoordinateGradient(central=False), zo.FrameGradient()], ids=repr
)
def test_other_estimators_are_refused(estimator):
    with pytest.raises(zo.ArgumentError, match="must be a central CoordinateGradient"):
        descent(4, estimator=estimator).ask()


def test_a_step_without_an_estimate_is_refused():
    with pytest.raises(zo.ArgumentError, match=r"`step` must be given the estimate.*torch.optim.Adam"):
        RULE([torch.nn.Parameter(torch.zeros(2))]).step()


@pytest.mark.parametrize(("given", "word"), [({"block": 0}, "block"), ({"furthest": -1.0}, "furthest")])
def test_its_settings_are_checked(given, word):
    with pytest.raises(zo.ArgumentError, match=f"`{word}` must be"):
        RULE([torch.nn.Parameter(torch.zeros(2))], **given)


def test_it_moves_one_flat_tensor():
    with pytest.raises(zo.ArgumentError, match=r"one tensor of shape \(d,\)"):
        RULE([torch.nn.Parameter(torch.zeros(2, 2))])


def test_a_staircase_of_switches_takes_little_more_than_one_sweep(solve):
    """Nine tenths of the probes show nothing at first: the others must not have to find that out one by one."""
    goal = torch.arange(300) % 2

    def switches(points):
        return (points.round() - goal).abs().mean(1)

    at = zo.Descent(
        zo.Parameters(torch.rand(300, generator=torch.Generator().manual_seed(0)).double(), bounds=(0, 1)),
        estimator=zo.CoordinateGradient(step=0.05),
        optimizer=functools.partial(RULE, block=64),
    )
    assert solve(switches, at, 1500).best_value == 0.0  # a sweep is 620 evaluations


def test_the_lowest_probe_of_each_coordinate():
    center = torch.zeros(4).double()
    index, step = torch.tensor([0, 3, 1, 3, 1]), torch.tensor([0.0, 0.1, 0.2, -0.1, -0.2], dtype=torch.float64)
    values = torch.tensor([1.0, 0.5, 2.0, 0.9, 1.0]).double()  # 3: both sides are lower; 1: no side is
    found = lowest(Probes(center, Coordinates(index, step)), values)
    assert found.tolist() == [0.0, 0.0, 0.0, 0.1]
    lost = torch.tensor([1.0, math.nan, 0.9, 0.8, math.nan]).double()
    assert lowest(Probes(center, Coordinates(index, step)), lost).tolist() == [0.0, 0.2, 0.0, -0.1]
