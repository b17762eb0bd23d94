"""What a problem is: a program, where to start, and how to look at a point."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

import zograd as zo

Picture: TypeAlias = NDArray[np.uint8]
"""An RGB picture: shape (height, width, 3), one byte a channel."""


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """A program to minimise, without a gradient, and what is needed to start on it and to look at it.

    Args:
        name: One word, as the command line names it.
        summary: One line: what is to be found.
        fun: The program: takes one point in the structure of ``x0``, returns the loss, one number.
        x0: Where to start: whatever `zograd.Parameters` takes.
        loss: What the number is, as the label of an axis.
        bounds: As for `zograd.minimize`.
        scale: As for `zograd.minimize`.
        evaluations: A budget with which the default method does well.
        minimum: The least value that there is, where it is known (else ``None``).
        gradient: The true gradient at a point, where there is one (else ``None``); for checks, never for the search.
        draw: A point as an RGB picture, given the longer side in pixels.
        target: What the picture should become, given the longer side in pixels, where there is such a thing.
        settings: What `solve` passes on to `zograd.minimize` beside the above, such as an estimator.
        details: More facts for the report, by name.
    """

    name: str
    summary: str
    fun: Callable[[Any], float]
    x0: Any
    loss: str
    draw: Callable[[Any, int], Picture]
    bounds: Any = None
    scale: Any = None
    evaluations: int = 1000
    minimum: float | None = None
    gradient: Callable[[Any], Any] | None = None
    target: Callable[[int], Picture] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)

    def parameters(self) -> zo.Parameters:
        """The start, bounds and scale as `zograd.Parameters`, which decode the points of a run's history."""
        return zo.Parameters(self.x0, bounds=self.bounds, scale=self.scale)

    def solve(self, evaluations: int | None = None, **settings: Any) -> zo.Result:
        """Minimise it: `zograd.minimize` with the problem's own settings unless others are given.

        Args:
            evaluations: The budget; the problem's own by default.
            **settings: Any keyword of `zograd.minimize`.
        """
        budget = self.evaluations if evaluations is None else evaluations
        return zo.minimize(self.fun, self.parameters(), evaluations=budget, **{**self.settings, **settings})
