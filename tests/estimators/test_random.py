import pytest
import torch

import zograd as zo

CENTER = torch.linspace(-1, 1, 6).double()
SLOPES = torch.tensor([1.0, -2.0, 3.0, -1.5, 2.5, 0.5]).double()


def linear(points):
    return points @ SLOPES + 2


def estimate(estimator, function=linear, center=CENTER, seed=0, loss=()):
    probes = estimator.propose(center, torch.Generator().manual_seed(seed))
    values = function(probes.points())
    values[list(loss)] = torch.nan
    return estimator.gradient(probes, values)


def test_central_rows_are_all_ahead_then_all_behind():
    offsets = zo.RandomGradient(3, step=0.1).propose(CENTER, torch.Generator()).offsets.dense(CENTER)
    torch.testing.assert_close(offsets[:3], -offsets[3:])


def test_forward_rows_begin_with_the_centre():
    points = zo.RandomGradient(3, central=False).propose(CENTER, torch.Generator()).points()
    assert torch.equal(points[0], CENTER)
    assert len(points) == 4


@pytest.mark.parametrize("directions", ["sphere", "rademacher", "orthogonal"])
def test_directions_of_fixed_length_have_length_step_times_root_d(directions):
    probes = zo.RandomGradient(9, step=0.1, directions=directions).propose(CENTER, torch.Generator())
    torch.testing.assert_close(probes.offsets.squared_norms(CENTER), torch.full((18,), 0.01 * 6).double())


def test_orthogonal_directions_are_orthogonal_in_blocks_of_d():
    rows = zo.RandomGradient(8, step=1.0, directions="orthogonal", central=False).propose(CENTER, torch.Generator())
    u = rows.offsets.dense(CENTER)[1:]
    torch.testing.assert_close(u[:6] @ u[:6].T, 6 * torch.eye(6).double())
    torch.testing.assert_close(u[6:] @ u[6:].T, 6 * torch.eye(2).double())


def test_d_orthogonal_directions_give_a_linear_function_exactly():
    found = estimate(zo.RandomGradient(6, directions="orthogonal"))
    torch.testing.assert_close(found.gradient, SLOPES)
    assert found.squared_error is None


@pytest.mark.parametrize("directions", ["gaussian", "sphere", "rademacher", "orthogonal"])
@pytest.mark.parametrize("central", [True, False])
def test_the_squared_error_is_what_repetition_finds(directions, central):
    estimator = zo.RandomGradient(4, directions=directions, central=central)
    estimates = [estimate(estimator, seed=i) for i in range(400)]
    measured = torch.stack([(e.gradient - SLOPES).square().sum() for e in estimates]).mean()
    told = torch.tensor([e.squared_error for e in estimates]).mean()
    assert float(told) == pytest.approx(float(measured), rel=0.15)


def test_the_variance_is_what_the_docstring_says():
    square = float(SLOPES.square().sum())
    expected = {"gaussian": 7 / 4, "sphere": 5 / 4, "rademacher": 5 / 4, "orthogonal": 6 / 4 - 1}
    for directions, share in expected.items():
        found = [estimate(zo.RandomGradient(4, directions=directions), seed=i).gradient for i in range(400)]
        measured = torch.stack([(g - SLOPES).square().sum() for g in found]).mean()
        assert float(measured) / square == pytest.approx(share, rel=0.15)


def test_one_direction_tells_no_squared_error():
    assert estimate(zo.RandomGradient(1)).squared_error is None


def test_the_value_is_the_centre_or_the_mean_of_the_pairs():
    at_center = float(linear(CENTER[None])[0])
    assert estimate(zo.RandomGradient(3, central=False)).value == pytest.approx(at_center, abs=0)
    assert estimate(zo.RandomGradient(3)).value == pytest.approx(at_center)


def test_the_value_of_the_pairs_is_above_by_half_the_trace_of_the_hessian():
    found = estimate(zo.RandomGradient(4000, step=0.1), lambda x: x.square().sum(1))
    assert found.value - float(CENTER.square().sum()) == pytest.approx(0.01 * 6, rel=0.05)


def test_a_pair_with_a_lost_half_is_left_out():
    found = estimate(zo.RandomGradient(3), loss=[0, 4])
    probes = zo.RandomGradient(3).propose(CENTER, torch.Generator().manual_seed(0))
    u = probes.offsets.dense(CENTER)[2] / 1e-3
    torch.testing.assert_close(found.gradient, (SLOPES @ u) * u)
    assert found.diagnostics == {"lost": 2.0}


