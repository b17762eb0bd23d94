"""What a problem is: a program, where to start, and how to look at a point."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

import numpy as np
import torch
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
        fun: The program: takes one point in the structure of ``x0``, returns the loss, one number; or a
            `zograd.batched` black box of it, where many points at once cost less. `value` takes either.
        x0: Where to start: whatever `zograd.Parameters` takes.
        loss: What the number is, as the label of an axis.
        bounds: As for `zograd.minimize`.
        scale: As for `zograd.minimize`.
        integers: As for `zograd.minimize`.
        choices: As for `zograd.minimize`.
        evaluations: A budget with which the default method does well.
        minimum: The least value that there is, where it is known (else ``None``).
        residuals: The program's outputs minus their goals, where it has more than one: a `zograd.batched` black box
            from points, (n, d) where ``x0`` is a vector, to a floating tensor of shape (n, *out), a picture where the
            outputs are one, such that ``fun`` is the mean of the squares of a row. One evaluation of it costs one of
            ``fun``, and says as many times as much as there are outputs.
        noise: Whether the program draws random numbers, so that one point has many values. It draws them from torch's
            global generator, which a `zograd.Pool` seeds for every call; a batched program draws once a call, so that
            the points of one wave, and with them both halves of a difference, see the same numbers.
        gradient: The true gradient at a point, where there is one (else ``None``); for checks, never for the search.
        draw: A point as an RGB picture, given the longer side in pixels.
        target: What the picture should become, given the longer side in pixels, where there is such a thing.
        settings: What `solve` passes on to `zograd.minimize` beside the above, such as an estimator.
        details: More facts for the report, by name.
    """

    name: str
    summary: str
    fun: Callable[[Any], float] | zo.BlackBox
    x0: Any
    loss: str
    draw: Callable[[Any, int], Picture]
    bounds: Any = None
    scale: Any = None
    integers: Any = None
    choices: Any = None
    evaluations: int = 1000
    minimum: float | None = None
    residuals: zo.BlackBox | None = None
    noise: bool = False
    gradient: Callable[[Any], Any] | None = None
    target: Callable[[int], Picture] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)

    def parameters(self) -> zo.Parameters:
        """The start, bounds, scale and the rest as `zograd.Parameters`, which decode the points of a run's history."""
        return zo.Parameters(
            self.x0, bounds=self.bounds, scale=self.scale, integers=self.integers, choices=self.choices
        )

    def value(self, point: Any) -> float:
        """The loss at one point in the structure of ``x0``, whatever kind ``fun`` is of. Cost: 1 evaluation."""
        if isinstance(self.fun, zo.BlackBox):
            return float(self._one(self.fun, point))
        return float(self.fun(point))

    def residual(self, point: Any) -> torch.Tensor:
        """The residuals at one point in the structure of ``x0``, in their shape. Cost: 1 evaluation.

        Raises:
            ArgumentError: When the program has one output only.
        """
        return self._one(self._outputs, point)

    @property
    def _outputs(self) -> zo.BlackBox:
        if self.residuals is None:
            raise zo.ArgumentError(
                f"`problem` must have residuals, found {self.name!r}, whose program returns one number. Use `value` "
                f"and `solve`.",
                argument="problem",
                found=self.name,
            )
        return self.residuals

    def _one(self, box: zo.BlackBox, point: Any) -> torch.Tensor:
        # Not through `parameters`: the way to internal units and back may change the last bit.
        plain = zo.Parameters(point, integers=self.integers, choices=self.choices)
        over = getattr(box, "over", None)
        return (box if over is None else over(plain))(plain.initial[None])[0]

    def solve(self, evaluations: int | None = None, **settings: Any) -> zo.Result:
        """Minimise it: `zograd.minimize` with the problem's own settings unless others are given.

        Args:
            evaluations: The budget; the problem's own by default.
            **settings: Any keyword of `zograd.minimize`.
        """
        budget = self.evaluations if evaluations is None else evaluations
        return zo.minimize(self.fun, self.parameters(), evaluations=budget, **{**self.settings, **settings})

    def fit(self, evaluations: int | None = None, **settings: Any) -> zo.Result:
        """Minimise it by its outputs, each of which is modelled on its own: `zograd.minimize_least_squares`.

        Args:
            evaluations: The budget; the problem's own by default.
            **settings: Any keyword of `zograd.minimize_least_squares`.

        Raises:
            ArgumentError: When the program has one output only.
        """
        budget = self.evaluations if evaluations is None else evaluations
        return zo.minimize_least_squares(self._outputs, self.parameters(), evaluations=budget, **settings)
