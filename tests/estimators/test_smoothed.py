import math

import pytest
import torch

import zograd as zo

MODES = [(i, a) for i in ("kernel", "derivative") for a in (True, False)]


def estimate(estimator, function, center=None, seed=0, loss=()):
    center = torch.zeros(1).double() if center is None else center
    probes = estimator.propose(center, torch.Generator().manual_seed(seed))
    values = function(probes.points())
    values[list(loss)] = torch.nan
    return estimator.gradient(probes, values)


def step(points):
    return (points[:, 0] > 0).to(points)


@pytest.mark.parametrize(("importance", "antithetic"), MODES)
@pytest.mark.parametrize("center", [-0.7, 0.0, 0.4])
def test_a_smoothed_step_rises_by_the_gaussian_density(importance, antithetic, center):
    spread = 0.5
    estimator = zo.SmoothedGradient(spread, 20000, importance, antithetic)
    found = estimate(estimator, step, torch.tensor([center]).double())
    density = math.exp(-((center / spread) ** 2) / 2) / (spread * math.sqrt(2 * math.pi))
    # At the centre of the step an antithetic sample of the derivative has no variance at all.
    assert float(found.gradient) == pytest.approx(density, abs=4 * math.sqrt(found.squared_error) + 1e-6)


@pytest.mark.parametrize(("importance", "antithetic"), MODES)
def test_a_smoothed_step_in_five_dimensions(importance, antithetic):
    normal = torch.tensor([0.6, 0.0, -0.8, 0.0, 0.0]).double()
    estimator = zo.SmoothedGradient(2.0, 20000, importance, antithetic)
    found = estimate(estimator, lambda x: (x @ normal > 1).to(x), torch.zeros(5).double())
    density = math.exp(-(0.5**2) / 2) / (2 * math.sqrt(2 * math.pi))
    assert float((found.gradient - density * normal).norm()) < 3 * math.sqrt(found.squared_error)


def test_the_radius_is_that_of_the_kernel_derivative():
    center = torch.zeros(3).double()
    probes = zo.SmoothedGradient(0.5, 20000, "derivative").propose(center, torch.Generator().manual_seed(0))
    squares = probes.offsets.squared_norms(center)[:20000] / 0.25
    assert float(squares.mean()) == pytest.approx(4, rel=0.02)  # chi squared with d + 1 degrees of freedom
    assert float(squares.var()) == pytest.approx(8, rel=0.05)


def test_antithetic_kernel_sampling_is_the_random_gradient():
    center = torch.linspace(-1, 1, 4).double()
    one = estimate(zo.SmoothedGradient(0.1, 5), lambda x: x.exp().sum(1), center)
    other = estimate(zo.RandomGradient(5, 0.1), lambda x: x.exp().sum(1), center)
    torch.testing.assert_close(one.gradient, other.gradient)
    assert one.squared_error == pytest.approx(other.squared_error)


def variance(function, importance):
    """Of one pair, in one dimension, with a spread of one."""
    found = estimate(zo.SmoothedGradient(1.0, 50000, importance), function)
    return found.squared_error * 50000


def test_sampling_the_derivative_has_the_lower_variance_on_steps_and_slopes():
    def linear(points):
        return points[:, 0]

    density = 1 / math.sqrt(2 * math.pi)
    assert variance(step, "derivative") < 1e-9
    assert variance(step, "kernel") == pytest.approx(0.25 - density**2, rel=0.05)
    assert variance(linear, "derivative") == pytest.approx(4 / math.pi - 1, rel=0.05)
    assert variance(linear, "kernel") == pytest.approx(2, rel=0.05)


def test_sampling_the_kernel_has_the_lower_variance_on_a_narrow_feature():
    def bump(points):
        return torch.exp(-((points[:, 0] - 0.1) ** 2) / 2 / 0.3**2)

    assert variance(bump, "kernel") < variance(bump, "derivative") / 2


@pytest.mark.parametrize("importance", ["kernel", "derivative"])
def test_the_baseline_takes_the_level_away(importance):
    estimator = zo.SmoothedGradient(0.5, 50, importance, antithetic=False)
    low, high = (estimate(estimator, lambda x, c=c: step(x) + c) for c in (0.0, 1e6))
    torch.testing.assert_close(low.gradient, high.gradient, rtol=1e-6, atol=1e-6)


def test_lost_rows_are_left_out():
    found = estimate(zo.SmoothedGradient(samples=4), step, loss=[0, 5])
    assert found.gradient.isfinite().all()
    assert found.diagnostics == {"lost": 2.0}
    found = estimate(zo.SmoothedGradient(samples=4, antithetic=False), step, loss=[0, 1])
    assert found.gradient.isfinite().all()


@pytest.mark.parametrize(("antithetic", "loss"), [(True, [0, 3]), (False, [0]), (False, [0, 1])])
def test_without_a_pair_or_a_baseline_it_says_so(antithetic, loss):
    with pytest.raises(zo.GradientError, match="each of the 2 directions"):
        estimate(zo.SmoothedGradient(samples=2, antithetic=antithetic), step, loss=loss)


def test_the_value_is_the_mean_of_the_values():
    found = estimate(zo.SmoothedGradient(0.5, 20000), lambda x: x.square().sum(1))
    assert found.value == pytest.approx(0.25, rel=0.05)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spread": 0.0}, "`spread`"),
        ({"samples": 0}, "`samples`"),
        ({"samples": 1, "antithetic": False}, "`samples` must be a whole number of at least 2"),
        ({"importance": "uniform"}, "`importance`"),
        ({"antithetic": 2}, "`antithetic`"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(zo.ArgumentError, match=message):
        zo.SmoothedGradient(**options)
