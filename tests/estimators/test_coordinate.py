import pytest
import torch

import zograd as zo

CENTER = torch.tensor([1.0, -2.0, 0.5, 100.0]).double()


def cubic(points):
    return (points**3).sum(1) + points[:, 0] * points[:, 1]


def slope(center):
    return 3 * center**2 + torch.stack([center[1], center[0], center[0] * 0, center[0] * 0])


def estimate(estimator, function=cubic, center=CENTER, loss=()):
    probes = estimator.propose(center, torch.Generator())
    values = function(probes.points())
    values[list(loss)] = torch.nan
    return estimator.gradient(probes, values)


def test_rows_are_all_ahead_then_all_behind():
    probes = zo.CoordinateGradient(step=0.25).propose(CENTER, torch.Generator())
    expected = 0.25 * torch.cat([torch.eye(4), -torch.eye(4)]).double()
    torch.testing.assert_close(probes.offsets.dense(CENTER), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("options", "rows"), [({"central": False}, 5), ({"curvature": True}, 9)])
def test_the_centre_comes_first_where_it_is_evaluated(options, rows):
    points = zo.CoordinateGradient(**options).propose(CENTER, torch.Generator()).points()
    assert len(points) == rows
    assert torch.equal(points[0], CENTER)


@pytest.mark.parametrize(
    ("options", "dtype", "error"),
    [({}, torch.float64, 1e-9), ({"central": False}, torch.float64, 1e-6), ({}, torch.float32, 1e-4)],
)
def test_the_default_step_suits_the_dtype(options, dtype, error):
    center = CENTER[:3].to(dtype)
    found = estimate(zo.CoordinateGradient(**options), lambda x: x.sin().sum(1), center).gradient
    assert found.dtype == dtype
    assert float((found - center.cos()).norm() / center.cos().norm()) < error


def test_the_step_is_the_one_that_floating_point_makes():
    center = torch.tensor([1000.0])  # 1000 + 1e-3 is 1000.00098 in float32
    found = estimate(zo.CoordinateGradient(step=1e-3), lambda x: x.double().sum(1), center)
    assert float(found.gradient) == pytest.approx(1.0, rel=1e-6)


def test_a_step_that_does_not_move_the_centre_is_refused():
    with pytest.raises(zo.ArgumentError, match=r"Coordinate 1 is 1000000.0 in torch.float32; take a larger step"):
        zo.CoordinateGradient(step=1e-3).propose(torch.tensor([1.0, 1e6]), torch.Generator())


def test_steps_may_differ():
    steps = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    found = estimate(zo.CoordinateGradient(step=steps))
    torch.testing.assert_close(found.gradient, slope(CENTER) + steps**2)


def test_the_bias_falls_as_the_docstring_says():
    def bias(step, central):
        found = estimate(zo.CoordinateGradient(step=step, central=central), lambda x: x.exp().sum(1), CENTER[:3])
        return float((found.gradient - CENTER[:3].exp()).norm())

    assert bias(1e-3, True) / bias(5e-4, True) == pytest.approx(4, rel=0.01)
    assert bias(1e-3, False) / bias(5e-4, False) == pytest.approx(2, rel=0.01)


def test_only_active_coordinates_are_estimated():
    found = estimate(zo.CoordinateGradient(step=1e-2, active=torch.tensor([2, 0]), curvature=True))
    assert found.gradient[[1, 3]].tolist() == [0.0, 0.0]
    torch.testing.assert_close(found.gradient[[0, 2]], slope(CENTER)[[0, 2]] + 1e-4)
    torch.testing.assert_close(found.curvature[[0, 2]], 6 * CENTER[[0, 2]], rtol=1e-4, atol=1e-3)
    assert found.curvature[[1, 3]].isnan().all()


def test_the_centre_gives_value_and_curvature():
    found = estimate(zo.CoordinateGradient(step=1e-3, curvature=True))
    assert found.value == float(cubic(CENTER[None])[0])
    torch.testing.assert_close(found.curvature, 6 * CENTER, rtol=1e-3, atol=1e-3)


def test_without_the_centre_the_value_is_the_mean_of_the_pairs():
    found = estimate(zo.CoordinateGradient(step=1e-3))
    assert found.value == pytest.approx(float(cubic(CENTER[None])[0]), abs=1e-3)
    assert found.curvature is None


def test_half_a_pair_is_compared_with_the_evaluated_centre():
    found = estimate(zo.CoordinateGradient(step=1e-3, curvature=True), loss=[1, 6])
    torch.testing.assert_close(found.gradient, slope(CENTER), rtol=4e-3, atol=0)
    assert found.gradient[2] == pytest.approx(float(slope(CENTER)[2]), rel=1e-5)
    assert found.curvature[[0, 1]].isnan().all()
    assert found.diagnostics == {"lost": 2.0, "missing": 0.0}


