"""Rosenbrock's banana: a narrow, curved valley."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

import zograd as zo
from zograd.problems._arguments import whole
from zograd.problems._drawing import chart
from zograd.problems._problem import Picture, Problem

Point = NDArray[np.float64]


def rosenbrock(dimension: int = 2, squared: bool = False, seed: int = 0) -> Problem:
    r"""Follow a narrow, curved valley to its end.

    .. math:: f(x) = \sum_{i=1}^{d-1} 100 \, (x_{i+1} - x_i^2)^2 + (1 - x_i)^2

    Its least value is 0, at (1, ..., 1). In more than two dimensions the picture shows the first two coordinates,
    with the others where they are. Its residuals are the brackets, scaled so that their mean square is f.

    Squared, it is the two-dimensional task of the released ZeroGrads program, which compares f with its least value by
    a mean squared error: f(x)^2, flat around the end of the valley and very steep beside it, from a random start in
    [-1.5, 2] x [-0.5, 3]. It has one residual, f itself.

    Args:
        dimension: The number of parameters, d.
        squared: Whether the loss is f(x)^2, from a random start; f(x) by default, from (-1.2, 1, -1.2, ...).
        seed: Of the random start.

    Raises:
        ArgumentError: When the dimension is below 2.

    References:
        Rosenbrock, An automatic method for finding the greatest or least value of a function, Comput. J. 1960. Fischer
        and Ritschel, ZeroGrads: Learning Local Surrogates for Non-Differentiable Graphics, ACM Trans. Graph. 2024.
    """
    whole("dimension", dimension, 2, 1_000_000, "It is the number of parameters; try 2.")
    start = np.ones(dimension)
    start[::2] = -1.2
    if squared:
        lowest = np.full(dimension, -0.5)
        lowest[::2] = -1.5
        start = lowest + 3.5 * np.random.default_rng(seed).uniform(size=dimension)

    def residuals(points: Point) -> Point:
        if squared:
            return np.asarray(valley(points))[:, None]
        ahead, here = points[:, 1:], points[:, :-1]
        scaled: Point = np.sqrt(2 * dimension - 2) * np.concatenate([10.0 * (ahead - here**2), 1.0 - here], 1)
        return scaled

    def draw(point: Point, size: int) -> Picture:
        def plot(axes: Any) -> None:
            first, second = np.meshgrid(np.linspace(-2, 2, 121), np.linspace(-1.5, 3, 121))
            plane = np.broadcast_to(point, (*first.shape, dimension)).copy()
            plane[..., 0], plane[..., 1] = first, second
            axes.contourf(first, second, np.log10(valley(plane) + 1e-3), 24, cmap="Blues_r")
            axes.plot([1], [1], "x", color="white", markersize=9)
            axes.plot(*point[:2], "o", color="#d1495b", markersize=10)
            axes.set(xlabel="x[0]", ylabel="x[1]", xlim=(-2, 2), ylim=(-1.5, 3))

        return chart(size, plot)

    return Problem(
        name="rosenbrock",
        summary="follow a narrow, curved valley to its end",
        fun=zo.batched(lambda points: valley(points) ** 2 if squared else valley(points)),
        residuals=zo.batched(residuals),
        x0=start,
        loss="f(x)^2" if squared else "f(x)",
        bounds=(-5.0, 5.0),
        evaluations=1000 * dimension,
        minimum=0.0,
        gradient=(lambda point: 2.0 * valley(point) * slope(point)) if squared else slope,
        draw=draw,
        details={"dimension": str(dimension)},
    )


def valley(points: Point) -> Any:
    """Rosenbrock's function over the last axis."""
    ahead, here = points[..., 1:], points[..., :-1]
    return (100.0 * (ahead - here**2) ** 2 + (1.0 - here) ** 2).sum(-1)


def slope(point: Point) -> Point:
    """Its gradient, shape (d,)."""
    ahead, here = point[1:], point[:-1]
    result = np.zeros_like(point)
    result[:-1] += -400.0 * here * (ahead - here**2) - 2.0 * (1.0 - here)
    result[1:] += 200.0 * (ahead - here**2)
    return result
