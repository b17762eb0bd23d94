"""Steps to the model's minimum, within what is believed."""

import functools

import numpy as np
import pytest
import torch

import zograd as zo
from zograd.estimators import _quadratic
from zograd.estimators._quadratic import Fit
from zograd.optim._trust_region import DEPTH, step_within


def valley(points):
    x, y = points.T
    return (x - 1) ** 2 + 10 * (y - x**2) ** 2


def run(function, start, steps, estimator=None, seed=0, **options):
    rule = functools.partial(zo.optim.TrustRegion, **options)
    descent = zo.Descent(start, estimator=estimator or zo.PolynomialSurrogate(samples=2), optimizer=rule, seed=seed)
    for _ in range(steps):
        last = descent.tell(function(descent.ask().points()))
    return descent, last


@pytest.mark.usefixtures("unchecked")
def test_a_curved_valley_is_followed_to_its_end():
    descent, last = run(valley, torch.tensor([-1.0, 1.0]), 60)
    assert last.best_value < 1e-8
    assert last.evaluations < 200
    assert descent.optimizer.noise == 0
    torch.testing.assert_close(descent.answer[0], torch.ones(2).double(), atol=1e-3, rtol=0)


@pytest.mark.usefixtures("unchecked")
def test_bounds_are_kept():
    seen = []
    parameters = zo.Parameters(torch.tensor([-1.0, 0.4]), bounds=(-1.5, 0.5))
    descent = zo.Descent(parameters, estimator=zo.PolynomialSurrogate(samples=2), optimizer=zo.optim.TrustRegion)
    for _ in range(40):
        probes = descent.ask()
        inside = parameters.clip(probes.points())
        seen.append(parameters.decode_batch(inside))
        last = descent.tell(valley(seen[-1]))
    assert last.best_value == pytest.approx(0.25, abs=0.01)  # at (0.5, 0.25)
    assert float(torch.cat(seen).max()) <= 0.5


@pytest.mark.usefixtures("unchecked")
def test_a_plateau_is_looked_over():
    stairs = zo.PolynomialSurrogate(spread=0.01)
    with pytest.warns(zo.ZogradWarning, match="values are equal"):
        _, last = run(lambda x: (4 * (x[:, 0] - 2)).round() ** 2, torch.tensor([0.0]), 40, stairs)
    assert last.best_value == 0


@pytest.mark.usefixtures("unchecked")
def test_the_spread_shrinks_with_progress():
    descent, _ = run(valley, torch.tensor([-1.0, 1.0]), 60)
    assert descent.optimizer.state_dict()["state"][0]["spread"] < 1e-2


@pytest.mark.usefixtures("unchecked")
def test_noise_is_measured_and_the_answer_is_no_luck():
    noise = torch.Generator().manual_seed(5)

    def noisy(points):
        return valley(points) + 0.01 * torch.randn(len(points), generator=noise).double()

    errors = []
    for seed in range(3):
        descent, last = run(noisy, torch.tensor([0.0, 0.5]), 120, zo.PolynomialSurrogate(0.2, 4), seed)
        point, value = descent.answer
        errors.append(float(valley(point[None])))
        assert descent.optimizer.noise > 0
        assert value > last.best_value
    assert sorted(errors)[1] < 0.05


@pytest.mark.filterwarnings("ignore::zograd.ZogradWarning")
@pytest.mark.usefixtures("unchecked")
def test_whole_numbers_are_reached():
    parameters = zo.Parameters({"n": 9, "x": 0.5}, bounds={"n": (0, 12), "x": (-1, 1)}, integers=("n",))
    result = zo.minimize(
        lambda p: (p["n"] - 3) ** 2 + (p["x"] + 0.2) ** 2,
        parameters,
        evaluations=300,
        estimator=zo.PolynomialSurrogate(samples=2),
        optimizer=zo.optim.TrustRegion,
    )
    assert result.x["n"] == 3
    assert result.fun < 0.01


def test_a_restored_descent_goes_on_as_it_was():
    first, _ = run(valley, torch.tensor([-1.0, 1.0]), 7)
    second = zo.Descent(torch.zeros(2), estimator=zo.PolynomialSurrogate(samples=2), optimizer=zo.optim.TrustRegion)
    second.load_state_dict(first.state_dict())
    for _ in range(7):
        one, other = first.ask().points(), second.ask().points()
        assert torch.equal(one, other)
        for descent in (first, second):
            descent.tell(valley(one))


def spread_of(descent):
    return descent.optimizer.state_dict()["state"][0]["spread"]


def in_vain(steps):
    """The spreads of a descent in 4 parameters that finds nothing lower, and how many values came before each."""
    dice = torch.Generator().manual_seed(3)
    descent = zo.Descent(torch.zeros(4), estimator=zo.PolynomialSurrogate(samples=1), optimizer=zo.optim.TrustRegion)
    told, spreads = [0], [0.1]
    for step in range(steps):
        values = 1000 + step + torch.rand(len(descent.ask()), generator=dice).double()
        if step == 1:
            values[:2] = 0  # the centre, seen twice: it is without noise, and lower than all that is to come
        descent.tell(values)
        told.append(told[-1] + len(values) - (2 if step == 1 else 0))
        spreads.append(spread_of(descent))
    return np.array(spreads), np.array(told)


