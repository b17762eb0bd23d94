"""What happens to a lost evaluation: the policy, and the tally that ends up in messages."""

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import final

from zograd._checks import count, positive, require
from zograd._errors import ArgumentError
from zograd.evaluate._evaluator import Finished


@final
@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """What a lost evaluation counts as.

    Args:
        fill: The value that it is given: NaN leaves it out of the gradient, a number stands in for it.
        stop: Whether the first one stops the work with an `EvaluationError`.
        retries: How often it is tried again before it counts as lost.
        wait: Seconds before the first of these, twice as many before each next.
    """

    fill: float = math.nan
    stop: bool = False
    retries: int = 0
    wait: float = 0.1


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


def retry(times: int, *, wait: float = 0.1, then: str | FailurePolicy = "drop") -> FailurePolicy:
    """A failure policy: try a lost evaluation again, up to ``times`` times, before it counts as lost.

    For programs that fail now and then, such as for a licence or a full disk; one that always fails at a point is
    paid for ``times`` times more. Attempts do not count as evaluations, and each has the same seed.

    Args:
        times: How often.
        wait: Seconds before the first attempt, twice as many before each next, up to a minute.
        then: What it counts as in the end.

    Raises:
        ArgumentError: When an argument is wrong.

    Example:
        >>> import zograd as zo
        >>> zo.retry(3, then=zo.value(10.0))
        FailurePolicy(fill=10.0, stop=False, retries=3, wait=0.1)
    """
    count("times", times, hint="How often a lost evaluation is tried again.")
    return replace(failure_policy(then), retries=times, wait=positive("wait", wait, "In seconds."))


def failure_policy(on_failure: str | FailurePolicy) -> FailurePolicy:
    """The policy that a user named.

    Raises:
        ArgumentError: When it is none of ``"drop"``, ``"raise"``, ``zo.value(x)`` and ``zo.retry(n)``.
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
