"""minimize: the budget, the best point, failures, stopping, structures."""

import functools
import math

import numpy as np
import pytest
import torch

import zograd as zo


def sphere(x):
    """A bowl around 0.3."""
    return float(((np.asarray(x) - 0.3) ** 2).sum())


class Counted:
    """Counts the calls of a function, and may interfere with some of them."""

    def __init__(self, fun=sphere, interfere=None):
        self.fun, self.interfere = fun, interfere or (lambda call, x: None)
        self.calls = 0
        self.values = []

    def __call__(self, x):
        self.calls += 1
        found = self.interfere(self.calls, x)
        value = self.fun(x) if found is None else found
        self.values.append(value)
        return value


@pytest.mark.parametrize("evaluations", [1, 2, 7, 50, 333])
@pytest.mark.parametrize("dimension", [1, 3, 30])
def test_the_budget_is_never_exceeded_and_is_what_is_counted(evaluations, dimension):
    fun = Counted()
    result = zo.minimize(fun, np.zeros(dimension), evaluations=evaluations, bounds=(-1, 1))
    assert fun.calls == result.nfev <= evaluations
    assert result.nit == len(result.history)


def test_a_budget_below_one_step_is_spent_on_what_fits():
    fun = Counted()
    result = zo.minimize(fun, np.zeros(3), evaluations=1)
    assert (fun.calls, result.nfev, result.nit) == (1, 1, 0)
    assert result.fun == fun.values[0]


@pytest.mark.parametrize("bounds", [None, (-1, 1)])
def test_the_best_point_seen_is_returned_and_its_value_is_what_the_program_said(bounds):
    fun = Counted()
    result = zo.minimize(fun, np.full(4, 0.9), evaluations=400, bounds=bounds)
    assert result.fun == min(fun.values) == fun.fun(result.x)
    assert result.fun < 1e-3
    assert result.success
    assert result.status == 0


def test_the_best_is_kept_when_a_large_step_throws_the_centre_away():
    result = zo.minimize(
        sphere,
        np.full(3, 0.31),
        evaluations=60,
        estimator=zo.CoordinateGradient(),
        optimizer=functools.partial(torch.optim.SGD, lr=3.0),
    )
    assert result.fun <= sphere(np.full(3, 0.31)) + 1e-4
    assert result.history[-1].value > 1.0


@pytest.mark.parametrize("seed", [0, 3])
def test_the_same_seed_gives_the_same_result_and_another_seed_another(seed):
    def run(seed):
        return zo.minimize(
            sphere, np.zeros(6), evaluations=120, bounds=(-1, 1), seed=seed, estimator=zo.RandomGradient(samples=2)
        )

    first, again, other = run(seed), run(seed), run(seed + 1)
    assert np.array_equal(first.x, again.x)
    assert [s.best_value for s in first.history] == [s.best_value for s in again.history]
    assert not np.array_equal(first.x, other.x)


def test_the_global_generators_are_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - it is the global generator that is watched
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    zo.minimize(sphere, np.zeros(3), evaluations=100, bounds=(-1, 1))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def optimizers():
    """Every optimiser class of torch that takes its step from .grad alone."""
    skip = {"Optimizer", "LBFGS", "SparseAdam", "Muon"}
    names = [name for name in dir(torch.optim) if name[0].isupper() and name not in skip]
    return [getattr(torch.optim, name) for name in names if isinstance(getattr(torch.optim, name), type)]


@pytest.mark.parametrize("optimizer", optimizers(), ids=lambda o: o.__name__)
def test_any_torch_optimiser_descends(optimizer):
    result = zo.minimize(
        sphere, np.zeros(3), evaluations=300, estimator=zo.CoordinateGradient(), optimizer=optimizer, bounds=(-1, 1)
    )
    assert result.fun < sphere(np.zeros(3))


def test_lbfgs_is_refused_and_told_why():
    with pytest.raises(zo.ArgumentError, match="LBFGS"):
        zo.minimize(sphere, np.zeros(3), optimizer=torch.optim.LBFGS)


@pytest.mark.parametrize(
    "scheduler",
    [
        functools.partial(torch.optim.lr_scheduler.StepLR, step_size=10, gamma=0.1),
        functools.partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.1),
    ],
)
def test_schedulers_are_stepped_once_a_gradient(scheduler):
    descent = zo.Descent(
        torch.full((2,), 0.9),
        estimator=zo.CoordinateGradient(step=1e-3),
        optimizer=functools.partial(torch.optim.SGD, lr=1e-6),
        scheduler=scheduler,
    )
    for _ in range(11):
        descent.tell((descent.ask().points() ** 2).sum(1))
    assert descent.optimizer.param_groups[0]["lr"] < 2e-7


