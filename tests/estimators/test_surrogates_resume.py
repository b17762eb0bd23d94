"""What a surrogate has learned outlives the run that learned it."""

import functools

import pytest
import torch

import zograd as zo

ADAM = functools.partial(torch.optim.Adam, lr=0.02)
CASES = [
    (lambda: zo.PolynomialSurrogate(samples=2), zo.optim.TrustRegion),
    (lambda: zo.PolynomialSurrogate(samples=2, degree="linear"), ADAM),
    (lambda: zo.NearestNeighbourGradient(samples=2), ADAM),
    (lambda: zo.NeuralSurrogate(samples=2), ADAM),
    (lambda: zo.PublishedSurrogate(samples=2), functools.partial(zo.optim.SurrogateAdam, lr=0.02, steps=2)),
]


def program(x):
    return (x[0] - 0.3) ** 2 + 3 * (x[1] + x[0]) ** 2


@pytest.mark.parametrize(("make", "rule"), CASES, ids=lambda x: getattr(x, "__name__", None))
@pytest.mark.usefixtures("unchecked")
def test_a_resumed_run_is_that_of_one_never_interrupted(make, rule, tmp_path):
    def run(path, evaluations):
        return zo.minimize(program, [1.0, 1.0], estimator=make(), optimizer=rule, evaluations=evaluations, run=path)

    whole = run(tmp_path / "whole", 90)
    run(tmp_path / "parts", 41)
    parts = run(tmp_path / "parts", 90)
    assert "Resumed" in parts.message
    assert parts.fun == whole.fun
    assert [step.diagnostics for step in parts.history] == [step.diagnostics for step in whole.history]
