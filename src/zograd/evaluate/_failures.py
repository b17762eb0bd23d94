"""What happens to a lost evaluation: the policy, and the tally that ends up in messages."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import final

from zograd._checks import require
from zograd._errors import ArgumentError
from zograd.evaluate._evaluator import Finished


@final
@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """What a lost evaluation counts as.

    Args:
        fill: The value that it is given: NaN leaves it out of the gradient, a number stands in for it.
        stop: Whether the first one stops the work with an `EvaluationError`.
    """

    fill: float = math.nan
    stop: bool = False


def value(number: float) -> FailurePolicy:
    """A failure policy: a lost evaluation counts as ``number``, such as a penalty worse than any real value.

    Example:
        >>> import zograd as zo
        >>> zo.minimize(lambda x: float(x[0]) ** 0.5, [0.2], bounds=(-1, 1), evaluations=60,
        ...             on_failure=zo.value(10.0)).fun < 0.1
        True
    """
    good = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
    require(good, "number", "be a finite number", number, "Pass a value that is worse than any real one.")
    return FailurePolicy(fill=float(number))


def failure_policy(on_failure: str | FailurePolicy) -> FailurePolicy:
    """The policy that a user named.

    Raises:
        ArgumentError: When it is none of ``"drop"``, ``"raise"`` and ``zo.value(x)``.
    """
    if isinstance(on_failure, FailurePolicy):
        return on_failure
    policies = {"drop": FailurePolicy(), "raise": FailurePolicy(stop=True)}
    if on_failure not in policies:
        raise ArgumentError(
            f'`on_failure` must be "drop", "raise" or zo.value(number), found {on_failure!r}. "drop" leaves lost '
            f"evaluations out of the gradient, zo.value(number) counts them as a penalty.",
            argument="on_failure",
            found=on_failure,
        )
    return policies[on_failure]


@final
@dataclass(slots=True)
class Tally:
    """Lost evaluations by how they ended, and the last one of them."""

    counts: Counter[str] = field(default_factory=Counter)
    last: Finished | None = None

    def add(self, finished: Finished, rows: int) -> None:
        """Count ``rows`` lost rows of ``finished``."""
        status = "invalid" if finished.status == "ok" else finished.status
        self.counts[status] += rows
        self.last = finished

    @property
    def total(self) -> int:
        """All lost evaluations."""
        return self.counts.total()

    def __str__(self) -> str:
        return ", ".join(f"{count} {status}" for status, count in sorted(self.counts.items())) or "none"
