"""What happens to a lost evaluation: the policy, and the tally that ends up in messages."""

import math
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, final

from zograd._checks import count, positive, require
from zograd._errors import ArgumentError, EvaluationError
from zograd.evaluate._evaluator import Finished

LostStatus: TypeAlias = Literal["failed", "timeout", "crashed", "invalid"]

LOOKED_AT = 100
"""The evaluations whose share of losses is looked at: the last so many, in whole pieces."""


@final
@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """What a lost evaluation counts as.

    Args:
        fill: The value that it is given: NaN leaves it out of the gradient, a number stands in for it.
        stop: Whether the first one stops the work with an `EvaluationError`.
        retries: How often it is tried again before it counts as lost.
        wait: Seconds before the first of these, twice as many before each next.
        max_lost: The share of the last 100 evaluations that may be lost; more of them stop the work with an
            `EvaluationError`, and 1 lets it go on whatever is lost.
    """

    fill: float = math.nan
    stop: bool = False
    retries: int = 0
    wait: float = 0.1
    max_lost: float = 0.9


def value(number: float) -> FailurePolicy:
    """A failure policy: a lost evaluation counts as ``number``, such as a penalty worse than any real value.

    However many are lost, the work goes on, unless ``max_lost`` is said elsewhere.

    Example:
        >>> import zograd as zo
        >>> zo.minimize(lambda x: float(x[0]) ** 0.5, [0.2], bounds=(-1, 1), evaluations=60,
        ...             on_failure=zo.value(10.0)).fun < 0.1
        True
    """
    good = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
    require(good, "number", "be a finite number", number, "Pass a value that is worse than any real one.")
    return FailurePolicy(fill=float(number), max_lost=1.0)


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
        FailurePolicy(fill=10.0, stop=False, retries=3, wait=0.1, max_lost=1.0)
    """
    count("times", times, hint="How often a lost evaluation is tried again.")
    return replace(failure_policy(then), retries=times, wait=positive("wait", wait, "In seconds."))


def failure_policy(on_failure: str | FailurePolicy, max_lost: float | None = None) -> FailurePolicy:
    """The policy that a user named.

    Args:
        on_failure: The policy, or its name.
        max_lost: The share of the last 100 evaluations that may be lost, where it is not the policy's.

    Raises:
        ArgumentError: When it is none of ``"drop"``, ``"raise"``, ``zo.value(x)`` and ``zo.retry(n)``, or ``max_lost``
            is no share.
    """
    if max_lost is not None:
        share = isinstance(max_lost, int | float) and not isinstance(max_lost, bool) and 0 < max_lost <= 1
        hint = "It is the share of the last 100 evaluations that may be lost; 1 never stops."
        require(share, "max_lost", "be above 0 and at most 1", max_lost, hint)
        return replace(failure_policy(on_failure), max_lost=float(max_lost))
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
    """Lost evaluations by how they ended, the last one of them, and their share of the last `LOOKED_AT`."""

    counts: Counter[str] = field(default_factory=Counter)
    last: Finished | None = None
    _pieces: deque[tuple[int, int]] = field(default_factory=deque)
    _rows: int = 0
    _lost: int = 0

    def add(self, finished: Finished, rows: int) -> None:
        """Count ``rows`` lost rows of ``finished``."""
        status = "invalid" if finished.status == "ok" else finished.status
        self.counts[status] += rows
        self.last = finished

    def look(self, rows: int, lost: int, policy: FailurePolicy) -> None:
        """Take note of a piece of ``rows`` evaluations, of which ``lost`` were lost.

        Raises:
            EvaluationError: When more of the last ones were lost than the policy allows. The next share is that of
                evaluations from then on.
        """
        self._pieces.append((rows, lost))
        self._rows += rows
        self._lost += lost
        while self._rows - self._pieces[0][0] >= LOOKED_AT:
            rows_then, lost_then = self._pieces.popleft()
            self._rows -= rows_then
            self._lost -= lost_then
        if not lost or self._rows < LOOKED_AT or self._lost <= policy.max_lost * self._rows:
            return
        found, of = self._lost, self._rows
        self.forget()
        raise EvaluationError(
            f"{found} of the last {of} evaluations were lost, more than max_lost={policy.max_lost:g} of them ({self} "
            f"in all).{last_words(self)} Nothing that came back is thrown away: mend the program and go on, or pass "
            f"max_lost=1 to go on whatever is lost.",
            status=_status(self.last),
        ) from (self.last.exception if self.last is not None else None)

    def forget(self) -> None:
        """Begin the next share anew."""
        self._pieces.clear()
        self._rows = self._lost = 0

    @property
    def total(self) -> int:
        """All lost evaluations."""
        return self.counts.total()

    def __str__(self) -> str:
        return ", ".join(f"{count} {status}" for status, count in sorted(self.counts.items())) or "none"


def last_words(tally: Tally) -> str:
    """The last lost evaluation's error, as the end of a message."""
    if tally.last is None:
        return ""
    error = tally.last.error or "it returned NaN or inf"
    return f" The last one: {error.rstrip('.')}."


def _status(finished: Finished | None) -> LostStatus:
    return "invalid" if finished is None or finished.status == "ok" else finished.status
