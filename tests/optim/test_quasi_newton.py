"""QuasiNewton: it solves what quasi-Newton methods solve, and stays sane where they do not."""

import functools
import math

import pytest
import torch

import zograd as zo

RULE = zo.optim.QuasiNewton


def minimize(function, x0, evaluations, **given):
    given = {"estimator": zo.FrameGradient(), "optimizer": RULE} | given
    return zo.minimize(zo.batched(function), torch.as_tensor(x0).double(), evaluations=evaluations, **given)


def rosenbrock(points):
    return 100 * (points[:, 1] - points[:, 0] ** 2) ** 2 + (1 - points[:, 0]) ** 2


def rotated(points, condition=1e6):
    """A quadratic around 0.7 whose axes lie askew."""
    d = points.shape[1]
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=points.dtype))
    sizes = condition ** torch.linspace(0, 1, d, dtype=points.dtype)
    return (sizes * ((points - 0.7) @ basis) ** 2).sum(1)


def bowl(points):
    return ((points - 0.3) ** 2).sum(1)


def descent(x0, estimator=None, optimizer=RULE, seed=0, **parameters):
    return zo.Descent(
        zo.Parameters(torch.as_tensor(x0).double(), **parameters),
        estimator=estimator or zo.FrameGradient(),
        optimizer=optimizer,
        seed=seed,
    )


# --- where there is no noise


@pytest.mark.parametrize("bounds", [(-2, 2), None])
@pytest.mark.parametrize("start", [(-1.2, 1.0), (1.5, -1.5), (0.0, 0.0)])
def test_rosenbrocks_valley_takes_at_most_400_evaluations(start, bounds):
    assert minimize(rosenbrock, start, 400, bounds=bounds).fun < 1e-8


def test_a_rotated_ill_conditioned_quadratic_is_solved():
    assert minimize(rotated, [2.0] * 10, 1200, bounds=(-5, 5)).fun < 1e-8


@pytest.mark.parametrize("factor", [1e-20, 1e20])
def test_the_size_of_the_values_does_not_matter(factor):
    assert minimize(lambda x: factor * bowl(x), [1.0, 1.0], 200, bounds=(-5, 5)).fun <= 1e-8 * factor


def test_a_saddle_is_left():
    result = minimize(lambda x: x[:, 0] ** 2 - x[:, 1] ** 2 + x[:, 1] ** 4, [1.0, 1e-6], 200, bounds=(-2, 2))
    assert result.fun == pytest.approx(-0.25, abs=1e-9)


def test_a_staircase_is_descended():
    for seed in range(3):
        result = minimize(lambda x: (3 * (x - 0.3)).round().abs().sum(1), [4.0] * 3, 600, bounds=(-5, 5), seed=seed)
        assert result.fun == 0.0


def test_ignored_variables_cost_no_accuracy():
    assert minimize(lambda x: (x[:, 0] - 1) ** 2 + (x[:, 3] + 2) ** 2, [0.0] * 6, 300, bounds=(-5, 5)).fun < 1e-12


@pytest.mark.parametrize("bounds", [(-5, 5), None])
@pytest.mark.parametrize("restart", [True, False])
def test_a_flat_function_is_looked_at_from_ever_new_starts(bounds, restart):
    seen = []

    def flat(points):
        seen.append(points)
        return torch.full((len(points),), 3.0).double()

    with pytest.warns(zo.ZogradWarning, match="all 40 values are equal, now at a distance of 0.[45]"):
        result = minimize(flat, [0.0, 0.0], 300, bounds=bounds, optimizer=functools.partial(RULE, restart=restart))
    points = torch.cat(seen)
    assert result.fun == 3.0
    assert bool(points.isfinite().all())
    centers = {tuple(wave[0].tolist()) for wave in seen if torch.equal(wave[0], wave[1])}
    assert (len(centers) > 3) == restart


def test_without_bounds_restarts_stay_within_reach():
    """Every descent is measured from its own start: distances must not multiply from restart to restart."""
    seen = []

    def wavy(points):
        seen.append(points)
        return (1 - (3 * points).cos()).sum(1)

    assert minimize(wavy, [1.3, -1.1], 1500).fun < 1e-12
    points = torch.cat(seen)
    assert bool(points.isfinite().all())
    assert float(points.abs().max()) < 30
    assert float(points.abs().max()) > 2


