"""Rule zero: every estimator, in every mode. A new estimator is one line here."""

import pytest
import torch

import zograd as zo
from zograd.estimators import _directions
from zograd.testing import assert_conforms
from zograd.testing._promises import PROMISES
from zograd.testing._right_size import RIGHT_SIZE, lost, permutation
from zograd.testing._trial import Trial

# Thousands of gradients a case: shapes are checked in tests/estimators.
pytestmark = pytest.mark.usefixtures("unchecked")

ALL = ("gaussian", "sphere", "rademacher", "orthogonal")

FRAME = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]

CASES = [
    *((zo.RandomGradient(directions=d, central=c), {"order": 2}) for d in ALL for c in (True, False)),
    (zo.RandomGradient(samples=1, directions="rademacher"), {"order": 2, "dimension": 2}),  # SPSA
    (zo.RandomGradient(samples=9, directions="orthogonal"), {"order": 2, "dimension": 4}),  # more samples than d
    *((zo.ForwardGradient(samples=8, directions=d), {}) for d in ALL),
    (zo.ForwardGradient(), {"dimension": 2}),
    (zo.CoordinateGradient(), {}),
    (zo.CoordinateGradient(central=False), {}),
    (zo.CoordinateGradient(step=1e-3), {"order": 2}),
    (zo.CoordinateGradient(step=1e-3, central=False), {"order": 1}),
    (zo.CoordinateGradient(step=1e-3, curvature=True), {"order": 2}),
    (zo.CoordinateGradient(step=torch.full((6,), 0.01).double(), noise=1.0), {"order": 2}),
    (zo.CoordinateGradient(step=1e-3, active=torch.tensor([5, 0, 2])), {"order": 2, "active": [0, 2, 5]}),
    (zo.FrameGradient(), {"order": 2}),
    (zo.FrameGradient(step=1e-3, lower=torch.full((6,), -9.0), upper=torch.full((6,), 9.0)), {"order": 2}),
    (zo.FrameGradient(step=1e-3, lower=torch.full((2,), -9.0)), {"order": 2, "dimension": 2}),
    *(
        (zo.SmoothedGradient(importance=i, antithetic=a), {"order": 2, "dimension": d})
        for i in ("kernel", "derivative")
        for a in (True, False)
        for d in (1, 5)
    ),
]


@pytest.mark.parametrize(("estimator", "options"), CASES, ids=lambda x: None if isinstance(x, dict) else repr(x)[:90])
def test_an_estimator_conforms(estimator, options):
    assert_conforms(estimator, **options)


SURROGATES = [
    (zo.PolynomialSurrogate(samples=4), {"dimension": 4}),
    (zo.PolynomialSurrogate(degree="diagonal"), {"dimension": 3}),
    (zo.PolynomialSurrogate(degree="linear", window=24), {}),
    (zo.NearestNeighbourGradient(), {}),
    (zo.NeuralSurrogate(), {}),
    (zo.NeuralSurrogate(), {"dimension": 10}),
    (zo.PublishedSurrogate(rate=1e-2, samples=8), {"level_free": False}),
]


@pytest.mark.parametrize(("estimator", "options"), SURROGATES, ids=lambda x: repr(x)[:90])
def test_a_surrogate_conforms(estimator, options):
    assert_conforms(estimator, surrogate=True, **options)


@pytest.mark.parametrize(
    ("estimator", "order"),
    [
        (zo.RandomGradient(samples=4), 2),
        (zo.RandomGradient(samples=4, directions="rademacher", central=False), 2),
        (zo.ForwardGradient(samples=4, directions="sphere"), 1),
        (zo.SmoothedGradient(samples=4, importance="derivative"), 2),
    ],
    ids=lambda x: repr(x)[:90],
)
def test_directions_regenerated_from_seeds_conform(estimator, order, monkeypatch):
    monkeypatch.setattr(_directions, "SEEDED_ENTRIES", 0)
    monkeypatch.setattr(_directions, "SEEDED_DIMENSION", 1)
    probes = estimator.propose(torch.zeros(2), torch.Generator())
    assert isinstance(probes.offsets, zo.Seeded)
    assert_conforms(estimator, order=order, dimension=2)


@pytest.mark.parametrize(
    "estimator",
    [
        zo.FrameGradient(step=torch.full((6,), 0.01).double(), basis=FRAME, noise=1.0),
        zo.FrameGradient(step=1e-3, basis=FRAME, lower=torch.full((6,), -9.0), upper=torch.full((6,), 9.0)),
    ],
    ids=["free", "bounds"],
)
def test_a_turned_frame_conforms(estimator):
    """Without two checks, which know axes alone.

    Of lost rows: what is missing is a direction, which no entry shows; tests/estimators/test_frame.py looks along the
    frame. Of permutation: a frame does not turn with the names, so that the bias, O(step^2), differs.
    """
    trial = Trial(estimator, 6, 2, list(range(6)), None, 0)
    for check in (*PROMISES, *RIGHT_SIZE):
        if check not in (lost, permutation):
            check(trial)
