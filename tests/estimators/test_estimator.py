import pytest
import torch

import zograd as zo


def test_signal_to_noise_takes_the_noise_out_of_the_signal():
    gradient = torch.tensor([3.0, 4.0])
    assert zo.Estimate(gradient, squared_error=5.0).signal_to_noise == pytest.approx(4.0)
    assert zo.Estimate(gradient, squared_error=30.0).signal_to_noise == 0.0


@pytest.mark.parametrize("error", [None, 0.0])
def test_signal_to_noise_is_unknown_without_a_squared_error(error):
    assert zo.Estimate(torch.ones(2), squared_error=error).signal_to_noise is None


def test_an_estimator_that_learns_nothing_has_an_empty_state():
    estimator = zo.RandomGradient()
    assert estimator.state_dict() == {}
    estimator.load_state_dict({})
    with pytest.raises(zo.ArgumentError, match="RandomGradient learns nothing"):
        estimator.load_state_dict({"weights": 1})
