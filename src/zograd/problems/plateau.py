"""The plateau: a landscape whose derivative is zero almost everywhere."""

from typing import Any

import numpy as np

import zograd as zo
from zograd.problems._arguments import whole
from zograd.problems._drawing import chart
from zograd.problems._problem import Picture, Problem

WIDEST = 10.0


def plateau(levels: int = 12) -> Problem:
    r"""Walk down a staircase whose slope is zero almost everywhere.

    .. math:: f(x) = \frac1n \left\lfloor n \left(1 - e^{-(x - 2)^2 / 18}\right) \right\rfloor

    with n the number of levels. Automatic differentiation gives zero; the gradient of the
    function smoothed over a step or two, which is what this problem asks for by default, points down.

    Args:
        levels: How many steps there are from the top to the bottom, n.

    Raises:
        ArgumentError: When there are too few or too many levels.
    """
    whole("levels", levels, 2, 1000, "Fewer levels are wider steps; try 12.")

    def landscape(x: float) -> float:
        return float(np.floor(levels * (1.0 - np.exp(-((x - 2.0) ** 2) / 18.0))) / levels)

    def draw(x: float, size: int) -> Picture:
        def plot(axes: Any) -> None:
            places = np.linspace(-WIDEST, WIDEST, 2001)
            axes.plot(places, [landscape(place) for place in places], color="#8090a0")
            axes.plot([x], [landscape(x)], "o", color="#d1495b", markersize=10)
            axes.set(xlabel="x", ylabel="f(x)", xlim=(-WIDEST, WIDEST), ylim=(-0.05, 1.05))

        return chart(size, plot)

    return Problem(
        name="plateau",
        summary="walk down a staircase whose slope is zero almost everywhere",
        fun=landscape,
        x0=-6.0,
        loss="height",
        bounds=(-WIDEST, WIDEST),
        evaluations=400,
        settings={"estimator": zo.SmoothedGradient(spread=0.1, samples=4, importance="derivative")},
        minimum=0.0,
        gradient=lambda x: 0.0,
        draw=draw,
        details={"levels": str(levels)},
    )
