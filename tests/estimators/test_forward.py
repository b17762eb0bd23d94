import pytest
import torch

import zograd as zo

CENTER = torch.linspace(-1, 1, 6).double()
SLOPES = torch.tensor([1.0, -2.0, 3.0, -1.5, 2.5, 0.5]).double()


def estimate(estimator, seed=0, loss=()):
    probes = estimator.propose(CENTER, torch.Generator().manual_seed(seed))
    slopes = probes.offsets.dense(CENTER) @ SLOPES
    slopes[list(loss)] = torch.nan
    return estimator.gradient(probes, slopes)


def test_its_rows_ask_for_derivatives_along_directions_of_unit_variance():
    probes = zo.ForwardGradient(3, "sphere").propose(CENTER, torch.Generator())
    assert probes.quantity == "derivative"
    torch.testing.assert_close(probes.offsets.squared_norms(CENTER), torch.full((3,), 6.0).double())


def test_one_sample_is_slope_times_direction():
    probes = zo.ForwardGradient().propose(CENTER, torch.Generator().manual_seed(0))
    u = probes.offsets.dense(CENTER)[0]
    found = estimate(zo.ForwardGradient())
    torch.testing.assert_close(found.gradient, (SLOPES @ u) * u)
    assert found.squared_error is None
    assert found.value is None


@pytest.mark.parametrize("directions", ["gaussian", "orthogonal"])
def test_the_squared_error_is_what_repetition_finds(directions):
    estimates = [estimate(zo.ForwardGradient(4, directions), seed=i) for i in range(600)]
    measured = torch.stack([(e.gradient - SLOPES).square().sum() for e in estimates]).mean()
    assert torch.tensor([e.squared_error for e in estimates]).mean() == pytest.approx(float(measured), rel=0.15)


def test_lost_directions_are_left_out():
    found = estimate(zo.ForwardGradient(6, "orthogonal"), loss=[1, 2])
    assert found.diagnostics == {"lost": 2.0}
    assert found.squared_error > 0
    with pytest.raises(zo.GradientError, match="each of the 2 directions"):
        estimate(zo.ForwardGradient(2), loss=[0, 1])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("options", [{"samples": 0}, {"directions": "cube"}])
def test_wrong_arguments_are_refused(options):
    with pytest.raises(zo.ArgumentError, match=f"`{next(iter(options))}`"):
        zo.ForwardGradient(**options)
