"""A pilot: measure the noise at the starting point first, then choose how to descend."""

from collections.abc import Callable
from typing import Any, ClassVar, final

import torch

from zograd._checks import require
from zograd._parameters import Parameters
from zograd._probes import Dense, Probes
from zograd._typing import Values, Vector
from zograd.strategies._strategy import Step, Strategy

ROUNDING = 1e-12
"""A scatter below this share of the values is none."""


@final
class Pilot(Strategy):
    """Evaluate the start four times, and let the scatter decide which strategy goes on.

    A scatter below 1e-12 of the values is rounding, and counts as none.

    Cost: 4 evaluations.

    Args:
        parameters: What the points mean.
        decide: From the standard deviation of one value (0 for a program without noise) to the strategy.

    Attributes:
        chosen: What goes on, once the noise is known.
    """

    COST: ClassVar[int] = 4
    """Evaluations before the choice."""

    def __init__(self, parameters: Parameters, decide: Callable[[float], Strategy]) -> None:
        self.parameters = parameters
        self.decide = decide
        self.chosen: Strategy | None = None
        self.noise = 0.0
        self.best_value = float("inf")
        self.best_point = parameters.clip(parameters.initial.clone())

    @property
    def answer(self) -> tuple[Vector, float]:
        """What the chosen strategy answers."""
        return super().answer if self.chosen is None else self.chosen.answer

    def ask(self) -> Probes:
        """The start, some times over; then what the chosen strategy asks."""
        if self.chosen is not None:
            return self.chosen.ask()
        start = self.parameters.clip(self.parameters.initial.clone())
        return Probes(start, Dense(start.new_zeros(self.COST, len(start))))

    def tell(self, values: Values) -> Step:
        """Take the values of the start and choose; then hand on."""
        if self.chosen is None:
            must = f"have shape ({self.COST},), one value a probe asked for"
            require(values.shape == (self.COST,), "values", must, values)
            self.notice(values)
            told = values[values.isfinite()].double()
            noise = float(told.std()) if len(told) > 1 else 0.0
            self._choose(noise if noise > ROUNDING * float(told.abs().max() if len(told) else 0.0) else 0.0)
            lost = self.COST - len(told)
            value = float(told.mean()) if len(told) else None
            return Step(1, self.COST, value, self.best_value, self.best_point, lost, {"noise": self.noise})
        step = self.chosen.tell(values)
        self.best_value, self.best_point = step.best_value, step.best_point
        return Step(
            step.number + 1,
            step.evaluations + self.COST,
            step.value,
            step.best_value,
            step.best_point,
            step.lost,
            step.diagnostics,
        )

    def notice(self, values: Values) -> None:
        """Remember the best, in the chosen strategy too."""
        if self.chosen is None:
            super().notice(values)
        else:
            self.chosen.notice(values)
            self.best_value, self.best_point = self.chosen.best_value, self.chosen.best_point

    def _choose(self, noise: float) -> Strategy:
        self.noise, chosen = noise, self.decide(noise)
        chosen.best_value, chosen.best_point = self.best_value, self.best_point
        self.chosen = chosen
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """The noise, and the state of what was chosen for it."""
        return {
            "noise": self.noise,
            "chosen": None if self.chosen is None else self.chosen.state_dict(),
            "best_value": self.best_value,
            "best_point": self.best_point.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.best_value, self.best_point = state["best_value"], torch.clone(state["best_point"])
        self.chosen = None
        if state["chosen"] is not None:
            self._choose(state["noise"]).load_state_dict(state["chosen"])