@pytest.mark.usefixtures("unchecked")
def test_after_starting_wide_again_the_spread_shrinks_only_once_the_quadratic_is_complete():
    spreads, told = in_vain(100)
    again = 1 + np.flatnonzero(np.diff(spreads) > 0)[0]
    before = told[1 : again + 1][np.diff(spreads[: again + 1]) < 0]
    after = told[again + 1 :][np.diff(spreads[again:]) < 0]
    assert len(before) > 3
    assert len(after) > 3
    assert np.diff(before).max() < 15
    assert np.diff(after).min() >= 15  # 1 value, 4 slopes, 10 curvatures


@pytest.mark.usefixtures("unchecked")
def test_where_nothing_is_found_it_starts_wide_again_and_the_next_time_later():
    spreads, _ = in_vain(150)
    again = 1 + np.flatnonzero(np.diff(spreads) > 0)
    assert spreads[again].tolist() == [0.1, 0.1]
    assert spreads[again - 1] == pytest.approx([0.1 / 2 ** (DEPTH - 1), 0.1 / 2**DEPTH])


@pytest.mark.usefixtures("unchecked")
def test_a_smooth_valley_is_never_left():
    descent = zo.Descent(
        torch.tensor([-1.0, 1.0]), estimator=zo.PolynomialSurrogate(samples=1), optimizer=zo.optim.TrustRegion
    )
    for _ in range(120):
        last = descent.tell(valley(descent.ask().points()))
        if last.best_value < 1e-8:
            break
    assert last.best_value < 1e-8
    assert descent.optimizer.state_dict()["state"][0]["depth"] == DEPTH


@pytest.mark.filterwarnings("ignore::zograd.ZogradWarning")
@pytest.mark.usefixtures("unchecked")
def test_reals_are_refined_beside_whole_numbers():
    parameters = zo.Parameters({"n": 9, "x": 0.5}, bounds={"n": (0, 12), "x": (-1, 1)}, integers=("n",))
    descent = zo.Descent(parameters, estimator=zo.PolynomialSurrogate(samples=2), optimizer=zo.optim.TrustRegion)
    for _ in range(60):
        points = parameters.clip(descent.ask().points())
        told = [(int(p["n"]) - 3) ** 2 + 10 * (float(p["x"]) + 0.2) ** 2 for p in parameters.decode_each(points)]
        last = descent.tell(torch.tensor(told).double())
        if last.best_value < 1e-5:
            break
    assert last.best_value < 1e-5
    apart, spread = float(parameters.granularity.max()), spread_of(descent)
    assert spread < apart
    while descent.optimizer.trying:
        descent.tell(torch.zeros(len(descent.ask())).double())
    reach = descent.ask().points() - descent.center.detach()
    assert float(reach[:, parameters.integer].abs().max()) > 0.1 * apart
    assert float(reach[:, ~parameters.integer].abs().max()) < 4 * spread


def test_lost_trials_leave_the_best_sample():
    descent, _ = run(valley, torch.tensor([-1.0, 1.0]), 1, first=0.1)
    assert descent.optimizer.trying
    best = descent.optimizer.state[descent.center]["best"].clone()
    descent.tell(torch.full((3,), torch.nan))
    assert torch.equal(descent.center.detach(), best)  # a sample of the gradient, which is known


def test_other_estimators_are_refused():
    descent = zo.Descent(torch.zeros(2), estimator=zo.RandomGradient(), optimizer=zo.optim.TrustRegion)
    with pytest.raises(zo.ArgumentError, match="must be a PolynomialSurrogate"):
        descent.ask()
    with pytest.raises(zo.ArgumentError, match="must fit a quadratic"):
        run(valley, torch.zeros(2), 1, zo.PolynomialSurrogate(degree="linear"))


@pytest.mark.parametrize("bends", [(1.0, 4.0), (-1.0, 2.0), (0.0, 0.0)])
def test_the_step_is_the_minimum_within_the_ball(bends):
    fit = Fit(0.0, np.array([0.3, -0.2]), np.diag(np.array(bends)), None)
    move, promised = step_within(fit, 1.0)
    angles = np.linspace(0, 2 * np.pi, 400)
    ball = np.concatenate([r * np.stack([np.cos(angles), np.sin(angles)], 1) for r in np.linspace(0, 1, 60)])
    assert np.linalg.norm(move) <= 1 + 1e-6
    assert promised == pytest.approx(-float(fit(ball).min()), abs=2e-3)
    assert promised == pytest.approx(-float(fit(move[None])[0]), abs=1e-9)


@pytest.mark.parametrize("bends", [(-2.0, 1.0, 5.0, 40.0), (1e-6, 1.0, 5.0, 40.0), (-1e-9, 0.0, 1.0, 1e6)])
@pytest.mark.parametrize("slope", [1e-12, 1e-3, 1.0])
def test_a_step_that_ends_on_the_edge_is_exact(bends, slope):
    across = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4))).Q
    fit = Fit(0.0, across @ np.array([slope, 0.5, -30.0, 80.0]), across @ np.diag(np.array(bends)) @ across.T, None)
    move, _ = step_within(fit, 0.7)
    assert np.linalg.norm(move) <= 0.7 * (1 + 1e-9)
    if np.linalg.norm(move) > 0.69:  # the slope that is left points straight out
        left = fit.slope + fit.curvature @ move
        assert -float(left @ move) == pytest.approx(float(np.linalg.norm(left) * np.linalg.norm(move)), rel=1e-9)


@pytest.mark.usefixtures("unchecked")
def test_an_iteration_makes_one_fit(monkeypatch):
    made = []
    once = _quadratic.fit
    monkeypatch.setattr(_quadratic, "fit", lambda *given: made.append(given) or once(*given))
    run(valley, torch.tensor([-1.0, 1.0]), 20)  # ten gradients, each with a trial step
    assert len(made) == 10
