"""The network as a control variate: no bias, less variance, the same function when its units change."""

import numpy as np
import pytest
import torch

import zograd as zo
from zograd.estimators import _network
from zograd.estimators._network import Network


def waves(points):
    return points.double().sin().sum(1)


def visit(estimator, function, center, generator, times=1):
    for _ in range(times):
        probes = estimator.propose(center, generator)
        estimate = estimator.gradient(probes, function(probes.points()))
    return estimate


def smooth(generator, inputs=2):
    network = Network(inputs, 2, 8, 0, generator, smooth=True)
    network.weights[:] = torch.randn(len(network.weights), generator=generator).numpy() / 2
    return network


def test_a_new_network_is_zero(generator):
    assert not Network(2, 2, 8, 0, generator, smooth=True)(np.ones((3, 2), np.float32)).any()


def test_its_slope_is_its_derivative(generator):
    network, point, step = smooth(generator), np.array([[0.3, -0.7]], np.float32), np.float32(1e-2)
    for axis in range(2):
        move = step * np.eye(2, dtype=np.float32)[axis]
        difference = (network(point + move) - network(point - move))[0] / (2 * step)
        assert network.slope(point)[axis] == pytest.approx(difference, rel=1e-2)
    pair = np.concatenate([point, -point])
    np.testing.assert_allclose(network.slope(pair), (network.slope(point) + network.slope(-point)) / 2, rtol=1e-5)


def test_the_gradient_of_its_error_is_that_of_autograd(generator):
    network = smooth(generator)
    points, values = torch.randn(5, 2, generator=generator), torch.randn(5, generator=generator)
    trust = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.2])
    weights = torch.from_numpy(network.weights.copy()).requires_grad_()
    w1, b1, w2, b2, w3, b3 = weights.split([16, 8, 64, 8, 8, 1])
    out = (((points @ w1.view(8, 2).T + b1).tanh() @ w2.view(8, 8).T + b2).tanh() @ w3[:, None])[:, 0] + b3
    (trust * (out - values) ** 2).sum().backward()
    network.fit(network.forward(points.numpy()), values.numpy(), 1e-3, 1, trust.numpy())
    torch.testing.assert_close(torch.from_numpy(network.slopes), weights.grad, atol=1e-5, rtol=1e-4)


def test_a_network_taken_to_other_units_is_the_same_function(generator):
    network = smooth(generator)
    z = torch.randn(6, 2, generator=generator).numpy()
    before = network(z)
    shift = np.array([0.5, -1.0], np.float32)
    network.transport(shift, 0.25, 3.0, 2.0)
    np.testing.assert_allclose(network((z - shift) / 0.25) * 2 + 3, before, atol=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_it_adds_no_bias_and_lowers_the_variance(generator):
    center, spread = torch.tensor([0.5, -1.0]).double(), 0.3
    truth = center.cos() * np.exp(-(spread**2) / 2)  # of the smoothed program
    estimator, plain = zo.NeuralSurrogate(spread=spread, samples=8), zo.RandomGradient(samples=8, step=spread)
    visit(estimator, waves, center, generator, times=150)
    told = [visit(estimator, waves, center, generator) for _ in range(300)]
    learned = torch.stack([estimate.gradient for estimate in told])
    drawn = torch.stack([visit(plain, waves, center, generator).gradient for _ in range(300)])
    error = learned.std(0) / 300**0.5
    assert bool(((learned.mean(0) - truth).abs() < 4 * error + 1e-3).all())
    assert float(learned.var(0).sum()) < 0.1 * float(drawn.var(0).sum())
    assert told[-1].diagnostics["r_squared"] > 0.9
    assert sum(e.squared_error for e in told) / 300 == pytest.approx(float(learned.var(0).sum()), rel=0.5)


@pytest.mark.usefixtures("unchecked")
def test_many_parameters_have_a_linear_surrogate(generator):
    slopes = torch.linspace(-1, 1, 50, dtype=torch.float64)
    estimator = zo.NeuralSurrogate(samples=10)
    first = visit(estimator, lambda x: x @ slopes, torch.zeros(50).double(), generator)
    last = visit(estimator, lambda x: x @ slopes, torch.zeros(50).double(), generator, times=40)
    assert float((first.gradient - slopes).norm()) > 1
    assert float((last.gradient - slopes).norm()) < 0.1
    assert last.squared_error < 0.01 * first.squared_error


@pytest.mark.usefixtures("unchecked")
def test_a_useless_surrogate_is_not_believed(generator):
    estimator, noise = zo.NeuralSurrogate(samples=4), torch.Generator().manual_seed(1)
    told = []
    for _ in range(60):
        probes = estimator.propose(torch.zeros(2).double(), generator)
        values = torch.randn(8, generator=noise).double()
        told.append(estimator.gradient(probes, values).diagnostics["belief"])
    assert sum(told[20:]) / 40 < 0.5


@pytest.mark.parametrize("dimension", [2, 50])
def test_a_restored_surrogate_tells_the_same(dimension, generator):
    first, second = zo.NeuralSurrogate(), zo.NeuralSurrogate()
    assert first.state_dict() == {}
    center = torch.zeros(dimension)
    first.propose(center, generator)
    second.load_state_dict(first.state_dict())
    visit(first, waves, center, generator, times=4)
    second.load_state_dict(first.state_dict())
    other = torch.Generator()
    other.set_state(generator.get_state())
    ends = [visit(e, waves, center + 0.1, g, times=3) for e, g in ((first, generator), (second, other))]
    assert torch.equal(ends[0].gradient, ends[1].gradient)
    assert ends[0].diagnostics == ends[1].diagnostics
    second.load_state_dict({})
    assert second.state_dict() == {}


def test_lost_rows_are_left_out(generator):
    estimator = zo.NeuralSurrogate(samples=6)
    probes = estimator.propose(torch.zeros(2).double(), generator)
    values = waves(probes.points())
    values[[1, 8]] = torch.nan
    assert estimator.gradient(probes, values).diagnostics["lost"] == 2
    assert len(estimator.state_dict()["replay"]["rows"]) == 10
    with pytest.raises(zo.GradientError, match="evaluations were lost"):
        estimator.gradient(probes, torch.full((12,), torch.nan))


def test_one_value_and_a_flat_start(generator):
    estimator = zo.NeuralSurrogate(samples=2)
    probes = estimator.propose(torch.zeros(2).double(), generator)
    with pytest.warns(zo.ZogradWarning, match="all 4 values are equal"):
        estimate = estimator.gradient(probes, torch.ones(4).double())
    assert float(estimate.gradient.norm()) == 0


@pytest.mark.parametrize("wrong", [{"spread": 0.0}, {"width": 0}, {"window": 0}, {"fits": 0}, {"rate": 0.0}])
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments(wrong):
    with pytest.raises(zo.ArgumentError, match=f"`{next(iter(wrong))}` must"):
        zo.NeuralSurrogate(**wrong)


def test_adam_is_the_same_in_blocks(generator, monkeypatch):
    points, values = torch.randn(5, 2, generator=generator).numpy(), torch.randn(5, generator=generator).numpy()
    weights = []
    for block in (1, 7, 2**14):
        monkeypatch.setattr(_network, "BLOCK", block)
        network = smooth(torch.Generator().manual_seed(0))
        network.fit(network.forward(points), values, 1e-2, 3)
        weights.append(torch.from_numpy(network.weights))
    assert torch.equal(weights[0], weights[2])
    assert torch.equal(weights[1], weights[2])
