"""FrameGradient: exact on quadratics, also at walls and where probes are lost."""

import pytest
import torch

import zograd as zo


def frame(d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]


def quadratic(d, seed=1):
    """``f``, its gradient and its Hessian."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(d, d, generator=generator, dtype=torch.float64)
    hessian, slope = root + root.T, torch.randn(d, generator=generator, dtype=torch.float64)
    return (
        lambda x: 5 + x @ slope + ((x @ hessian) * x).sum(-1) / 2,
        lambda x: slope + hessian @ x,
        hessian,
    )


def estimate(estimator, function, center, lose=()):
    probes = estimator.propose(center, torch.Generator())
    values = function(probes.points())
    values[list(lose)] = torch.nan
    return estimator.gradient(probes, values), probes


CENTER = torch.tensor([0.3, 0.6, 0.2, 0.9]).double()


@pytest.mark.parametrize("basis", [None, frame(4)], ids=["axes", "turned"])
@pytest.mark.parametrize("step", [0.25, torch.tensor([0.1, 0.2, 0.3, 0.4])])
@pytest.mark.parametrize("walls", [{}, {"lower": torch.zeros(4), "upper": torch.ones(4)}, {"upper": torch.ones(4)}])
def test_a_quadratics_gradient_curvature_and_value_are_exact(basis, step, walls):
    function, gradient, hessian = quadratic(4)
    found, probes = estimate(zo.FrameGradient(step=step, basis=basis, **walls), function, CENTER)
    axes = torch.eye(4).double() if basis is None else basis
    assert torch.allclose(found.gradient, gradient(CENTER), atol=1e-10)
    assert torch.allclose(found.curvature, (axes.T @ hessian @ axes).diagonal(), atol=1e-8)
    assert found.value == pytest.approx(float(function(CENTER)))
    assert found.diagnostics == {"lost": 0.0, "missing": 0.0, "repeat": 0.0}
    for name, inside in (("lower", probes.points() >= -1e-7), ("upper", probes.points() <= 1 + 1e-7)):
        assert name not in walls or bool(inside.all())


@pytest.mark.parametrize("center", [[0.0, 1.0], [0.0, 0.5], [0.02, 0.99], [1.0, 1.0]])
def test_at_a_wall_both_probes_are_on_the_side_that_has_room(center):
    function, gradient, hessian = quadratic(2)
    center = torch.tensor(center).double()
    estimator = zo.FrameGradient(step=0.4, lower=torch.zeros(2), upper=torch.ones(2))
    found, probes = estimate(estimator, function, center)
    assert torch.allclose(found.gradient, gradient(center), atol=1e-10)
    assert torch.allclose(found.curvature, hessian.diagonal(), atol=1e-8)
    assert bool(((probes.points() >= 0) & (probes.points() <= 1)).all())
    distances = (probes.points()[2:] - center).abs().sum(1)
    assert float(distances.min()) >= 0.04


@pytest.mark.parametrize("center", [[0.0, 0.01], [0.005, 0.002], [0.0099, 0.0]])
@pytest.mark.parametrize("basis", [None, frame(2)], ids=["axes", "turned"])
def test_bounds_narrower_than_the_step_leave_a_finite_gradient(center, basis):
    function, gradient, _ = quadratic(2)
    center = torch.tensor(center).double()
    estimator = zo.FrameGradient(step=0.5, basis=basis, lower=torch.zeros(2), upper=torch.full((2,), 0.01))
    found, _ = estimate(estimator, function, center)
    assert torch.allclose(found.gradient, gradient(center), atol=1e-7)


def test_a_fixed_parameter_is_probed_all_the_same_and_shows_nothing():
    bounds = torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0])
    estimator = zo.FrameGradient(step=0.25, lower=bounds[0], upper=bounds[1])
    found, probes = estimate(
        estimator, lambda x: x.clamp(min=0).minimum(bounds[1]).square().sum(1), torch.tensor([0.0, 0.5]).double()
    )
    assert found.gradient.tolist() == pytest.approx([0.0, 1.0])
    assert len(probes) == 6


# --- lost rows: 2 centres, then 4 ahead, then 4 behind


@pytest.mark.parametrize("lost", [[2], [6], [3, 8], [0], [1, 2]])
def test_a_lost_half_leaves_an_exact_slope_where_the_curvature_is_known(lost):
    function, gradient, hessian = quadratic(4)
    estimator = zo.FrameGradient(step=0.2, prior=hessian.diagonal(), upper=torch.ones(4))
    found, _ = estimate(estimator, function, CENTER, lost)
    assert torch.allclose(found.gradient, gradient(CENTER), atol=1e-10)
    assert torch.allclose(found.curvature, hessian.diagonal(), atol=1e-8)
    assert found.diagnostics["lost"] == len(lost)


@pytest.mark.parametrize("basis", [None, frame(4)], ids=["axes", "turned"])
def test_with_a_third_lost_what_is_told_has_the_right_size(basis):
    truth = torch.tensor([1.0, -2.0, 1.5, 3.0]).double()
    axes = torch.eye(4).double() if basis is None else basis
    generator, missing = torch.Generator().manual_seed(0), 0
    for _ in range(100):
        lost = torch.randperm(10, generator=generator)[:3].tolist()
        found, _ = estimate(zo.FrameGradient(step=0.1, basis=basis), lambda x: 1 + x @ truth, CENTER, lost)
        along, expected = axes.T @ found.gradient, axes.T @ truth
        absent = along.abs() < 1e-9
        assert torch.allclose(along[~absent], expected[~absent], atol=1e-9)
        assert int(absent.sum()) == found.diagnostics["missing"]
        missing += int(absent.sum())
    assert missing > 0


def test_without_a_centre_whole_pairs_tell_and_halves_do_not():
    function, gradient, hessian = quadratic(4)
    estimator = zo.FrameGradient(step=0.2, prior=hessian.diagonal(), upper=torch.ones(4))
    found, _ = estimate(estimator, function, CENTER, [0, 1, 3])
    expected = gradient(CENTER)
    expected[1] = 0.0
    assert torch.allclose(found.gradient, expected, atol=1e-10)
    assert torch.equal(found.curvature, hessian.diagonal())
    assert found.diagnostics == {"lost": 3.0, "missing": 1.0, "repeat": 0.0}
    assert found.value == pytest.approx(float(function(CENTER)), abs=1.0)


def test_both_halves_lost_are_missing_and_the_prior_stands():
    function, gradient, _ = quadratic(4)
    prior = torch.full((4,), 7.0).double()
    found, _ = estimate(zo.FrameGradient(step=0.2, prior=prior), function, CENTER, [4, 8])
    expected = gradient(CENTER)
    expected[2] = 0.0
    assert torch.allclose(found.gradient, expected, atol=1e-10)
    assert found.curvature[2] == 7.0
    assert found.diagnostics["missing"] == 1.0


def test_all_lost_is_an_error_unless_the_value_is_known():
    nothing = torch.full((10,), torch.nan).double()
    estimator = zo.FrameGradient()
    with pytest.raises(zo.GradientError, match="all 10 evaluations were lost"):
        estimator.gradient(estimator.propose(CENTER, torch.Generator()), nothing)
    known = zo.FrameGradient(value=2.0)
    found = known.gradient(known.propose(CENTER, torch.Generator()), nothing[:8])
    assert (found.value, found.diagnostics) == (2.0, {"lost": 8.0, "missing": 4.0})
    assert not found.gradient.any()


# --- what is known


def test_a_known_value_saves_two_rows_and_gives_the_same():
    function, gradient, _ = quadratic(4)
    value = float(function(CENTER))
    known, asked = zo.FrameGradient(step=0.2, value=value), zo.FrameGradient(step=0.2)
    assert (known.evaluations(4), asked.evaluations(4)) == (8, 10)
    first, second = estimate(known, function, CENTER)[0], estimate(asked, function, CENTER)[0]
    assert torch.equal(first.gradient, second.gradient)
    assert torch.allclose(first.gradient, gradient(CENTER), atol=1e-10)


@pytest.mark.parametrize("walls", [{}, {"upper": torch.full((4,), 0.95)}], ids=["free", "wall"])
def test_noise_gives_the_squared_error_and_the_variance_of_a_value(walls):
    generator = torch.Generator().manual_seed(0)
    estimator = zo.FrameGradient(step=0.1, noise=0.5)
    probes = estimator.propose(CENTER, torch.Generator())
    truth, found, repeats = torch.tensor([1.0, -2.0, 0.0, 3.0]).double(), [], []
    for _ in range(800):
        values = probes.points() @ truth + 0.5 * torch.randn(10, generator=generator, dtype=torch.float64)
        one = estimator.gradient(probes, values)
        found.append(one.gradient)
        repeats.append(one.diagnostics["repeat"])
    measured = float((torch.stack(found) - truth).square().sum(1).mean())
    assert measured == pytest.approx(one.squared_error, rel=0.1)
    assert measured == pytest.approx(4 * 0.5**2 / (2 * 0.1**2), rel=0.1)  # as the docstring says
    assert sum(repeats) / 800 == pytest.approx(0.25, rel=0.15)


def test_a_noisy_curvature_leans_on_the_prior_and_a_clear_one_does_not():
    function, _, hessian = quadratic(4)
    prior = torch.full((4,), 2.0).double()
    drowned = estimate(zo.FrameGradient(step=1e-3, prior=prior, noise=1.0), function, CENTER)[0]
    clear = estimate(zo.FrameGradient(step=0.5, prior=prior, noise=1e-4), function, CENTER)[0]
    assert torch.allclose(drowned.curvature, prior, atol=1e-6)
    assert torch.allclose(clear.curvature, hessian.diagonal(), rtol=1e-4)


# --- arguments


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"step": 0.0}, "`step` must be a positive number"),
        ({"step": torch.tensor([0.1, -0.1])}, "`step` must have positive entries only"),
        ({"step": torch.tensor([0.1, torch.nan])}, "`step` must have finite entries only"),
        ({"noise": -1.0}, "`noise` must be a standard deviation"),
        ({"basis": torch.ones(2, 3)}, r"`basis` must be a tensor of shape \(d, d\)"),
        ({"basis": 2 * torch.eye(2)}, "`basis` must have orthonormal columns"),
        ({"basis": torch.tensor([[1.0, 0.6], [0.0, 0.8]])}, "`basis` must have orthonormal columns"),
        ({"basis": torch.full((2, 2), torch.nan)}, "`basis` must have orthonormal columns"),
    ],
)
def test_wrong_arguments_are_refused(given, words):
    with pytest.raises(zo.ArgumentError, match=words):
        zo.FrameGradient(**given)


@pytest.mark.parametrize(
    ("given", "words"), [({"step": torch.ones(3)}, "for each of 4"), ({"basis": frame(3)}, "4, 4")]
)
def test_what_does_not_fit_the_centre_is_refused(given, words):
    with pytest.raises(zo.ArgumentError, match=words):
        zo.FrameGradient(**given).propose(CENTER, torch.Generator())
