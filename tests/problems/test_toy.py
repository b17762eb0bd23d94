"""The toy against SciPy's Akima spline."""

import numpy as np
import pytest
from scipy.interpolate import Akima1DInterpolator

from zograd.problems import toy
from zograd.problems.toy import HEIGHTS, KNOTS, height


def test_the_spline_is_scipys() -> None:
    places = np.concatenate([np.linspace(-100, 100, 1001), np.linspace(-2, 8, 1001), KNOTS])
    np.testing.assert_allclose(height(places), Akima1DInterpolator(KNOTS, HEIGHTS)(places), atol=1e-12)


def test_it_has_two_valleys() -> None:
    problem = toy()
    assert problem.value(np.array([4.0])) == problem.minimum == 0.0
    assert problem.value(np.array([6.0])) == 1.0
    assert problem.value(problem.x0) == pytest.approx(35.010889, abs=1e-5)


def test_the_default_finds_the_deeper_one() -> None:
    assert toy().solve(300).x == pytest.approx([4.0], abs=1e-3)
