"""Polynomials through replayed samples: exact where the program is one, and honest where it is not."""

import warnings

import pytest
import torch

import zograd as zo
from zograd.estimators._span import Span


def bent(points):
    """A quadratic with a cross term: gradient [1 + x, 3 + y] + [y, x] / 2 at (x, y)."""
    x, y = points.double().T
    return 5 + x + 3 * y + 0.5 * x**2 + 0.5 * y**2 + 0.5 * x * y


def visit(estimator, function, center, generator, times=1):
    for _ in range(times):
        probes = estimator.propose(center, generator)
        estimate = estimator.gradient(probes, function(probes.points()))
    return estimate


def test_a_quadratic_is_told_exactly(generator):
    center = torch.tensor([1.0, 2.0], dtype=torch.float64)
    estimate = visit(zo.PolynomialSurrogate(spread=0.3, samples=4), bent, center, generator)
    torch.testing.assert_close(estimate.gradient, torch.tensor([3.0, 5.5]).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(estimate.curvature, torch.ones(2).double(), atol=1e-3, rtol=0)
    assert estimate.value == pytest.approx(float(bent(center[None])), abs=1e-4)


def test_what_is_remembered_serves_at_the_next_centre(generator):
    estimator = zo.PolynomialSurrogate(spread=0.3, samples=2)
    visit(estimator, bent, torch.zeros(2).double(), generator, times=4)
    estimate = visit(estimator, bent, torch.tensor([0.2, 0.1]).double(), generator)
    assert estimate.diagnostics["r_squared"] > 0.999


def test_a_diagonal_quadratic_leaves_cross_terms_out(generator):
    estimator = zo.PolynomialSurrogate(spread=0.3, samples=20, degree="diagonal")
    visit(estimator, bent, torch.zeros(2).double(), generator)
    fit = estimator.fit(torch.zeros(2).double())
    assert fit.curvature[0, 1] == 0
    assert fit.curvature[0, 0] == pytest.approx(0.3**2, rel=0.2)


@pytest.mark.usefixtures("unchecked")
def test_noise_shows_as_squared_error(generator):
    estimator = zo.PolynomialSurrogate(spread=0.3, samples=20, window=400)
    noise = torch.Generator().manual_seed(1)
    truth, errors, told = torch.tensor([1.0, 3.0]).double(), [], []
    for _ in range(60):
        estimate = visit(
            zo.PolynomialSurrogate(spread=0.3, samples=20),
            lambda x: bent(x) + 0.01 * torch.randn(len(x), generator=noise).double(),
            torch.zeros(2).double(),
            generator,
        )
        errors.append(float((estimate.gradient - truth).square().sum()))
        told.append(estimate.squared_error)
    assert sum(told) / sum(errors) == pytest.approx(1, rel=0.4)
    assert estimator.evaluations(7) == 40


def test_many_parameters_are_remembered_in_their_span(generator):
    slopes = torch.linspace(-1, 1, 60, dtype=torch.float64)
    estimator, cosines = zo.PolynomialSurrogate(samples=8), []
    for _ in range(12):
        gradient = visit(estimator, lambda x: x @ slopes, torch.zeros(60).double(), generator).gradient
        cosines.append(float(gradient @ slopes / (gradient.norm() * slopes.norm())))
    assert cosines[0] < 0.6
    assert cosines[-1] > 0.999  # 96 directions of 60
    assert "span" in estimator.state_dict()
    assert estimator.fit(torch.zeros(60)) is None


def test_a_memory_that_foretells_nothing_is_forgotten(generator):
    span = Span(40, 50)
    draw = torch.Generator().manual_seed(3)
    kept = []
    gradient = torch.randn(50, generator=draw)
    for step in range(30):
        rows = torch.randn(5, 50, generator=generator)
        slope = gradient if step % 2 else -gradient  # the opposite every time
        values = (rows @ slope).double().numpy()
        span.forecast(rows.numpy(), values)
        span.add(rows.numpy(), values)
        fresh = rows.T @ torch.linalg.solve(rows @ rows.T, rows @ slope)
        found = torch.from_numpy(span.gradient())
        kept.append(float(found @ fresh / (found.norm() * fresh.norm())))
    assert sum(kept[10:]) / 20 > 0.8


def test_the_oldest_directions_make_room(generator):
    span = Span(4, 3)
    slopes = torch.tensor([1.0, 2.0, 3.0])
    assert not span.gradient().any()
    assert span.forecast(torch.eye(3).numpy(), slopes.double().numpy()) is None
    for factor in (1.0, 1.0, 7.0, 7.0):
        rows = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
        span.add(rows.numpy(), (rows @ (factor * slopes)).double().numpy())
    found = torch.from_numpy(span.gradient())
    assert float(found @ slopes / (found.norm() * slopes.norm())) > 0.99
    assert len(span.rows) == 4


@pytest.mark.parametrize("dimension", [2, 60])
def test_a_restored_surrogate_tells_the_same(dimension, generator):
    first, second = (zo.PolynomialSurrogate(samples=4) for _ in range(2))
    assert first.state_dict() == {}
    center = torch.zeros(dimension)
    visit(first, lambda x: x.sin().sum(1), center, generator, times=3)
    second.load_state_dict(first.state_dict())
    other = torch.Generator()
    other.set_state(generator.get_state())
    one = visit(first, lambda x: x.sin().sum(1), center, generator)
    same = visit(second, lambda x: x.sin().sum(1), center, other)
    assert torch.equal(one.gradient, same.gradient)
    assert one.diagnostics == same.diagnostics
    second.load_state_dict({})
    assert second.state_dict() == {}


def test_lost_rows_are_left_out(generator):
    estimator = zo.PolynomialSurrogate(spread=0.3, samples=6)
    probes = estimator.propose(torch.zeros(2).double(), generator)
    values = bent(probes.points())
    values[[1, 5, 8]] = torch.nan
    estimate = estimator.gradient(probes, values)
    torch.testing.assert_close(estimate.gradient, torch.tensor([1.0, 3.0]).double(), atol=1e-4, rtol=0)
    assert estimate.diagnostics["lost"] == 3
    linear = zo.PolynomialSurrogate(samples=2, degree="linear")
    probes = linear.propose(torch.zeros(2).double(), generator)
    with pytest.raises(zo.GradientError, match="each of the 2 pairs lost an evaluation"):
        linear.gradient(probes, torch.tensor([torch.nan, 1.0, 2.0, torch.nan]).double())
    kept = linear.gradient(probes, torch.tensor([torch.nan, 1.0, 1.0, 2.0]).double())
    assert "half_cosine" not in kept.diagnostics


def test_a_flat_landscape_is_said_once(generator):
    estimator = zo.PolynomialSurrogate(samples=3)
    probes = estimator.propose(torch.zeros(2), generator)
    with pytest.warns(zo.ZogradWarning, match=r"all 6 values are equal: increase the spread \(0.1 now\)"):
        estimate = estimator.gradient(probes, torch.ones(6))
    assert float(estimate.gradient.norm()) == 0
    estimator.gradient(probes, torch.ones(6))


@pytest.mark.usefixtures("unchecked")
def test_a_surrogate_that_explains_nothing_says_so(generator):
    estimator, noise = zo.PolynomialSurrogate(samples=2), torch.Generator().manual_seed(1)
    with pytest.warns(zo.ZogradWarning, match="PolynomialSurrogate foretold nothing of the values of 1.. gradients"):
        visit(estimator, lambda x: torch.randn(len(x), generator=noise), torch.zeros(2), generator, times=120)


def test_halves_that_agree_have_a_cosine_of_one(generator):
    estimate = visit(zo.PolynomialSurrogate(samples=200), bent, torch.zeros(2).double(), generator)
    assert estimate.diagnostics["half_cosine"] > 0.95


def test_half_of_one_orthogonal_frame_agrees_with_nothing(generator):
    """Directions of one frame are orthogonal, so that their cosine is 0 whatever the program is."""
    estimate = visit(zo.PolynomialSurrogate(samples=2), bent, torch.zeros(2).double(), generator)
    assert "half_cosine" not in estimate.diagnostics


def test_another_spread_shares_the_memory(generator):
    estimator = zo.PolynomialSurrogate(spread=0.3, samples=4)
    narrow = estimator.with_spread(0.03)
    visit(narrow, bent, torch.zeros(2).double(), generator)
    assert estimator.fit(torch.zeros(2).double()) is not None
    assert (narrow.spread, estimator.spread) == (0.03, 0.3)
    with warnings.catch_warnings(), pytest.raises(zo.ArgumentError, match="`spread` must"):
        estimator.with_spread(0.0)


@pytest.mark.parametrize("wrong", [{"spread": -1.0}, {"samples": 0}, {"degree": "cubic"}, {"window": 1}])
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments(wrong):
    with pytest.raises(zo.ArgumentError, match=f"`{next(iter(wrong))}` must"):
        zo.PolynomialSurrogate(**wrong)
