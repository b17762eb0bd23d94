"""Run: steps one by one, within the budget; what was paid for is kept."""

import functools
import math
import time

import pytest
import torch

import zograd as zo
from zograd.evaluate import FailurePolicy

ADAM = functools.partial(torch.optim.Adam, lr=0.05)


def sphere(points):
    return ((points - 0.3) ** 2).sum(1)


def descent(d=3, **given):
    given = {"estimator": zo.CoordinateGradient(step=0.01), "optimizer": ADAM} | given
    return zo.Descent(torch.zeros(d).double(), **given)


class Counted:
    """One point after the other; may interfere at some call."""

    def __init__(self, interfere=None):
        self.interfere = interfere or {}
        self.calls, self.values = 0, []

    def __call__(self, point):
        self.calls += 1
        action = self.interfere.get(self.calls)
        if isinstance(action, BaseException):
            raise action
        value = float(sphere(point[None])) if action is None else action
        self.values.append(value)
        return value


@pytest.mark.parametrize("budget", [1, 5, 6, 7, 40])
def test_it_iterates_steps_within_the_budget(budget):
    fun = Counted()
    run = zo.Run(descent(), zo.pointwise(fun), evaluations=budget)
    steps = list(run)
    assert [step.number for step in steps] == list(range(1, budget // 6 + 1))
    assert fun.calls == run.evaluations == (6 * (budget // 6) or budget)  # below one step: what fits
    assert run.stopped == "budget"
    assert list(run) == []


def test_a_budget_below_one_step_is_spent_also_where_rows_are_slow():
    def slow(point):
        time.sleep(0.002)  # longer than rows are reported together
        return float(sphere(point[None]))

    run = zo.Run(descent(), zo.pointwise(slow), evaluations=5)
    assert list(run) == []
    assert (run.evaluations, run.stopped) == (5, "budget")


def test_trial_steps_count_and_a_wave_that_does_not_fit_is_not_sent():
    fun = Counted()
    run = zo.Run(
        descent(estimator=zo.FrameGradient(), optimizer=zo.optim.QuasiNewton), zo.pointwise(fun), evaluations=15
    )
    assert [step.evaluations for step in run] == [8, 9, 15]
    assert fun.calls == 15


def test_break_and_go_on():
    run = zo.Run(descent(), zo.batched(sphere), evaluations=60)
    for step in run:
        if step.number == 3:
            break
    assert (run.stopped, run.evaluations) == ("", 18)
    rest = list(run)
    whole = list(zo.Run(descent(), zo.batched(sphere), evaluations=60))
    assert [s.best_value for s in rest] == [s.best_value for s in whole[3:]]
    assert run.seconds > 0


def test_another_run_goes_on_with_the_same_strategy():
    strategy = descent()
    list(zo.Run(strategy, zo.batched(sphere), evaluations=30))
    steps = list(zo.Run(strategy, zo.batched(sphere), evaluations=30))
    assert [step.number for step in steps] == [6, 7, 8, 9, 10]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_a_wave_that_is_cut_short_is_noticed_and_asked_again(error):
    fun = Counted({10: error, 8: -5.0})
    run = zo.Run(descent(), zo.pointwise(fun), evaluations=60)
    first = next(run)
    asked = run.strategy.ask().points()
    with pytest.raises(type(error)):
        next(run)
    assert run.evaluations == 9
    assert run.strategy.best_value == -5.0
    assert torch.equal(run.strategy.best_point, asked[1])
    again = next(run)
    assert (first.number, again.number) == (1, 2)
    assert run.evaluations == 15


def test_the_target_stops_in_mid_wave_and_is_kept():
    fun = Counted({9: -5.0})
    run = zo.Run(descent(), zo.pointwise(fun), evaluations=600, target=-1.0)
    assert len(list(run)) in (1, 2)
    assert run.stopped == "target"
    assert run.strategy.best_value == -5.0
    assert run.evaluations <= fun.calls <= 12


def test_the_target_is_seen_beside_a_lost_row_of_the_same_batch():
    def fun(points):
        values = sphere(points)
        values[0] = torch.nan
        return values

    run = zo.Run(descent(), zo.batched(fun), evaluations=6000, target=0.05)
    list(run)
    assert run.stopped == "target"
    assert run.strategy.best_value <= 0.05


def test_time_stops_between_two_evaluations():
    run = zo.Run(descent(), zo.batched(sphere), evaluations=10**9, max_time=0.05)
    steps = list(run)
    assert run.stopped == "time"
    assert steps
    slow = zo.Run(
        descent(), zo.pointwise(lambda x: [time.sleep(0.06), float(x.sum())][1]), evaluations=60, max_time=0.1
    )
    assert list(slow) == []
    assert 0 < slow.evaluations < 6
    assert (slow.stopped, slow.strategy.best_value) == ("time", 0.01)  # the first rows are one coordinate further
    spent = zo.Run(descent(), zo.batched(sphere), evaluations=60, max_time=1e-9)
    assert (list(spent), spent.stopped, spent.evaluations) == ([], "time", 0)


@pytest.mark.parametrize("row", [8, 12])
def test_the_first_lost_evaluation_may_stop_and_is_counted(row):
    fun = Counted({row: math.nan, 7: -5.0})
    run = zo.Run(descent(), zo.pointwise(fun), evaluations=60, policy=FailurePolicy(stop=True))
    next(run)
    with pytest.raises(zo.EvaluationError, match="of call 0"):
        next(run)
    assert run.evaluations == fun.calls if row == 12 else run.evaluations <= fun.calls
    assert run.tally.total == 1


@pytest.mark.parametrize("cause", [OSError("disk on fire"), None])
def test_a_step_of_which_nothing_came_back_is_an_error_that_says_why(cause):
    def fun(point):
        if cause is not None:
            raise cause
        return math.nan

    run = zo.Run(descent(), zo.pointwise(fun), evaluations=60)
    with pytest.raises(zo.EvaluationError, match="6 of its 6 evaluations were lost") as caught:
        next(run)
    assert ("disk on fire" in str(caught.value)) == (cause is not None)
    assert isinstance(caught.value.__cause__, OSError if cause is not None else zo.EvaluationError)


def test_a_batch_of_which_nothing_came_back_names_the_gradient_as_the_cause():
    run = zo.Run(descent(), zo.batched(lambda points: points[:, 0] * math.nan), evaluations=60)
    with pytest.raises(zo.EvaluationError, match="6 of its 6 evaluations were lost") as caught:
        next(run)
    assert isinstance(caught.value.__cause__, zo.GradientError)


def test_infinite_values_are_lost_rows_of_the_step_for_whoever_tells_them():
    at = descent()
    step = at.tell(torch.tensor([1.0, math.inf, 2.0, 1.5, math.nan, -math.inf]).double())
    assert (step.lost, step.best_value) == (3, 1.0)


def test_derivatives_are_no_values():
    """Neither the best value nor the target may come from them; the answer is the last centre."""
    at = descent(estimator=zo.ForwardGradient(2))
    box = zo.torch_function(lambda x: ((x - 0.3) ** 2).sum() + 7)
    run = zo.Run(at, box, evaluations=200, target=0.0)
    steps = list(run)
    assert run.stopped == "budget"
    assert steps[-1].best_value == math.inf
    point, value = at.answer
    assert math.isnan(value)
    assert torch.equal(point, at.center)
    assert float(sphere(point[None])) < 0.01
    before = descent(estimator=zo.ForwardGradient(2))
    assert before.answer == (before.best_point, math.inf)


@pytest.mark.parametrize("given", [{"evaluations": 0}, {"evaluations": 5, "max_time": -1.0}], ids=str)
def test_its_limits_are_checked(given):
    with pytest.raises(zo.ArgumentError, match="must be"):
        zo.Run(descent(), zo.batched(sphere), **given)
