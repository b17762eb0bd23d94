"""The same gradient, whoever evaluates: all rows at once, one at a time, backwards, or in pieces."""

from collections.abc import Iterator

import pytest
import torch

import zograd as zo
from zograd.blackbox import batched, pointwise, torch_function
from zograd.evaluate import Evaluator, InProcess, evaluate, failure_policy

CENTER = torch.linspace(-1, 1, 5).double()

ESTIMATORS = [
    zo.RandomGradient(samples=4),
    zo.RandomGradient(samples=4, directions="orthogonal", central=False),
    zo.CoordinateGradient(),
    zo.CoordinateGradient(curvature=True, step=0.01),
    zo.SmoothedGradient(samples=4, importance="derivative"),
]


def function(point):
    return (point.sin() * torch.arange(1, 6)).sum() + point[0] * point[1]


class Backwards(Evaluator):
    """The pieces of an honest evaluator, last first."""

    def stream(self, blackbox, probes) -> Iterator:
        yield from reversed(list(InProcess().stream(blackbox, probes)))


def gradient(estimator, evaluator, blackbox):
    probes = estimator.propose(CENTER, torch.Generator().manual_seed(0))
    (values,) = evaluate(evaluator, blackbox, [probes], failure_policy("raise"))
    return estimator.gradient(probes, values).gradient


@pytest.fixture(scope="module")
def pool() -> Iterator[Evaluator]:
    with zo.Pool(workers=2) as workers:
        yield workers


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_every_evaluator_and_kind_of_black_box_gives_the_same_gradient(estimator, pool):
    boxes = [batched(torch.vmap(function)), pointwise(function), torch_function(function)]
    found = [gradient(estimator, e, box) for e in (InProcess(), Backwards(), pool) for box in boxes]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("vectorize", [True, False])
def test_the_forward_gradient_agrees_with_autograd_through_a_torch_function(vectorize):
    box = torch_function(function, vectorize=vectorize)
    estimator = zo.ForwardGradient(samples=5, directions="orthogonal")
    exact = torch.func.grad(function)(CENTER)
    for evaluator in (InProcess(), Backwards()):
        torch.testing.assert_close(gradient(estimator, evaluator, box), exact, rtol=1e-12, atol=1e-12)


def test_central_coordinates_agree_with_autograd_to_a_millionth():
    found = gradient(zo.CoordinateGradient(), InProcess(), torch_function(function))
    exact = torch.func.grad(function)(CENTER)
    assert float((found - exact).norm() / exact.norm()) < 1e-8