def test_structures_come_back_as_they_went_in():
    seen = []

    def program(design):
        seen.append(design)
        return (design["angle"] - 0.2) ** 2 + abs(design["lens"]["count"] - 3) + float((design["w"] ** 2).sum())

    x0 = {"angle": 1.0, "lens": {"count": 5}, "w": np.ones(2, dtype=np.float32)}
    result = zo.minimize(program, x0, evaluations=600, bounds={"angle": (-2, 2), "lens": {"count": (1, 9)}},
                         integers=("lens.count",))  # fmt: skip
    assert isinstance(result.x["angle"], float)
    assert isinstance(result.x["lens"]["count"], int)
    assert result.x["w"].dtype == np.float32
    assert all(-2 <= s["angle"] <= 2 and 1 <= s["lens"]["count"] <= 9 for s in seen)
    assert result.fun < program(x0)


def test_a_batched_function_gets_whole_waves():
    sizes = []

    def fun(points):
        sizes.append(len(points))
        return (points**2).sum(1)

    result = zo.minimize(zo.batched(fun), torch.ones(5), evaluations=200)
    assert sum(sizes) == result.nfev
    assert max(sizes) > 1


# --- stopping


def test_the_target_stops_at_once():
    fun = Counted()
    result = zo.minimize(fun, np.zeros(3), evaluations=5000, bounds=(-1, 1), target=1e-2)
    assert (result.status, result.success) == (1, True)
    assert result.fun <= 1e-2
    assert sum(value <= 1e-2 for value in fun.values) == 1
    assert fun.calls == result.nfev


def test_the_time_limit_stops_between_two_evaluations():
    result = zo.minimize(sphere, np.zeros(3), evaluations=10**7, max_time=0.2)
    assert (result.status, result.success) == (2, True)
    assert result.seconds < 5
    assert math.isfinite(result.fun)


@pytest.mark.parametrize("how", ["true", "raise"])
def test_the_callback_sees_a_result_and_can_stop(how):
    seen = []

    def callback(so_far):
        seen.append(so_far)
        if len(seen) == 3:
            if how == "raise":
                raise StopIteration
            return True
        return None

    result = zo.minimize(sphere, np.zeros(3), evaluations=5000, callback=callback)
    assert (result.status, result.success, result.nit) == (3, True, 3)
    assert [s.nit for s in seen] == [1, 2, 3]
    assert seen[-1].fun == result.fun


@pytest.mark.parametrize("call", [1, 2, 30])
def test_ctrl_c_returns_the_best_so_far(call):
    def interfere(number, _):
        if number == call:
            raise KeyboardInterrupt

    fun = Counted(interfere=interfere)
    result = zo.minimize(fun, np.zeros(3), evaluations=500)
    assert (result.status, result.success) == (-1, False)
    assert "Interrupted" in result.message
    assert result.nfev == call - 1
    assert result.fun == min(fun.values, default=math.inf)


def test_ctrl_c_in_the_callback_returns_the_best_so_far():
    def callback(so_far):
        raise KeyboardInterrupt

    assert zo.minimize(sphere, np.zeros(3), evaluations=500, callback=callback).status == -1


# --- lost evaluations


def every_tenth_nan(call, _):
    return math.nan if call % 10 == 0 else None


def raise_once(call, _):
    if call == 7:
        raise OSError("disk on fire")


