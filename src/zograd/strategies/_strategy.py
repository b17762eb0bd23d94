"""Strategies: what to evaluate next, and what to make of it. No execution inside."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from zograd._arrays import array
from zograd._parameters import Parameters
from zograd._probes import Probes
from zograd._typing import Values, Vector, Weights


@final
@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """What one ``tell`` led to.

    Args:
        number: Steps told so far, counted from 1.
        evaluations: Rows sent out so far, lost ones included.
        value: The value at the centre that the probes stood around, where it is known.
        best_value: The best value seen so far; infinity before the first.
        best_point: Where that was, shape (d,), in internal units (`Parameters.decode` gives the user's structure).
        lost: Rows of this step that were lost.
        diagnostics: Named numbers, where the method knows them: ``signal_to_noise`` and ``half_cosine`` of the
            gradient, ``r_squared`` of a surrogate's forecast, ``gradient_norm``, ``step_length``,
            ``step_over_spread``, and more by method.
    """

    number: int
    evaluations: int
    value: float | None
    best_value: float
    best_point: Vector
    lost: int = 0
    diagnostics: dict[str, float] = field(default_factory=dict)


class Strategy(ABC):
    """Asks for evaluations and is told their values: the part of an optimiser that decides.

    Attributes:
        parameters: What the points mean; ``parameters.decode(point)`` is what the user's program takes.
        best_value: The best value told or noticed so far.
        best_point: Where that was, shape (d,).
        shape: The shape of one output that it takes: ``()`` for a loss; ``None`` for any, found with the first.
    """

    shape: tuple[int, ...] | None = ()
    parameters: Parameters
    best_value: float
    best_point: Vector

    @property
    def answer(self) -> tuple[Vector, float]:
        """The point to return, shape (d,), and its value: the best seen, unless the strategy knows of noise."""
        return self.best_point, self.best_value

    def losses(self, values: Values) -> Weights:
        """The loss of each output, shape (n,), NaN where it was lost: the outputs themselves where they are numbers."""
        return values

    @abstractmethod
    def ask(self) -> Probes:
        """The next points to evaluate. Asking again before `tell` gives the same probes."""

    @abstractmethod
    def tell(self, values: Values) -> Step:
        """Take the values of the probes last asked for, shape (n,), NaN where lost, and move on."""

    def notice(self, values: Values) -> None:
        """Remember the best of ``values``, at the probes last asked for, without making a step of it.

        It is what an interrupted wave is worth: NaN where nothing came back.
        """
        row, value = best_row(values)
        if value < self.best_value:
            self.best_value = value
            self.best_point = self.parameters.clip(self.ask()[row : row + 1].points()[0])

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that the next `ask` depends on, as tensors, numbers and plain containers of them."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave: the next `ask` is the same, bit for bit."""


StrategyFactory = Callable[..., Strategy]
"""A `Strategy` class, or a ``functools.partial`` of one: called with the `Parameters` and ``seed=``, it makes one."""


def best_row(values: Values) -> tuple[int, float]:
    """The row of the least value, and that value; infinity where all are lost."""
    known = array(values)
    row = int(known.argmin())
    if math.isfinite(value := float(known[row])):  # argmin gives NaN and minus infinity first
        return row, value
    known = np.where(np.isfinite(known), known, math.inf)
    row = int(known.argmin())
    return row, float(known[row])
