"""The released ZeroGrads, weight for weight.

The numbers in recorded/zerograds.npz come from the released code (github.com/mfischer-ucl/zerograds at 7490db8): after
``torch.manual_seed(42)`` its create_sampler and NeuralProxy are made, and its loop (sample, gradient, Adam step, k_phi
updates) runs 200 times from ``*_start``, on the functions below, squared. Kept are the network's weights in the order
weight, bias, layer by layer, and the last centre.
"""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

import zograd as zo

RECORDED = np.load(Path(__file__).parent / "recorded" / "zerograds.npz")


def rosenbrock(points):
    x, y = points.T
    return ((1 - x) ** 2 + 100 * (y - x**2) ** 2) ** 2


def waves(points):
    return (0.5 * (points.double() * torch.arange(1, points.shape[1] + 1)).sin().sum(1)).float() ** 2


CASES = {
    "rosenbrock": (rosenbrock, 5e-4, zo.PublishedSurrogate(unit=4.0)),
    "encoded": (waves, 1e-3, zo.PublishedSurrogate(samples=10, layers=4, width=16, bands=6)),
}


def descend(estimator, function, start, rate, steps, generator):
    center = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([center], lr=rate)
    for _ in range(steps):
        probes = estimator.propose(center, generator)
        center.grad = estimator.gradient(probes, function(probes.points())).gradient
        optimizer.step()
    return center.detach()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("unchecked")
def test_the_weights_after_200_steps_are_those_of_the_released_code(name):
    function, rate, estimator = CASES[name]
    start = torch.from_numpy(RECORDED[f"{name}_start"])
    generator = torch.Generator().manual_seed(42)
    center = descend(estimator, function, start, rate, 200, generator)
    estimator.propose(center, generator)  # which fits the last samples
    weights = estimator.state_dict()["network"]["weights"]
    torch.testing.assert_close(weights, torch.from_numpy(RECORDED[f"{name}_weights"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(center, torch.from_numpy(RECORDED[f"{name}_center"]), atol=1e-5, rtol=0)


def test_the_first_gradient_is_that_of_an_untrained_network(generator):
    estimator = zo.PublishedSurrogate()
    probes = estimator.propose(torch.ones(3), generator)
    one = estimator.gradient(probes, torch.ones(8)).gradient
    other = estimator.gradient(probes, torch.arange(8.0)).gradient
    assert torch.equal(one, other)
    assert 0 < float(one.norm()) < 1


@pytest.mark.parametrize("bands", [0, 2])
def test_the_slope_is_the_derivative_of_the_network(bands, generator):
    estimator = zo.PublishedSurrogate(bands=bands, width=8, unit=2.0, smoothing=0.0, antithetic=False)
    descend(estimator, waves, torch.ones(3), 1e-3, 20, generator)
    point, step = torch.tensor([0.3, -0.2, 0.7]), 1e-2
    network = estimator._network
    for axis in range(3):
        move = step * torch.eye(3)[axis]
        ahead, behind = (network(((point + sign * move) / 2.0)[None].numpy())[0] for sign in (1, -1))
        assert (ahead - behind) / (2 * step) == pytest.approx(float(estimator.slope(point)[axis]), rel=2e-2, abs=1e-3)


def test_pairs_are_mirrored_and_then_smoothed(generator):
    plain = zo.PublishedSurrogate(smoothing=0.0).propose(torch.zeros(2), generator).points()
    assert torch.equal(plain[0::2], -plain[1::2])
    smoothed = zo.PublishedSurrogate(samples=500).propose(torch.zeros(2), generator).points()
    assert float((smoothed[0::2] + smoothed[1::2]).std()) == pytest.approx(2**0.5 * 0.033, rel=0.1)
    assert len(zo.PublishedSurrogate(samples=3, antithetic=False).propose(torch.zeros(2), generator)) == 3


def test_a_restored_surrogate_goes_on_where_it_was(generator):
    first, second = zo.PublishedSurrogate(), zo.PublishedSurrogate()
    assert first.state_dict() == {}
    center = descend(first, rosenbrock, torch.zeros(2), 1e-2, 5, generator)
    second.load_state_dict(first.state_dict())
    other = torch.Generator()
    other.set_state(generator.get_state())
    ends = [descend(e, rosenbrock, center, 1e-2, 5, g) for e, g in ((first, generator), (second, other))]
    assert torch.equal(*ends)
    second.load_state_dict({})
    assert float(second.slope(center).norm()) == 0
    untold = zo.PublishedSurrogate()
    untold.propose(center, generator)
    second.load_state_dict(untold.state_dict())
    assert second.state_dict()["unseen"] is None


def test_lost_rows_are_left_out(generator):
    estimator = zo.PublishedSurrogate()
    probes = estimator.propose(torch.zeros(2), generator)
    values = rosenbrock(probes.points())
    values[2] = torch.nan
    estimate = estimator.gradient(probes, values)
    assert estimate.diagnostics["lost"] == 1
    assert len(estimator.state_dict()["unseen"][1]) == 7
    with pytest.raises(zo.GradientError, match="all 8 evaluations were lost"):
        estimator.gradient(probes, torch.full((8,), torch.nan))


def test_fresh_samples_tell_how_much_is_explained(generator):
    estimator = zo.PublishedSurrogate(samples=16, smoothing=0.0, rate=1e-2)
    told = []
    for _ in range(100):
        probes = estimator.propose(torch.zeros(2), generator)
        told.append(estimator.gradient(probes, probes.points().sum(1) + 1).diagnostics["r_squared"])
    assert told[0] < 0.5 < 0.9 < told[-1]
    flat = estimator.propose(torch.zeros(2), generator)
    assert "r_squared" not in estimator.gradient(flat, torch.ones(32)).diagnostics


def test_repeated_steps_follow_one_network():
    def run(steps):
        rule = functools.partial(zo.optim.SurrogateAdam, lr=1e-2, steps=steps)
        descent = zo.Descent(torch.zeros(2), estimator=zo.PublishedSurrogate(), optimizer=rule)
        descent.tell(rosenbrock(descent.ask().points()))
        return descent.center.detach().norm()

    # Adam's first steps all have the length of its rate.
    assert float(run(3)) == pytest.approx(3 * float(run(1)), rel=0.1)


def test_repeated_steps_need_a_surrogate():
    descent = zo.Descent(torch.zeros(2), estimator=zo.RandomGradient(), optimizer=zo.optim.SurrogateAdam)
    with pytest.raises(zo.ArgumentError, match="must be a PublishedSurrogate"):
        descent.ask()


@pytest.mark.parametrize(
    "wrong",
    [{"spread": 0}, {"samples": 0}, {"smoothing": -1}, {"layers": 0}, {"bands": -1}, {"rate": 0}, {"antithetic": 1}],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments(wrong):
    with pytest.raises(zo.ArgumentError, match=f"`{next(iter(wrong))}` must"):
        zo.PublishedSurrogate(**wrong)


def test_values_without_probes_are_refused():
    with pytest.raises(zo.ArgumentError, match="`probes` must be what"):
        zo.PublishedSurrogate().gradient(zo.Probes(torch.zeros(2), zo.Dense(torch.zeros(3, 2))), torch.zeros(3))