def test_without_restart_the_last_point_is_kept(solve):
    at = descent([1.0, 1.0], optimizer=functools.partial(RULE, restart=False), bounds=(-5, 5))
    solve(bowl, at, 400)
    assert at.best_value < 1e-12
    assert float(bowl(at.center[None])) < 1e-6


def test_an_optimum_in_a_corner_is_found():
    target = torch.tensor([9.0, -9.0, 0.0]).double()
    result = minimize(lambda x: ((x - target) ** 2).sum(1) + x[:, 0] * x[:, 1], [0.0] * 3, 100, bounds=(-5, 5))
    assert torch.allclose(result.x, torch.tensor([5.0, -5.0, 0.0]).double(), atol=1e-6)


def test_no_probe_lies_outside_the_bounds(solve):
    at = descent([4.9, -4.9, 0.0], bounds=(-5, 5))
    for _ in range(30):
        points = at.ask().points()
        assert bool(((points >= -1e-7) & (points <= 1 + 1e-7)).all())
        at.tell(((at.parameters.clip(points) - torch.tensor([1.2, -0.2, 0.4]).double()) ** 2).sum(1))


def test_fixed_parameters_stay_and_the_others_move():
    result = minimize(lambda x: ((x - 1) ** 2).sum(1) + x[:, 0] * x[:, 1], [0.0, 2.0, 0.0], 200,
                      bounds=[(-5, 5), (2, 2), (-5, 5)])  # fmt: skip
    assert result.x[1] == 2.0
    assert torch.allclose(result.x, torch.tensor([0.0, 2.0, 1.0]).double(), atol=1e-7)


@pytest.mark.parametrize("bounds", [None, {"n": (1, 40), "m": (1, 9)}])
def test_whole_numbers_are_reached(bounds):
    def program(x):
        return (x["n"] - 21) ** 2 + (x["m"] - 3) ** 2 + (x["n"] - 21) * (x["m"] - 3) / 2 + (x["a"] - 0.1 * x["n"]) ** 2

    result = zo.minimize(program, {"n": 8, "m": 7, "a": 0.0}, evaluations=400, bounds=bounds, integers=("n", "m"))
    assert (result.x["n"], result.x["m"]) == (21, 3)
    assert result.x["a"] == pytest.approx(2.1, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_a_tenth_lost_at_random_does_no_harm(seed):
    generator = torch.Generator().manual_seed(seed)

    def faulty(points):
        values = (torch.tensor([1.0, 10.0, 100.0, 3.0]).double() * (points - 1) ** 2).sum(1)
        return values.where(torch.rand(len(points), generator=generator) > 0.1, torch.nan)

    result = minimize(faulty, [0.0] * 4, 500, bounds=(-5, 5), seed=seed)
    assert result.lost > 20
    assert result.fun < 1e-12


# --- noise


def noisy(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda x: ((x - 1) ** 2).sum(1) + 0.1 * torch.randn(len(x), generator=generator, dtype=x.dtype)


@pytest.mark.parametrize("seed", range(3))
def test_under_noise_the_answer_is_settled_and_not_the_luckiest_value(seed):
    result = minimize(noisy(seed), [3.0] * 10, 2000, bounds=(-5, 5), seed=seed)
    assert float(((result.x - 1) ** 2).sum()) < 0.3
    assert abs(result.fun) < 0.15
    assert result.history[-1].best_value < -0.2  # the luckiest


def test_the_level_of_the_noise_is_told(solve):
    at = descent([3.0] * 5, bounds=(-5, 5))
    assert at.optimizer.noise == 0.0
    assert at.optimizer.answer is None
    solve(noisy(0), at, 1000)
    assert at.optimizer.noise == pytest.approx(0.1, rel=0.5)


def test_a_program_without_noise_has_none(solve):
    at = solve(bowl, descent([3.0] * 2, bounds=(-5, 5)), 200)
    assert at.optimizer.noise == 0.0
    assert at.answer == (at.best_point, at.best_value)


def test_under_noise_a_further_descent_replaces_the_answer_only_if_it_is_lower(solve):
    """Two basins, 1 apart in value: a descent may end in either, the answer is in the lower."""
    generator = torch.Generator().manual_seed(3)

    def basins(points):
        left, right = ((points - 0.2) ** 2).sum(1) * 40, ((points - 0.8) ** 2).sum(1) * 40 + 1
        return left.minimum(right) + 0.02 * torch.randn(len(points), generator=generator, dtype=points.dtype)

    at = descent([1.0, 1.0], bounds=(0, 1))
    answers = []
    while at.evaluations < 3000:
        at.tell(basins(at.ask().points()))
        if at.optimizer._now["ended"] is not None:
            answers.append(at.optimizer._now["ended_value"])
    assert answers == sorted(answers, reverse=True)
    assert answers[0] == pytest.approx(1.0, abs=0.1)
    assert at.answer[1] == pytest.approx(0.0, abs=0.1)
    assert torch.allclose(at.answer[0], torch.full((2,), 0.2).double(), atol=0.05)


# --- as part of the whole


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 6, 13])
@pytest.mark.parametrize("function", [rosenbrock, rotated], ids=lambda f: f.__name__)
def test_a_state_goes_on_bit_for_bit_between_gradient_and_trial_too(function, steps, same_after_reload):
    assert same_after_reload(function, lambda seed: descent([-0.5, 0.8], seed=seed, bounds=(-2, 2)), steps)


