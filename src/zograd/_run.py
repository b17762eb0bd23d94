"""A run: a strategy, a black box and an evaluator, step by step until a reason to stop."""

import time
from collections.abc import Iterator
from typing import final

import torch

from zograd._checks import count, positive
from zograd._errors import EvaluationError, GradientError
from zograd._typing import Values
from zograd.blackbox import BlackBox
from zograd.evaluate import Collector, Evaluator, FailurePolicy, InProcess, Tally, last_words
from zograd.strategies import Step, Strategy


@final
class Run(Iterator[Step]):
    """Iterate the steps of an optimisation: stop, plot and break with plain Python.

    The budget is rows sent out, and is never exceeded: a wave that no longer fits is not sent. The best point
    is kept also of a wave that is cut short by time, target or Ctrl-C.

    Args:
        strategy: What decides, such as `Descent`.
        blackbox: What is evaluated; it takes the strategy's points.
        evaluations: The budget, in rows sent out.
        evaluator: How; in this process by default.
        max_time: Stop after so many seconds, between two evaluations.
        target: Stop as soon as a value at or below this is seen.
        policy: What a lost evaluation counts as.

    Attributes:
        stopped: Why the run ended: ``"budget"``, ``"target"`` or ``"time"``; empty while it goes on.
        evaluations: Rows sent out so far.
        tally: Lost evaluations, by how they ended.

    Example:
        >>> import torch, zograd as zo
        >>> descent = zo.Descent(torch.tensor([1.0]), estimator=zo.CoordinateGradient(), optimizer=torch.optim.Adam)
        >>> run = zo.Run(descent, zo.batched(lambda x: (x**2).sum(1)), evaluations=100)
        >>> steps = [step for step in run]
        >>> run.stopped, steps[-1].evaluations <= 100
        ('budget', True)
    """

    def __init__(
        self,
        strategy: Strategy,
        blackbox: BlackBox,
        *,
        evaluations: int,
        evaluator: Evaluator | None = None,
        max_time: float | None = None,
        target: float | None = None,
        policy: FailurePolicy | None = None,
    ) -> None:
        self.strategy = strategy
        self.blackbox = blackbox
        self.budget = count("evaluations", evaluations, hint="It is the budget: how often the program is run.")
        self.evaluator = evaluator if evaluator is not None else InProcess()
        self.max_time = None if max_time is None else positive("max_time", max_time, "It is in seconds.")
        self.target = target
        self.policy = policy if policy is not None else FailurePolicy()
        self.tally = Tally()
        self.evaluations = 0
        self.stopped = ""
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time since the run was made."""
        return time.perf_counter() - self._started

    def __next__(self) -> Step:
        """Ask, evaluate, tell.

        Raises:
            StopIteration: When the run has ended; `stopped` says why.
            EvaluationError: When every evaluation of a step was lost, or the policy is to stop at the first.
        """
        if not self.stopped and self.max_time is not None and self.seconds >= self.max_time:
            self.stopped = "time"
        if self.stopped:
            raise StopIteration
        probes = self.strategy.ask()
        if self.evaluations + len(probes) > self.budget:
            self.stopped = "budget"
            raise StopIteration
        collector = Collector([probes], self.policy, shape=(), tally=self.tally)
        lost_before = self.tally.total
        self.evaluations += len(probes)
        came_back = 0
        try:
            with torch.no_grad():
                for finished in self.evaluator.stream(self.blackbox, [probes]):
                    came_back += len(finished.rows)
                    values = collector.add(finished)
                    if self._enough(values if probes.quantity == "value" else values.new_empty(0)):
                        break
        finally:
            self.evaluations -= len(probes) - came_back
            self.strategy.notice(collector.values()[0])
        if came_back < len(probes):
            raise StopIteration
        try:
            return self.strategy.tell(collector.values()[0])
        except GradientError as error:
            raise EvaluationError(
                f"No step can be made: {self.tally.total - lost_before} of its {len(probes)} evaluations were lost "
                f"({self.tally} so far).{last_words(self.tally)} Start where the program works, or pass "
                f"on_failure=zo.value(number) to count them as a penalty."
            ) from (self.tally.last.exception if self.tally.last and self.tally.last.exception else error)

    def _enough(self, values: Values) -> bool:
        """Whether time is up or the target is reached, in mid-wave."""
        if self.target is not None and bool((values <= self.target).any()):
            self.stopped = "target"
        elif self.max_time is not None and self.seconds >= self.max_time:
            self.stopped = "time"
        return bool(self.stopped)
