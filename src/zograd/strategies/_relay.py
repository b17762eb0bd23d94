"""A relay: Gauss-Newton while its steps pay, then the loss alone."""

import math
from functools import partial
from typing import Any, final

from zograd._parameters import Parameters
from zograd._probes import Probes
from zograd._typing import Values, Vector, Weights
from zograd.estimators import CoordinateGradient, FrameGradient
from zograd.optim import BlockNewton, QuasiNewton
from zograd.strategies._choose import LARGEST_FRAME
from zograd.strategies._descent import Descent
from zograd.strategies._gauss_newton import GaussNewton
from zograd.strategies._strategy import Step, Strategy

WINDOW, MEASUREMENTS, SWEEPS = 10, 3, 10
"""Progress is judged over a tenth of the budget; but over no fewer than so many measurements, as they are, and no more
than so many of all parameters one by one with a wave of steps each: few parameters need no tenth of a large budget."""
LEAST = 0.05
"""A logarithm of the decrease over that, below which the steps no longer pay."""
STEP, BLOCK = 0.01, 16
"""Half the least step of slopes where a program jumps; few coordinates a block, for each of them counts."""


@final
class Relay(Strategy):
    r"""`GaussNewton`; where the program jumps and its steps pay no more, the loss alone goes on.

    They pay no more when a tenth of the budget, or ten measurements where these take less, gained less than 5 %.

    Slopes over a step say what the smoothed outputs do. Once they fit, what is left is in the jumps (single photons,
    edges in single pixels), which slopes average out. A direct look at the loss still finds it: up to 200 parameters
    `FrameGradient` with `QuasiNewton`, beyond `BlockNewton` in blocks of 16 with near probes, from the best point seen.

    Cost: that of the part that is running. Never for programs that are smooth or noisy.

    Args:
        parameters: What the points mean.
        goal: What the outputs should be.
        evaluations: The budget.
        seed: Of signs and directions.
    """

    def __init__(self, parameters: Parameters, *, goal: Any = None, evaluations: int = 1000, seed: int = 0) -> None:
        self.parameters = parameters
        self.first = GaussNewton(parameters, goal=goal, evaluations=evaluations, seed=seed)
        self.seed = seed
        self.then: Descent | None = None
        self._mark = (0, math.inf)
        self._spent = (0, 0)

    @property
    def shape(self) -> tuple[int, ...] | None:  # type: ignore[override]
        """That of the outputs, found with the first."""
        return self.first.shape

    @property
    def best_value(self) -> float:  # type: ignore[override]
        """The best loss of either part."""
        return min(self.first.best_value, math.inf if self.then is None else self.then.best_value)

    @property
    def best_point(self) -> Vector:  # type: ignore[override]
        """Where that was."""
        ahead = self.then is not None and self.then.best_value < self.first.best_value
        return self.then.best_point if self.then is not None and ahead else self.first.best_point

    @property
    def answer(self) -> tuple[Vector, float]:
        """What the running part answers, if it is better than what came before."""
        if self.then is None:
            return self.first.answer
        return min(self.first.answer, self.then.answer, key=lambda found: found[1])

    @property
    def said(self) -> str:
        """What was found at the start and chosen for it, and from when on the loss alone went on."""
        if self.then is None:
            return self.first.said
        rule = type(self.then.optimizer).__name__
        return f"{self.first.said} From {self._spent[1]} evaluations on the loss alone, by {rule}: steps paid no more."

    def losses(self, values: Values) -> Weights:
        """The mean square of each output's difference from the goal."""
        return self.first.losses(values)

    def ask(self) -> Probes:
        """What the running part asks."""
        return self.first.ask() if self.then is None else self.then.ask()

    def notice(self, values: Values) -> None:
        """Remember the best of these outputs."""
        if self.then is None:
            self.first.notice(values)
        else:
            self.then.notice(self.losses(values).to(self.then.center))

    def tell(self, values: Values) -> Step:
        """Hand the outputs, or their losses, to the running part."""
        if self.then is None:
            step = self.first.tell(values)
            if self._stalled(step):
                self._spent, self.then = (step.number, step.evaluations), self._next()
            return step
        step = self.then.tell(self.losses(values).to(self.then.center))
        number, evaluations = step.number + self._spent[0], step.evaluations + self._spent[1]
        best = (self.best_value, self.best_point)
        return Step(number, evaluations, step.value, *best, step.lost, step.diagnostics)

    def _stalled(self, step: Step) -> bool:
        """Whether what was gained since the last mark is too little to go on; where not, this is the next mark."""
        first, (spent, before) = self.first, self._mark
        if first.phase == "pilot" or not first.pace.jumps:
            return False
        sweeps = SWEEPS * (len(first.measurement.free) + first.wave)
        window = max(min(first.budget // WINDOW, sweeps), MEASUREMENTS * first.measurement.cost)
        if step.evaluations - spent < window:
            return False
        self._mark = (step.evaluations, first.best_value)
        return first.best_value > 0 and math.log(before / first.best_value) < LEAST

    def _next(self) -> Descent:
        """The loss alone, from the best point."""
        few = len(self.first.best_point) <= LARGEST_FRAME
        estimator = FrameGradient() if few else CoordinateGradient(step=STEP)
        rule = QuasiNewton if few else partial(BlockNewton, block=BLOCK)
        descent = Descent(self.parameters, estimator=estimator, optimizer=rule, seed=self.seed)
        descent.center.data.copy_(self.first.best_point)
        return descent

    def state_dict(self) -> dict[str, Any]:
        """The state of both parts, and how far the running one has come."""
        then = None if self.then is None else self.then.state_dict()
        return {"first": self.first.state_dict(), "then": then, "mark": self._mark, "spent": self._spent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.first.load_state_dict(state["first"])
        self._mark, self._spent, self.then = tuple(state["mark"]), tuple(state["spent"]), None
        if state["then"] is not None:
            self.then = self._next()
            self.then.load_state_dict(state["then"])