def test_a_state_goes_on_under_noise_and_across_restarts(same_after_reload):
    def rough(points):  # noise that follows from the point and its row, so that two runs meet the same
        row = torch.arange(len(points), dtype=points.dtype)
        return bowl(points) + 0.1 * torch.sin(1e6 * points.sum(1) + row)

    for steps in (40, 161):
        assert same_after_reload(rough, lambda seed: descent([-0.5, 0.8], seed=seed, bounds=(-2, 2)), steps)


@pytest.mark.parametrize(
    "estimator",
    [
        zo.RandomGradient(8, step=1e-3),
        zo.CoordinateGradient(step=1e-3),
        zo.CoordinateGradient(step=1e-3, central=False),
        zo.CoordinateGradient(step=1e-3, curvature=True),  # along coordinates, while the rule's basis is turned
        zo.CoordinateGradient(step=1e-3, curvature=True, active=torch.tensor([0, 1])),
        zo.SmoothedGradient(),
    ],
    ids=lambda e: repr(e)[:60],
)
def test_other_estimators_serve_too(estimator):
    result = minimize(lambda x: rotated(x, 30.0), [2.0] * 3, 900, bounds=(-5, 5), estimator=estimator)
    start = float(rotated(torch.full((1, 3), 2.0).double(), 30.0))
    assert math.isfinite(result.fun)
    assert result.fun < start / 5 if getattr(estimator, "active", None) is None else result.fun < start


def test_derivatives_alone_are_refused():
    with pytest.raises(zo.ArgumentError, match="must tell the value at the centre") as caught:
        zo.minimize(zo.torch_function(lambda x: (x**2).sum()), torch.ones(2).double(),
                    estimator=zo.ForwardGradient(), optimizer=RULE)  # fmt: skip
    assert caught.value.argument == "estimator"


def test_a_step_without_an_estimate_is_refused():
    center = torch.nn.Parameter(torch.zeros(2).double())
    center.grad = torch.ones(2).double()
    with pytest.raises(zo.ArgumentError, match=r"`step` must be given the estimate.*torch.optim.Adam"):
        RULE([center]).step()


@pytest.mark.parametrize("params", [[torch.zeros(2), torch.zeros(2)], [torch.zeros(2, 2)]], ids=["two", "matrix"])
def test_it_moves_one_flat_tensor(params):
    with pytest.raises(zo.ArgumentError, match=r"one tensor of shape \(d,\)"):
        RULE([torch.nn.Parameter(p) for p in params])


def test_the_first_length_must_be_positive():
    with pytest.raises(zo.ArgumentError, match="`first` must be a positive number"):
        RULE([torch.nn.Parameter(torch.zeros(2))], first=0.0)