FAULTS = {
    "nan every tenth": (every_tenth_nan, {"invalid"}),
    "exception once": (raise_once, {"failed"}),
    "None once": (lambda call, x: "none" if call == 7 else None, {"invalid"}),
    "inf once": (lambda call, x: math.inf if call == 7 else None, {"invalid"}),
    "minus inf once": (lambda call, x: -math.inf if call == 7 else None, {"invalid"}),
    "vector once": (lambda call, x: np.zeros(3) if call == 7 else None, {"invalid"}),
    "nan at the start": (lambda call, x: math.nan if np.linalg.norm(x) < 0.004 else None, set()),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("given", [{}, {"estimator": zo.RandomGradient(samples=4)}], ids=["chosen", "random"])
def test_lost_evaluations_are_left_out_counted_and_said(name, given):
    interfere, statuses = FAULTS[name]
    fun = Counted(interfere=interfere)
    result = zo.minimize(fun, np.zeros(3), evaluations=900, bounds=(-1, 1), **given)
    assert result.fun < 0.02
    assert result.nfev == fun.calls
    for status in statuses:
        assert result.lost >= 1
        assert status in result.message


def test_a_vector_every_time_is_an_error_that_says_so():
    with pytest.raises(zo.EvaluationError, match=r"must return one number a point, found an output of shape \(2,\)"):
        zo.minimize(lambda x: np.zeros(2), np.zeros(3))


def test_an_array_with_one_entry_is_a_number():
    assert zo.minimize(lambda x: np.array([[sphere(x)]]), np.zeros(2), evaluations=200, bounds=(-1, 1)).fun < 0.1


def test_all_nan_is_an_error_that_carries_the_result():
    with pytest.raises(zo.EvaluationError, match="No step can be made") as caught:
        zo.minimize(lambda x: math.nan, np.zeros(3))
    assert caught.value.result.nfev > 0
    assert not caught.value.result.success
    assert np.array_equal(caught.value.result.x, np.zeros(3))


def test_losing_everything_later_still_returns_the_best_in_the_error():
    fun = Counted(interfere=lambda call, x: math.nan if call > 40 else None)
    with pytest.raises(zo.EvaluationError) as caught:
        zo.minimize(fun, np.zeros(3), evaluations=500)
    assert caught.value.result.fun == np.nanmin(fun.values)


def test_a_typing_mistake_in_the_program_is_shown_with_its_cause():
    with pytest.raises(zo.EvaluationError, match="NameError") as caught:
        zo.minimize(lambda x: undefined_name, np.zeros(3))  # noqa: F821
    assert isinstance(caught.value.__cause__, NameError)


def test_the_policy_raise_stops_at_the_first_loss_with_the_best_so_far():
    fun = Counted(interfere=every_tenth_nan)
    with pytest.raises(zo.EvaluationError, match="on_failure") as caught:
        zo.minimize(fun, np.zeros(3), on_failure="raise")
    assert fun.calls == 10
    assert caught.value.result.fun == min(fun.values[:9])


def test_the_policy_value_counts_a_penalty():
    fun = Counted(interfere=every_tenth_nan)
    result = zo.minimize(fun, np.zeros(3), evaluations=600, bounds=(-1, 1), on_failure=zo.value(5.0))
    assert result.fun < 0.1
    assert result.lost == result.nfev // 10
    all_lost = zo.minimize(lambda x: math.nan, np.zeros(3), evaluations=50, on_failure=zo.value(5.0))
    assert all_lost.fun == 5.0


# --- wrong arguments


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"evaluations": 0}, "whole number of at least 1"),
        ({"evaluations": 2.5}, "whole number"),
        ({"max_time": -1.0}, "positive"),
        ({"target": math.nan}, "be a number"),
        ({"callback": 3}, "callable"),
        ({"on_failure": "ignore"}, "drop"),
        ({"on_failure": math.nan}, "drop"),
        ({"estimator": "cge"}, "GradientEstimator"),
        ({"estimator": zo.RandomGradient}, "GradientEstimator"),
        ({"optimizer": "adam"}, "torch.optim"),
        ({"optimizer": lambda p: 3}, "torch.optim.Optimizer"),
        ({"bounds": (1, -1)}, "bounds"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_wrong_argument_says_what_must_hold(wrong, words):
    with pytest.raises(zo.ArgumentError, match=words):
        zo.minimize(sphere, np.zeros(3), **wrong)


@pytest.mark.usefixtures("unchecked")
def test_fun_must_be_callable():
    with pytest.raises(zo.ArgumentError, match="callable"):
        zo.minimize(3, np.zeros(3))


def test_the_result_reads_like_scipys():
    result = zo.minimize(sphere, np.zeros(2), evaluations=50)
    assert result["fun"] == result.fun
    assert "nfev" in result
    assert "nothing" not in result
    with pytest.raises(KeyError):
        result["nothing"]
    assert " nfev: " in repr(result)
    assert "history" not in repr(result)
    assert "history" in result.keys()  # noqa: SIM118 - a method, as SciPy's results have


def test_progress_is_shown_when_asked_for(capsys):
    zo.minimize(sphere, np.zeros(2), evaluations=50, progress=True)
    assert "best" in capsys.readouterr().err
    zo.minimize(sphere, np.zeros(2), evaluations=50, progress=False)
    assert capsys.readouterr().err == ""


def test_a_first_row_of_the_wrong_shape_does_not_condemn_the_others():
    calls = iter(range(100))

    def first_wrong(x):
        return np.ones(3) if next(calls) == 0 else float((x**2).sum())

    result = zo.minimize(first_wrong, np.ones(3), evaluations=60)
    assert result.lost == 1
    assert result.fun < 1
