"""minimize_least_squares: outputs and goals of any shape, bounds, losses, durable runs, workers."""

import math

import numpy as np
import pytest
import torch

import zograd as zo
from zograd.problems import led

TIME = np.linspace(0.0, 4.0, 30)


def decay(x):
    return x["height"] * np.exp(-x["rate"] * TIME)


TRUTH = {"height": 2.5, "rate": 0.7}
START = {"height": 1.0, "rate": 1.5}


def rosenbrock(x):
    return np.array([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def picture(x):
    """A soft disc on 12 x 10 pixels of three channels."""
    row, column = np.mgrid[0:12, 0:10] / 10.0
    disc = 1 / (1 + np.exp(8 * (np.hypot(row - x[0], column - x[1]) - x[2])))
    return disc[:, :, None] * np.asarray(x[3:6])


def told(result):
    """Everything that two runs of the same decisions share, to the last bit."""
    steps = [(s.number, s.evaluations, s.value, s.best_value, s.best_point.tolist(), s.lost) for s in result.history]
    return repr((result.fun, result.nfev, result.nit, result.lost, steps))


def test_residuals_are_solved_in_far_fewer_evaluations_than_their_sum():
    result = zo.minimize_least_squares(rosenbrock, [-1.2, 1.0], evaluations=60)
    loss = zo.minimize(lambda x: float((rosenbrock(x) ** 2).mean()), [-1.2, 1.0], evaluations=60)
    assert result.fun < 1e-20 < 1e-6 < loss.fun
    assert np.allclose(result.x, 1.0)
    assert result.nfev == 60
    assert "smooth" in result.message


@pytest.mark.parametrize("budget", [1, 3, 7, 8, 20])
def test_the_budget_is_never_exceeded(budget):
    calls = []
    result = zo.minimize_least_squares(lambda x: calls.append(1) or rosenbrock(x), [-1.2, 1.0], evaluations=budget)
    assert len(calls) == result.nfev <= budget


def test_fun_is_the_mean_square_of_the_difference_from_the_goal():
    seen = []

    def program(x):
        seen.append(float(((decay(x) - decay(TRUTH)) ** 2).mean()))
        return decay(x)

    result = zo.minimize_least_squares(program, START, goal=decay(TRUTH), evaluations=12)
    assert result.fun == pytest.approx(min(seen), rel=1e-12)
    assert result.x.keys() == START.keys()


@pytest.mark.parametrize("form", ["array", "tensor", "structure", "batched", "number", "torch"])
def test_outputs_of_any_form(form):
    if form == "array":
        result = zo.minimize_least_squares(decay, START, goal=decay(TRUTH), evaluations=60)
    elif form == "tensor":
        result = zo.minimize_least_squares(
            lambda x: torch.from_numpy(decay(x)).reshape(5, 6), START, goal=decay(TRUTH).reshape(5, 6), evaluations=60
        )
    elif form == "structure":
        result = zo.minimize_least_squares(
            lambda x: {"early": decay(x)[:10], "late": decay(x)[10:].reshape(4, 5)},
            START,
            goal={"early": decay(TRUTH)[:10], "late": decay(TRUTH)[10:].reshape(4, 5)},
            evaluations=60,
        )
    elif form == "batched":
        time = torch.from_numpy(TIME)
        many = zo.batched(lambda x: x["height"][:, None] * torch.exp(-x["rate"][:, None] * time))
        result = zo.minimize_least_squares(many, START, goal=decay(TRUTH), evaluations=60)
    elif form == "number":
        result = zo.minimize_least_squares(lambda x: x**3, 3.0, goal=8.0, evaluations=60)
        assert result.x == pytest.approx(2.0)
    else:
        box = zo.torch_function(lambda x: x**2)
        result = zo.minimize_least_squares(box, torch.tensor([1.0, 1.0]), goal=torch.tensor([4.0, 9.0]), evaluations=80)
        assert torch.allclose(result.x, torch.tensor([2.0, 3.0]))
    assert result.fun < 1e-12


def test_bounds_hold_and_the_solution_on_a_bound_is_found():
    seen = []

    def program(x):
        seen.append(x.copy())
        return rosenbrock(x)

    result = zo.minimize_least_squares(program, [-1.2, 1.0], bounds=[(-2, 0.5), (-1, 2)], evaluations=120)
    assert all(-2 <= x[0] <= 0.5 and -1 <= x[1] <= 2 for x in seen)
    assert result.x[0] == pytest.approx(0.5)
    assert result.fun == pytest.approx(0.125, abs=1e-6)


def test_a_fixed_parameter_stays_and_whole_numbers_are_found():
    def program(x):
        return np.array([x["a"] - 1.5, x["n"] - 4.0, (x["b"] - x["n"]) / 2])

    result = zo.minimize_least_squares(
        program,
        {"a": 0.0, "n": 9, "b": 3.0},
        bounds={"a": (-2, 2), "n": (1, 12), "b": (3.0, 3.0)},
        integers=("n",),
        evaluations=150,
    )
    assert (result.x["n"], result.x["b"]) == (4, 3.0)
    assert result.x["a"] == pytest.approx(1.5, abs=1e-4)


def test_a_picture_with_whole_bytes_is_matched():
    truth = np.array([0.62, 0.4, 0.35, 0.9, 0.5, 0.2])
    goal = np.round(255 * picture(truth)) / 255
    result = zo.minimize_least_squares(
        lambda x: np.round(255 * picture(x)) / 255, [0.4, 0.6, 0.2, 0.5, 0.5, 0.5], goal=goal, bounds=(0, 1),
        evaluations=300,
    )  # fmt: skip
    assert result.fun < 1e-5


def test_noise_is_found_and_does_not_keep_it_from_the_answer():
    noise = np.random.default_rng(0)
    result = zo.minimize_least_squares(
        lambda x: decay(x) + 0.05 * noise.normal(size=30), START, goal=decay(TRUTH), evaluations=300
    )
    assert "noisy" in result.message
    assert result.x["rate"] == pytest.approx(0.7, abs=0.1)
    assert 0.5 * 0.05**2 < result.fun < 2 * 0.05**2


def test_many_parameters_are_taken_along_random_directions():
    mix = torch.randn(300, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    box = zo.batched(lambda x: torch.tanh(x @ mix / 17) - 0.5)
    result = zo.minimize_least_squares(box, torch.zeros(300).double(), evaluations=400)
    assert "random directions" in result.message
    assert result.fun < 1e-3


def test_parameters_that_touch_different_outputs_are_measured_together():
    goal = torch.linspace(0.0, 1.0, 100, dtype=torch.float64)
    result = zo.minimize_least_squares(
        zo.batched(lambda x: x**3 + 0.1 * x), torch.full((100,), 0.5).double(), goal=goal, evaluations=320
    )
    assert result.fun < 1e-12
    rows = [s.diagnostics["measured"] for s in result.history if "measured" in s.diagnostics]
    assert rows[0] == 100
    assert rows[1] == 1


def test_a_flat_program_ends_with_the_start_and_is_said_to_be_flat():
    with pytest.warns(zo.ZogradWarning, match="all .* values are equal"):
        result = zo.minimize_least_squares(lambda x: np.ones(4), [0.5, 0.5], bounds=(0, 1), evaluations=200)
    assert result.fun == 1.0


def test_the_target_stops_at_once():
    result = zo.minimize_least_squares(rosenbrock, [-1.2, 1.0], evaluations=500, target=1e-3)
    assert (result.status, result.success) == (1, True)
    assert result.fun <= 1e-3


# --- lost evaluations


@pytest.mark.parametrize("loss", [math.nan, "raise"])
def test_lost_rows_are_left_out_and_counted(loss):
    calls = []

    def program(x):
        calls.append(1)
        if len(calls) % 7 == 0:
            if loss == "raise":
                raise ValueError("lost")
            return np.array([loss, 1.0])
        return rosenbrock(x)

    result = zo.minimize_least_squares(program, [-1.2, 1.0], evaluations=150)
    assert result.fun < 1e-8
    assert result.lost == 150 // 7


def test_a_start_that_is_lost_is_said():
    with pytest.raises(zo.EvaluationError) as caught:
        zo.minimize_least_squares(lambda x: np.full(3, math.nan), [1.0])
    assert caught.value.result.nfev == 6

    def elsewhere(x):
        return np.full(3, math.nan) if x[0] == 1.0 else x * np.ones(3)

    with pytest.raises(zo.EvaluationError, match="No step can be made"):
        zo.minimize_least_squares(elsewhere, [1.0])


def test_a_penalty_counts_as_each_residual():
    result = zo.minimize_least_squares(
        lambda x: np.full(3, math.nan) if x[0] < 0.2 else np.asarray([x[0], 2 * x[0]]), [1.0], evaluations=40,
        on_failure=zo.value(9.0),
    )  # fmt: skip
    assert result.fun >= 0.2**2 * 2.5
    assert result.lost > 0


def test_another_shape_in_mid_run_is_a_lost_evaluation():
    calls = []

    def program(x):
        calls.append(1)
        return np.zeros(5) if len(calls) == 9 else rosenbrock(x)

    result = zo.minimize_least_squares(program, [-1.2, 1.0], evaluations=80)
    assert result.lost == 1
    assert "invalid" in result.message


@pytest.mark.usefixtures("unchecked")
def test_a_goal_of_another_shape_is_refused():
    with pytest.raises(zo.ArgumentError, match="goal"):
        zo.minimize_least_squares(decay, START, goal=np.zeros(7))
    with pytest.raises(zo.ArgumentError, match="evaluations"):
        zo.minimize_least_squares(decay, START, evaluations=0)


# --- durable runs, workers


@pytest.mark.parametrize("stop", [1, 5, 9, 20])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, stop):
    calls = []

    def program(x):
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return decay(x)

    given = {"goal": decay(TRUTH), "evaluations": 60}
    whole = zo.minimize_least_squares(decay, START, run=tmp_path / "whole", **given)
    first = zo.minimize_least_squares(program, START, run=tmp_path / "parts", **given)
    assert not first.success
    second = zo.minimize_least_squares(program, START, run=tmp_path / "parts", **given)
    assert told(second) == told(whole)
    assert len(calls) == 61  # the one that was interrupted comes again, and no other


def test_outputs_are_forgotten_once_snapshots_hold_what_came_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr("zograd._run_file.SNAPSHOT_SECONDS", 0.0)
    monkeypatch.setattr("zograd._run_file.SNAPSHOT_SHARE", 1e9)
    given = {"goal": decay(TRUTH), "run": tmp_path / "run"}
    short = zo.minimize_least_squares(decay, START, evaluations=25, **given)
    record = zo.read_run(tmp_path / "run")
    assert len(record) == 25
    assert record.best_value == short.fun
    kept = record._select("SELECT count(*) FROM outputs")[0][0]
    assert 0 < kept < 10
    longer = zo.minimize_least_squares(decay, START, evaluations=60, **given)
    assert told(longer) == told(zo.minimize_least_squares(decay, START, evaluations=60, goal=decay(TRUTH)))


def test_outputs_that_are_no_longer_there_are_evaluated_again(tmp_path):
    import sqlite3

    given = {"goal": decay(TRUTH), "run": tmp_path / "run"}
    zo.minimize_least_squares(decay, START, evaluations=25, **given)
    connection = sqlite3.connect(tmp_path / "run" / "run.sqlite")
    connection.execute("DELETE FROM outputs WHERE call > 3")
    connection.execute("DELETE FROM snapshots")
    connection.commit()
    connection.close()
    longer = zo.minimize_least_squares(decay, START, evaluations=40, **given)
    assert longer.fun == zo.minimize_least_squares(decay, START, evaluations=40, goal=decay(TRUTH)).fun
    assert len(zo.read_run(tmp_path / "run")) == 40


def test_two_workers_make_the_same_steps():
    given = {"goal": decay(TRUTH), "evaluations": 30}
    assert told(zo.minimize_least_squares(decay, START, workers=2, **given)) == told(
        zo.minimize_least_squares(decay, START, **given)
    )


def test_switches_far_from_their_threshold_are_found():
    # At a tenth of a unit most of the segments show nothing: those are looked at from farther away.
    problem = led(displays=2, seed=3)
    result = problem.fit(600)
    assert result.fun == 0.0


def test_how_far_to_look_is_found_before_all_switches_are_measured():
    problem = led(displays=6, seed=3)  # 168 parameters
    result = problem.fit(600, target=0.0)
    assert result.fun == 0.0
    assert result.nfev < 1.6 * 168


def test_a_run_that_was_passed_on_to_the_loss_alone_goes_on_bit_for_bit(tmp_path):
    goal = np.linspace(-0.4, 0.4, 6)

    def stairs(x):
        turned = x - goal + 0.3 * np.roll(x - goal, 1)
        return np.concatenate([np.round(turned * 40) / 40, np.floor((turned + 0.3) * 23) / 23, np.floor(turned * 7)])

    settings = {"bounds": (-1, 1), "evaluations": 1500, "progress": False}
    whole = zo.minimize_least_squares(stairs, np.full(6, 0.9), **settings)
    assert "on the loss alone" in whole.message
    settings["run"] = tmp_path / "run"
    half = zo.minimize_least_squares(stairs, np.full(6, 0.9), callback=lambda result: result.nfev > 1100, **settings)
    assert "on the loss alone" in half.message
    again = zo.minimize_least_squares(stairs, np.full(6, 0.9), **settings)
    assert half.nfev < again.nfev == whole.nfev
    assert again.fun == whole.fun
    assert np.array_equal(again.x, whole.x)