def test_infinite_values_are_lost_too():
    found = estimate(zo.RandomGradient(3), lambda x: linear(x) / (x[:, 0] != x[0, 0]))
    assert found.gradient.isfinite().all()
    assert found.diagnostics["lost"] == 1.0


def test_a_lost_centre_is_replaced_without_bias():
    found = [estimate(zo.RandomGradient(8, central=False), seed=i, loss=[0]) for i in range(400)]
    mean = torch.stack([e.gradient for e in found]).mean(0)
    assert float((mean - SLOPES).norm() / SLOPES.norm()) < 0.1
    assert found[0].value is None


@pytest.mark.parametrize(("central", "loss"), [(True, (0, 4, 5)), (False, (1, 2, 3)), (False, (0, 1, 2))])
def test_without_a_survivor_it_says_so(central, loss):
    with pytest.raises(zo.GradientError, match="no gradient can be told: each of the 3 directions"):
        estimate(zo.RandomGradient(3, central=central), loss=loss)


def test_the_gradient_has_the_centre_dtype_whatever_the_values_have():
    estimator = zo.RandomGradient(4)
    probes = estimator.propose(CENTER.float(), torch.Generator())
    found = estimator.gradient(probes, linear(probes.points().double()))
    assert found.gradient.dtype == torch.float32


def test_a_centre_with_a_graph_is_let_go():
    probes = zo.RandomGradient(2).propose(CENTER.clone().requires_grad_(), torch.Generator())
    assert not probes.center.requires_grad


def test_vector_values_are_refused():
    estimator = zo.RandomGradient(2)
    probes = estimator.propose(CENTER, torch.Generator())
    with pytest.raises(zo.ArgumentError, match=r"one number for each of the 4 rows.*reduce the outputs"):
        estimator.gradient(probes, torch.zeros(4, 2).double())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "`samples` must be a whole number of at least 1, found 0"),
        ({"samples": 2.5}, "`samples`"),
        ({"step": -0.1}, "`step` must be a positive number, found -0.1.*try 1e-3"),
        ({"step": float("nan")}, "`step`"),
        ({"directions": "cube"}, "`directions` must be one of 'gaussian', 'sphere', 'rademacher', 'orthogonal'"),
        ({"central": 1}, "`central`"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(zo.ArgumentError, match=message):
        zo.RandomGradient(**options)


def test_a_centre_that_is_not_finite_is_refused():
    with pytest.raises(zo.ArgumentError, match="`center` must have finite entries"):
        zo.RandomGradient().propose(torch.tensor([1.0, torch.inf]), torch.Generator())


def test_the_halves_of_the_directions_are_compared():
    estimator, center = zo.RandomGradient(6, step=0.1), torch.zeros(3).double()
    probes = estimator.propose(center, torch.Generator().manual_seed(0))
    values = probes.points() @ torch.tensor([1.0, -2.0, 3.0]).double()
    values[1] = torch.nan  # its pair is left out
    rows, half = probes.points()[:6], (values[:6] - values[6:]).nan_to_num(0.0)
    one, other = half[:3] @ rows[:3], half[3:] @ rows[3:]
    told = estimator.gradient(probes, values).diagnostics["half_cosine"]
    assert told == pytest.approx(float(torch.nn.functional.cosine_similarity(one, other, dim=0)))
    assert 0 < told < 1


def test_halves_of_orthogonal_directions_are_whole_frames():
    for samples, expected in ((3, None), (6, 1.0)):  # each frame alone tells the slope of a linear function
        estimator, center = zo.RandomGradient(samples, directions="orthogonal"), torch.zeros(3).double()
        probes = estimator.propose(center, torch.Generator().manual_seed(0))
        values = probes.points() @ torch.tensor([1.0, -2.0, 3.0]).double()
        assert estimator.gradient(probes, values).diagnostics.get("half_cosine") == (expected and pytest.approx(1.0))
    flat = zo.RandomGradient(4)
    probes = flat.propose(torch.zeros(3), torch.Generator().manual_seed(0))
    assert "half_cosine" not in flat.gradient(probes, torch.ones(8)).diagnostics
