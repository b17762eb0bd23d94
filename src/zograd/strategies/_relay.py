"""A relay: Gauss-Newton while its steps pay, then the loss alone."""

import math
from functools import partial
from typing import Any, final

from zograd._parameters import Parameters
from zograd._typing import Values, Weights
from zograd.estimators import CoordinateGradient
from zograd.optim import BlockNewton
from zograd.strategies._choose import LARGEST_FRAME
from zograd.strategies._descent import Descent
from zograd.strategies._gauss_newton import GaussNewton
from zograd.strategies._handover import Handover
from zograd.strategies._newton_or_cmaes import NewtonOrCMAES
from zograd.strategies._strategy import Step

WINDOW, MEASUREMENTS, SWEEPS = 10, 3, 10
"""Progress is judged over a tenth of the budget; but over no fewer than so many measurements, as they are, and no more
than so many of all parameters one by one with a wave of steps each: few parameters need no tenth of a large budget."""
LEAST = 0.05
"""A logarithm of the decrease over that, below which the steps no longer pay."""
STEP, BLOCK = 0.01, 16
"""Half the least step of slopes where a program jumps; few coordinates a block, for each of them counts."""


@final
class Relay(Handover[GaussNewton, Descent | NewtonOrCMAES]):
    r"""`GaussNewton`; where the program jumps and its steps pay no more, the loss alone goes on.

    They pay no more when a tenth of the budget, or ten measurements where these take less, gained less than 5 %.

    Slopes over a step say what the smoothed outputs do. Once they fit, what is left is in the jumps (single photons,
    edges in single pixels), which slopes average out. A direct look at the loss still finds it: up to 200 parameters
    `NewtonOrCMAES`, beyond `BlockNewton` in blocks of 16 with near probes, from the best point seen.

    Cost: that of the part that is running. Never for programs that are smooth or noisy.

    Args:
        parameters: What the points mean.
        goal: What the outputs should be.
        evaluations: The budget.
        seed: Of signs and directions.
    """

    def __init__(self, parameters: Parameters, *, goal: Any = None, evaluations: int = 1000, seed: int = 0) -> None:
        super().__init__(GaussNewton(parameters, goal=goal, evaluations=evaluations, seed=seed))
        self.seed = seed
        self._mark = (0, math.inf)

    @property
    def shape(self) -> tuple[int, ...] | None:  # type: ignore[override]
        """That of the outputs, found with the first."""
        return self.first.shape

    @property
    def said(self) -> str:
        """What was found at the start and chosen for it, and from when on the loss alone went on."""
        if self.then is None:
            return self.first.said
        rule = "BlockNewton" if isinstance(self.then, Descent) else "QuasiNewton" + " and CMAES" * bool(self.then.then)
        return f"{self.first.said} From {self.left[1]} evaluations on the loss alone, by {rule}: steps paid no more."

    def losses(self, values: Values) -> Weights:
        """The mean square of each output's difference from the goal."""
        return self.first.losses(values)

    def told(self, values: Values) -> Weights:
        """The losses of outputs."""
        return self.losses(values).to(self.parameters.initial)

    def pays(self, step: Step) -> bool:
        """Whether enough was gained since the last mark; where it was, this is the next mark."""
        first, (spent, before) = self.first, self._mark
        if first.phase == "pilot" or not first.pace.jumps:
            return True
        sweeps = SWEEPS * (len(first.measurement.free) + first.wave)
        window = max(min(first.budget // WINDOW, sweeps), MEASUREMENTS * first.measurement.cost)
        if step.evaluations - spent < window:
            return True
        self._mark = (step.evaluations, first.best_value)
        return first.best_value == 0 or math.log(before / first.best_value) >= LEAST

    def next(self, parameters: Parameters) -> Descent | NewtonOrCMAES:
        """The loss alone, from the best point."""
        if parameters.dimension <= LARGEST_FRAME:
            return NewtonOrCMAES(parameters, seed=self.seed)
        rule = partial(BlockNewton, block=BLOCK)
        return Descent(parameters, estimator=CoordinateGradient(step=STEP), optimizer=rule, seed=self.seed)

    def state_dict(self) -> dict[str, Any]:
        """The state of both parts, and the last mark."""
        return super().state_dict() | {"mark": self._mark}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state)
        self._mark = tuple(state["mark"])
