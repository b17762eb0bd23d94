"""What makes a run durable: its steps and snapshots on the way into its file, and back."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, final

from zograd._errors import RunError
from zograd._record import Record
from zograd._snapshot import BROKEN, pack, unpack
from zograd._typing import Vector
from zograd.evaluate import Journal, loaded, read
from zograd.strategies import Step, Strategy

SNAPSHOT_SECONDS = 2.0
"""What a resumed run has to do again, at most: its own arithmetic of so many seconds, and no evaluation."""
SNAPSHOT_SHARE = 0.02
"""The share of the time that taking snapshots may cost."""


@final
class RunFile:
    """Writes the steps of a run, and from time to time the state after one; finds the newest, and compares.

    Args:
        journal: The file, open for writing.
        seconds: Tells how long this session has lasted.

    Attributes:
        best: The best value written or compared last, so that a best point is written once.
    """

    def __init__(self, journal: Journal, seconds: Callable[[], float]) -> None:
        self.journal, self._seconds = journal, seconds
        self.best: float | None = None
        self._snapshot_at, self._snapshot_cost = time.monotonic(), 0.0

    @property
    def record(self) -> Record:
        """The file, for reading; what a full disk did not take is not in it."""
        if not self.journal.closed:
            with contextlib.suppress(RunError):
                self.journal.flush()
        return Record(self.journal.path.parent)

    def restore(self, strategy: Strategy) -> tuple[int, int, Counter[str]]:
        """Give the strategy its newest state that can be read; steps, evaluations and losses of then."""
        fresh = strategy.state_dict()
        for step, evaluations, data in self.journal.snapshots():
            try:
                state = unpack(data)
                strategy.load_state_dict(state["strategy"])
                lost = Counter({str(status): int(number) for status, number in state["lost"].items()})
            except (*BROKEN, RunError):
                strategy.load_state_dict(fresh)
                continue
            return step, evaluations, lost
        return 0, 0, Counter()

    def compare(self, number: int, recorded: tuple[Any, ...], step: Step) -> None:
        """Stop where the same values no longer lead to the same step.

        Raises:
            RunError: When evaluations, value or best value are others.
        """
        self.best, path = step.best_value, self.journal.path
        now = (float(step.evaluations), step.value, step.best_value)
        before = tuple(read(path, loaded, cell) for cell in recorded)
        if repr(now) != repr(before):
            raise RunError(
                f"step {number} must come out as it is on record, found other numbers: evaluations, value and best "
                f"value were {before}, now they are {now}. The file was changed by other hands, or the optimiser has "
                f"changed since. Restore the file from a copy, or start a new run.",
                path=path,
                differences=(f"step {number}: {before} -> {now}",),
            )

    def write(self, number: int, step: Step, evaluations: int, lost: Counter[str], strategy: Strategy) -> None:
        """Record a step, and from time to time the state after it.

        Args:
            number: Which step, counted from 1.
            step: What it led to.
            evaluations: Rows that have been told.
            lost: Those of them that were lost, by how they ended.
            strategy: What made the step.
        """
        point = step.best_point if step.best_value != self.best else None
        self.best = step.best_value
        told = (step.number, step.evaluations, step.value, step.best_value, step.lost)
        self.journal.add_step(number, told, step.diagnostics, point)
        wait = max(SNAPSHOT_SECONDS, self._snapshot_cost / SNAPSHOT_SHARE)
        if time.monotonic() - self._snapshot_at >= wait:
            begun = time.monotonic()
            self.journal.add_snapshot(
                number, evaluations, pack({"strategy": strategy.state_dict(), "lost": dict(lost)})
            )
            self.store("", strategy.answer)
            self._snapshot_at = time.monotonic()
            self._snapshot_cost = self._snapshot_at - begun

    def store(self, stopped: str, answer: tuple[Vector, float]) -> None:
        """Write the best so far, how the session ended, and what still waits."""
        point, value = answer
        self.journal.end(stopped, self._seconds(), (point, value) if value != float("inf") else None)
