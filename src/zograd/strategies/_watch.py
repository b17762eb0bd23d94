"""What a descent notices of its own steps: how far they go beyond the probes, and that there is nothing to see."""

import math
import warnings
from typing import Any, final

import numpy as np

from zograd._arrays import Array, array
from zograd._errors import ZogradWarning
from zograd._probes import Dense, Probes
from zograd.estimators import GradientEstimator
from zograd.estimators._average import flat_words
from zograd.estimators._surrogate import Surrogate

AT_ONCE, LATER = 1, 10
"""Gradients whose values are all equal before that is said: where nothing will change by itself, and anywhere else."""
UNEVEN = 1.01
"""Probes whose squared distances are within this ratio are equally far away."""


@final
class Watch:
    """Remembers how far the last gradient looked, and says once a run that the program is flat as far as that.

    It is said at once where every value since the start is the same, and an optimiser without trial steps would stay
    where it is. A step rule looks further away by itself, and has ten gradients to find something. Where other values
    were seen before, it is said after ten gradients in a row, unless a step rule is at work, which knows how to end, or
    all probes are equally far away, as at a minimum they may well have equal values.

    Args:
        adapts: Whether the optimiser looks further away by itself.

    Attributes:
        patience: Gradients that may see nothing but one value from the start on; ``None`` says nothing at all.
    """

    def __init__(self, adapts: bool) -> None:
        self.adapts = adapts
        self.patience: int | None = LATER if adapts else AT_ONCE
        self._now: dict[str, Any] = {"spread": 0.0, "level": None, "varied": False, "flat": 0, "said": False}

    def gradient(self, estimator: GradientEstimator, probes: Probes, told: Array) -> None:
        """Take the probes of a gradient and their values, shape (n,)."""
        if probes.quantity != "value":
            return
        s = self._now
        s["spread"] = _distance(probes)
        if s["said"] or self.patience is None or isinstance(estimator, Surrogate):  # which says it itself
            return
        level, equal = float(told[0]), told[0] == told[-1] and bool((told == told[0]).all())
        s["varied"] = s["varied"] or not equal or s["level"] not in (None, level)
        s["level"], s["flat"] = level, s["flat"] + 1 if equal and len(told) > 1 else 0
        if s["flat"] >= self.patience and (not s["varied"] or self._is_plateau(probes)):
            s["said"] = True
            warnings.warn(self._words(estimator, s["flat"] * len(told)), ZogradWarning, stacklevel=4)

    def _is_plateau(self, probes: Probes) -> bool:
        """Whether equal values after others are a plateau, on which nothing will change."""
        if self.adapts or self._now["flat"] < LATER:
            return False
        squares = probes.offsets.squared_norms(probes.center)
        squares = squares[squares > 0]
        return float(squares.max()) > UNEVEN * float(squares.min())

    def _words(self, estimator: GradientEstimator, values: int) -> str:
        if self.adapts:
            return (
                f"all {values} values are equal, now at a distance of {self._now['spread']:.3g} too: start elsewhere, "
                "widen the bounds, or check that the program depends on its parameters."
            )
        name = "spread" if hasattr(estimator, "spread") else "step"
        given = getattr(estimator, name, None)
        return flat_words(values, name, float(given) if isinstance(given, float | int) else self._now["spread"])

    def step_over_spread(self, length: float) -> dict[str, float]:
        """The length of a step over the distance of the probes of the last gradient (root mean square)."""
        return {"step_over_spread": length / self._now["spread"]} if self._now["spread"] > 0 else {}

    def state_dict(self) -> dict[str, Any]:
        """All that is remembered."""
        return dict(self._now)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._now = dict(state)


def _distance(probes: Probes) -> float:
    """How far the later half of the rows lies from the centre (a first row, if one), root mean square."""
    offsets, first = probes.offsets, len(probes) // 2
    if isinstance(offsets, Dense):  # a dot product, for a square of every entry would be kept otherwise
        rows = array(offsets.rows)[first:].ravel()
        square = float(np.dot(rows, rows)) / (len(probes) - first)
    else:
        square = float(offsets[first:].squared_norms(probes.center).mean())
    return math.sqrt(square)
