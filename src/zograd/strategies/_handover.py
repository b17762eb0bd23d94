"""A handover: one strategy for as long as it pays, another from the best point that it found."""

import math
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from zograd._parameters import Parameters
from zograd._probes import Probes
from zograd._typing import Values, Vector, Weights
from zograd.strategies._strategy import Step, Strategy

First = TypeVar("First", bound=Strategy)
Then = TypeVar("Then", bound=Strategy)


class Handover(Strategy, ABC, Generic[First, Then]):
    """The ``first`` strategy until it `pays` no more, then another from the best point.

    Args:
        first: What begins.

    Attributes:
        then: What goes on, once the first was left.
        left: The steps and evaluations of the first, when it was left.
    """

    def __init__(self, first: First) -> None:
        self.parameters = first.parameters
        self.first = first
        self.then: Then | None = None
        self.left = (0, 0)

    @abstractmethod
    def pays(self, step: Step) -> bool:
        """Whether the first strategy goes on after its ``step``."""

    @abstractmethod
    def next(self, parameters: Parameters) -> Then:
        """What goes on; ``parameters`` are the same, and start at the best point of the first."""

    @property
    def running(self) -> First | Then:
        """The strategy that asks."""
        return self.first if self.then is None else self.then

    @property
    def best_value(self) -> float:  # type: ignore[override]
        """The best loss of either."""
        return min(self.first.best_value, math.inf if self.then is None else self.then.best_value)

    @property
    def best_point(self) -> Vector:  # type: ignore[override]
        """Where that was."""
        ahead = self.then is not None and self.then.best_value < self.first.best_value
        return self.then.best_point if self.then is not None and ahead else self.first.best_point

    @property
    def answer(self) -> tuple[Vector, float]:
        """What the running one answers, if it is better than what came before."""
        if self.then is None:
            return self.first.answer
        return min(self.first.answer, self.then.answer, key=lambda found: found[1])

    def told(self, values: Values) -> Weights:
        """The losses, shape (n,), that the other takes of what the first takes."""
        return values

    def ask(self) -> Probes:
        """What the running one asks."""
        return self.running.ask()

    def notice(self, values: Values) -> None:
        """Remember the best of these values."""
        self.running.notice(values if self.then is None else self.told(values))

    def tell(self, values: Values) -> Step:
        """Hand the values to the running one; leave the first where it pays no more."""
        if self.then is None:
            step = self.first.tell(values)
            if not self.pays(step):
                self.left = (step.number, step.evaluations)
                self.then = self._made()
            return step
        step = self.then.tell(self.told(values))
        number, evaluations = step.number + self.left[0], step.evaluations + self.left[1]
        return Step(number, evaluations, step.value, self.best_value, self.best_point, step.lost, step.diagnostics)

    def _made(self) -> Then:
        return self.next(self.parameters.started_at(self.first.best_point))

    def state_dict(self) -> dict[str, Any]:
        """The state of both, and how far the first had come."""
        then = None if self.then is None else self.then.state_dict()
        return {"first": self.first.state_dict(), "then": then, "left": self.left}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.first.load_state_dict(state["first"])
        self.left, self.then = tuple(state["left"]), None
        if state["then"] is not None:
            self.then = self._made()
            self.then.load_state_dict(state["then"])
