"""One number, two valleys: the smallest problem that traps a descent."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

import zograd as zo
from zograd.problems._drawing import chart
from zograd.problems._problem import Picture, Problem

KNOTS = np.array([-100.0, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 100])
HEIGHTS = np.array([9, 7.5, 7.0, 6.5, 6, 4, 3.5, 0, 2, 1, 6, 8, 9])
FIRST, LAST = -2.0, 8.0

Line = NDArray[np.float64]


def toy() -> Problem:
    r"""Find the deeper of two valleys along a line.

    .. math:: f(x) = g(x)^2

    with g an Akima spline through 13 heights, the least of which is 0, at x = 4. A second valley, where f = 1, lies at
    x = 6, and the slope is gentle around x = 3. It is the one-dimensional example of the paper below, with the heights
    and the start of its released program.

    References:
        Fischer and Ritschel, ZeroGrads: Learning Local Surrogates for Non-Differentiable Graphics, ACM Trans. Graph.
        2024. Akima, A new method of interpolation and smooth curve fitting, J. ACM 1970.
    """

    def draw(point: Line, size: int) -> Picture:
        def plot(axes: Any) -> None:
            places = np.linspace(FIRST, LAST, 401)
            axes.plot(places, height(places) ** 2, color="#8090a0")
            axes.plot(point, height(point) ** 2, "o", color="#d1495b", markersize=10)
            axes.set(xlabel="x", ylabel="f(x)", xlim=(FIRST, LAST))

        return chart(size, plot)

    return Problem(
        name="toy",
        summary="find the deeper of two valleys along a line",
        fun=zo.batched(lambda points: height(points[:, 0]) ** 2),
        residuals=zo.batched(height),
        x0=np.array([1.1]),
        loss="f(x)",
        bounds=(FIRST, LAST),
        evaluations=400,
        minimum=0.0,
        draw=draw,
    )


def height(places: Line) -> Line:
    """The Akima spline g at places of any shape."""
    i = (np.searchsorted(KNOTS, places, side="right") - 1).clip(0, len(KNOTS) - 2)
    width, t = np.diff(KNOTS)[i], places - KNOTS[i]
    secant, left, right = SECANTS[i + 2], SLOPES[i], SLOPES[i + 1]
    bend = (3 * secant - 2 * left - right) / width
    twist = (left + right - 2 * secant) / width**2
    result: Line = HEIGHTS[i] + t * (left + t * (bend + t * twist))
    return result


def _secants() -> Line:
    """The slope of every interval, with two more at either end that go on as the last two change."""
    inner = np.diff(HEIGHTS) / np.diff(KNOTS)
    before, after = 2 * inner[0] - inner[1], 2 * inner[-1] - inner[-2]
    return np.array([2 * before - inner[0], before, *inner, after, 2 * after - inner[-1]])


def _slopes() -> Line:
    """Akima's slope at every knot: of the two secants beside it, the one whose own neighbour is alike counts more."""
    change = np.abs(np.diff(SECANTS))
    left, right, before, after = SECANTS[1:-2], SECANTS[2:-1], change[:-2], change[2:]
    total = before + after
    return np.where(total > 1e-12, (after * left + before * right) / np.where(total > 0, total, 1), (left + right) / 2)


SECANTS = _secants()
SLOPES = _slopes()
