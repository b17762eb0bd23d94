"""One wave of a run: its probes on the way through an evaluator, and what the strategy makes of the values."""

from collections.abc import Callable
from typing import final

import torch

from zograd._errors import EvaluationError, GradientError
from zograd._probes import Probes
from zograd._typing import Values
from zograd.blackbox import BlackBox
from zograd.evaluate import Collector, Evaluator, FailurePolicy, Tally, last_words
from zograd.strategies import Step, Strategy


@final
class Wave:
    """The evaluations that a strategy asks for at a time.

    Args:
        strategy: Who asks, and is told.
        probes: What for.
        policy: What a lost evaluation counts as.
        tally: Where lost ones are counted.

    Attributes:
        came_back: Rows whose values, or losses, are known.
    """

    def __init__(self, strategy: Strategy, probes: Probes, policy: FailurePolicy, tally: Tally) -> None:
        self.strategy, self.probes, self.tally = strategy, probes, tally
        self.came_back = 0
        self._values: Values | None = None
        self._lost_before = tally.total
        self._collector = Collector([probes], policy, shape=strategy.shape, tally=tally)

    def evaluate(self, evaluator: Evaluator, blackbox: BlackBox, enough: Callable[[Values], bool]) -> None:
        """Evaluate until all is back, or ``enough`` says so of the losses just found; what is known is noticed.

        Raises:
            EvaluationError: When the policy allows no more losses.
        """
        seen = self.probes.quantity == "value"
        try:
            with torch.no_grad():
                for finished in evaluator.stream(blackbox, [self.probes]):
                    self.came_back += len(finished.rows)
                    found = self._collector.add(finished)
                    if enough(self.strategy.losses(found) if seen else found.new_empty(0)):
                        break
        finally:
            if self._collector.shape is not None:  # else nothing has come back yet
                self._values = self._collector.values()[0]
                self.strategy.notice(self._values)

    def tell(self) -> Step:
        """Tell the strategy, once all is back.

        Raises:
            EvaluationError: When too much was lost to make a step.
        """
        try:
            return self.strategy.tell(self._collector.values()[0] if self._values is None else self._values)
        except GradientError as error:
            lost, last = self.tally.total - self._lost_before, self.tally.last
            raise EvaluationError(
                f"No step can be made: {lost} of its {len(self.probes)} evaluations were lost "
                f"({self.tally} so far).{last_words(self.tally)} Start where the program works, or pass "
                f"on_failure=zo.value(number) to count them as a penalty."
            ) from (last.exception if last and last.exception else error)