def test_half_a_pair_is_compared_with_the_other_pairs():
    found = estimate(zo.CoordinateGradient(step=1e-3), lambda x: x.square().sum(1), loss=[0])
    assert found.gradient[0] == pytest.approx(2.0, abs=2.5e-3)
    torch.testing.assert_close(found.gradient[1:], 2 * CENTER[1:])


def test_a_lost_centre_leaves_the_pairs():
    found = estimate(zo.CoordinateGradient(step=1e-3, curvature=True), loss=[0])
    torch.testing.assert_close(found.gradient, slope(CENTER), rtol=1e-5, atol=1e-5)
    assert found.curvature is None
    assert found.value == pytest.approx(float(cubic(CENTER[None])[0]), abs=1e-3)


def test_a_coordinate_without_a_row_is_zero_and_counted():
    found = estimate(zo.CoordinateGradient(step=1e-3), loss=[1, 5])
    assert float(found.gradient[1]) == 0.0
    assert found.diagnostics == {"lost": 2.0, "missing": 1.0}
    found = estimate(zo.CoordinateGradient(step=1e-3, central=False), loss=[1])
    assert float(found.gradient[0]) == 0.0
    assert found.diagnostics == {"lost": 1.0, "missing": 1.0}


def test_half_pairs_alone_say_nothing_without_a_centre():
    with pytest.raises(zo.GradientError, match=r"none of the 4 coordinates has a difference left \(4 of 8"):
        estimate(zo.CoordinateGradient(), loss=[0, 1, 2, 3])


def test_forward_differences_need_their_centre():
    with pytest.raises(zo.GradientError, match="value at the centre is lost"):
        estimate(zo.CoordinateGradient(central=False), loss=[0])


@pytest.mark.parametrize(
    ("options", "loss"),
    [({}, ()), ({"central": False}, ()), ({"curvature": True}, (1,)), ({}, (0,)), ({}, (0, 4))],
)
def test_the_squared_error_is_what_repetition_finds(options, loss):
    estimator = zo.CoordinateGradient(step=0.5, noise=0.1, **options)
    generator = torch.Generator().manual_seed(0)
    found = [
        estimate(
            estimator,
            lambda x: x.sum(1) + 0.1 * torch.randn(len(x), dtype=x.dtype, generator=generator),
            loss=loss,
        )
        for _ in range(500)
    ]
    told = found[0].gradient != 0
    measured = torch.stack([(e.gradient - 1)[told].square().sum() for e in found]).mean()
    assert found[0].squared_error == pytest.approx(float(measured), rel=0.15)


def test_without_a_known_noise_there_is_no_squared_error():
    assert estimate(zo.CoordinateGradient()).squared_error is None


def test_the_price():
    assert zo.CoordinateGradient().evaluations(7) == 14
    assert zo.CoordinateGradient(curvature=True).evaluations(7) == 15
    assert zo.CoordinateGradient(central=False).evaluations(7) == 8
    assert zo.CoordinateGradient(active=torch.tensor([1, 2])).evaluations(7) == 4


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0.0}, "`step` must be a positive number"),
        ({"step": torch.tensor([1.0, -1.0])}, "`step` must have positive entries only"),
        ({"step": torch.tensor([1, 1])}, "`step` must be a floating tensor"),
        ({"active": [0, 1]}, "`active` must be a tensor of integers"),
        ({"active": torch.tensor([0.5])}, "`active` must be an int64 tensor"),
        ({"active": torch.tensor([1, 1])}, r"each at most once, found \[1, 1\]"),
        ({"active": torch.tensor([-1])}, "from 0 on"),
        ({"central": None}, "`central`"),
        ({"curvature": None}, "`curvature`"),
        ({"curvature": True, "central": False}, "`curvature` must be False when central is False"),
        ({"noise": -1.0}, "`noise`"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(zo.ArgumentError, match=message):
        zo.CoordinateGradient(**options)


def test_arguments_that_do_not_fit_the_centre_are_refused():
    with pytest.raises(zo.ArgumentError, match="`active` must lie below d=4, found 4"):
        zo.CoordinateGradient(active=torch.tensor([4])).propose(CENTER, torch.Generator())
    with pytest.raises(zo.ArgumentError, match="`step` must have one entry for each of 4 parameters"):
        zo.CoordinateGradient(step=torch.ones(3)).propose(CENTER, torch.Generator())


def test_probes_of_another_estimator_are_refused():
    probes = zo.RandomGradient(4).propose(CENTER, torch.Generator())
    with pytest.raises(zo.ArgumentError, match="`probes` must be what `propose` gave"):
        zo.CoordinateGradient().gradient(probes, torch.zeros(8).double())
