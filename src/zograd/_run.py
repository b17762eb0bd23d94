"""A run: a strategy, a black box and an evaluator, step by step until a reason to stop; with a file, across crashes."""

import contextlib
import os
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict, Unpack, final

import torch

from zograd._checks import count, positive
from zograd._configuration import configuration_of, differences
from zograd._errors import EvaluationError, GradientError, RunError
from zograd._probes import Probes
from zograd._record import Record
from zograd._snapshot import BROKEN, pack, unpack
from zograd._typing import Values
from zograd.blackbox import BlackBox
from zograd.evaluate import (
    Collector,
    Evaluator,
    FailurePolicy,
    InProcess,
    Journal,
    Journaled,
    Tally,
    last_words,
    loaded,
    read,
)
from zograd.strategies import Step, Strategy

SNAPSHOT_SECONDS = 2.0
"""What a resumed run has to do again, at most: its own arithmetic of so many seconds, and no evaluation."""
SNAPSHOT_SHARE = 0.02
"""The share of the time that taking snapshots may cost."""
SHOWN = 6
"""Differences that an error lists."""


@final
class Settings(TypedDict, total=False):
    """What `Run`, `Run.create` and `Run.resume` have in common; their meanings are with `Run`."""

    evaluator: Evaluator | None
    max_time: float | None
    target: float | None
    policy: FailurePolicy | None


@final
class Run(Iterator[Step]):
    """Iterate the steps of an optimisation: stop, plot and break with plain Python.

    The budget is rows sent out, and is never exceeded: a wave that no longer fits is not sent. The best point
    is kept also of a wave that is cut short by time, target or Ctrl-C.

    A run that `create` made is **durable**: one SQLite file keeps its configuration, every evaluation as it finishes,
    every step, and snapshots of the strategy. After whatever ended it, kill -9 and power cuts included, `resume` goes
    on where it was: what is on record is not evaluated again, and the steps are those of a run that was never
    interrupted, bit for bit, if the program gives the same value for the same point. Its memory does not grow.

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
        evaluations: Rows sent out so far, those of earlier sessions included.
        steps: Steps made so far.
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
        self.steps = 0
        self.stopped = ""
        self._started = time.perf_counter()
        self._seconds_before = 0.0
        self._journal: Journal | None = None
        self._told = 0
        self._lost: Counter[str] = Counter()
        self._replaying = False
        self._best: float | None = None
        self._snapshot_at, self._snapshot_cost = time.monotonic(), 0.0

    @classmethod
    def create(
        cls,
        directory: str | os.PathLike[str],
        strategy: Strategy,
        blackbox: BlackBox,
        *,
        evaluations: int,
        configuration: Mapping[str, Any] | None = None,
        **settings: Unpack[Settings],
    ) -> "Run":
        """A new durable run, in a directory of its own on a local disk.

        Args:
            directory: Where its file is kept; made if it is not there.
            strategy: Fresh, as it is before its first step.
            blackbox: What is evaluated.
            evaluations: The budget.
            configuration: More that must be the same when the run goes on, besides the strategy, its parameters,
                estimator and optimiser, and the policy.
            settings: ``evaluator``, ``max_time``, ``target`` and ``policy``, as for `Run` itself.

        Raises:
            RunError: When there is a run already, or another writer, or the directory cannot be written.

        Example:
            >>> import tempfile, torch, zograd as zo
            >>> def descent():
            ...     return zo.Descent([1.0, 2.0], estimator=zo.CoordinateGradient(), optimizer=torch.optim.Adam)
            >>> box = zo.batched(lambda x: (x**2).sum(1))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     with zo.Run.create(folder, descent(), box, evaluations=100) as run:
            ...         step = next(run)
            ...     with zo.Run.resume(folder, descent(), box) as run:
            ...         next(run).number
            2
        """
        run = cls(strategy, blackbox, evaluations=evaluations, **settings)
        parts = configuration_of(strategy, run.policy, configuration)
        run._attach(Journal(Path(directory), {"evaluations": evaluations, **parts}))
        return run

    @classmethod
    def resume(
        cls,
        directory: str | os.PathLike[str],
        strategy: Strategy,
        blackbox: BlackBox,
        *,
        evaluations: int | None = None,
        configuration: Mapping[str, Any] | None = None,
        **settings: Unpack[Settings],
    ) -> "Run":
        """Go on with a run: the newest snapshot, then what is on record, then new evaluations.

        The iterator yields the steps that are not yet on record. An evaluation that the last session failed at is
        tried again; every other one on record is taken from there.

        Args:
            directory: Where the run is.
            strategy: Made afresh with the same settings; its state comes from the file.
            blackbox: What is evaluated.
            evaluations: The budget of all sessions together; as recorded by default.
            configuration: What was given to `create`.
            settings: As for `create`; the evaluator may be another one, and ``max_time`` counts this session only.

        Raises:
            RunError: When there is no run, another writer, another configuration, or the file cannot be read; or when
                the same values no longer lead to the same points.
        """
        journal = Journal(Path(directory))
        try:
            recorded = journal.configuration
            budget = evaluations if evaluations is not None else int(recorded.get("evaluations", 1))
            run = cls(strategy, blackbox, evaluations=budget, **settings)
            changed = differences(recorded, configuration_of(strategy, run.policy, configuration))
            if changed:
                more = f"; and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
                raise RunError(
                    f"the configuration of {directory} must be the recorded one, found other settings: "
                    f"{'; '.join(changed[:SHOWN])}{more}. Pass the recorded ones, or another run=.",
                    path=directory,
                    differences=changed,
                )
            run._attach(journal)
            run._restore()
        except BaseException:
            journal.close()
            raise
        return run

    @property
    def seconds(self) -> float:
        """Wall time of the run, in all its sessions."""
        return self._seconds_before + self._session_seconds

    @property
    def resumed(self) -> bool:
        """Whether an earlier session has worked on it."""
        return self._journal is not None and self._journal.sessions > 0

    @property
    def salvaged(self) -> str:
        """What was wrong with a damaged file, of which this run goes on with what could be read; else empty."""
        return self._journal.salvaged if self._journal is not None else ""

    @property
    def record(self) -> Record:
        """The run's file, for reading: history, and tables for other tools; what a full disk did not take is not in it.

        Raises:
            RunError: When the run has none.
        """
        if self._journal is None:
            raise RunError("a run must have a file for this, found one in memory. Make it with zograd.Run.create.")
        if not self._journal.closed:
            with contextlib.suppress(RunError):
                self._journal.flush()
        return Record(self._journal.path.parent)

    def close(self, stopped: str = "closed") -> None:
        """Write everything and let another writer in; nothing for a run in memory. It can be resumed.

        Raises:
            RunError: When the writing fails.
        """
        if self._journal is None or self._journal.closed:
            return
        try:
            self._store(self.stopped or stopped)
        finally:
            self._journal.close()

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.nullcontext() if error is None else contextlib.suppress(RunError):
            self.close("failed" if isinstance(error, EvaluationError) else "closed")

    def __next__(self) -> Step:
        """Ask, evaluate, tell.

        Raises:
            StopIteration: When the run has ended; `stopped` says why.
            EvaluationError: When every evaluation of a step was lost, or more of the last ones than the policy allows,
                or the policy is to stop at the first. What was lost in this step is tried again by the next call, and
                by a resumed run.
            RunError: When the file cannot be written, or the recorded points are others than those asked for.
        """
        if self._journal is not None and self._journal.closed:
            raise StopIteration
        if not self.stopped and self.max_time is not None and self._session_seconds >= self.max_time:
            self.stopped = "time"
        if not self.stopped:
            probes = self.strategy.ask()
            if self._journal is not None:  # what is known of a wave that was cut short comes again, and counts once
                self.evaluations = self._told
                self.tally.counts = self._lost.copy()
            if self.evaluations + len(probes) > self.budget:
                if self._journal is None and self.evaluations == 0:  # too little for one step: look at what fits
                    self._wave(probes[: self.budget], tell=False)
                self.stopped = self.stopped or "budget"
        if self.stopped:
            self.close()
            raise StopIteration
        try:
            step = self._wave(probes)
        except EvaluationError:
            if isinstance(self.evaluator, Journaled):
                self.evaluator.again = self.steps + 1
            self._store("failed")
            raise
        except KeyboardInterrupt:
            self._store("interrupted")
            raise
        if step is None:
            self.close()
            raise StopIteration
        if self._journal is not None:
            self._write(step)
        return step

    def _wave(self, probes: Probes, tell: bool = True) -> Step | None:
        """Evaluate and tell; ``None`` where time or target cut the wave short."""
        # What is on record was put up with when it was lost.
        policy = replace(self.policy, max_lost=1.0) if self._replaying else self.policy
        collector = Collector([probes], policy, shape=self.strategy.shape, tally=self.tally)
        lost_before = self.tally.total
        self.evaluations += len(probes)
        came_back = 0
        values: Values | None = None
        self.evaluator.places = ((self.steps + 1, 0),)
        try:
            with torch.no_grad():
                for finished in self.evaluator.stream(self.blackbox, [probes]):
                    came_back += len(finished.rows)
                    found = collector.add(finished)
                    seen = probes.quantity == "value"
                    if self._enough(self.strategy.losses(found) if seen else found.new_empty(0)):
                        break
        finally:
            self.evaluations -= len(probes) - came_back
            if collector.shape is not None:  # else nothing has come back yet
                values = collector.values()[0]
                self.strategy.notice(values)
        if came_back < len(probes) or not tell:
            return None
        try:
            step = self.strategy.tell(collector.values()[0] if values is None else values)
        except GradientError as error:
            raise EvaluationError(
                f"No step can be made: {self.tally.total - lost_before} of its {len(probes)} evaluations were lost "
                f"({self.tally} so far).{last_words(self.tally)} Start where the program works, or pass "
                f"on_failure=zo.value(number) to count them as a penalty."
            ) from (self.tally.last.exception if self.tally.last and self.tally.last.exception else error)
        self.steps += 1
        self._told += len(probes)
        self._lost = self.tally.counts.copy()
        return step

    def _enough(self, values: Values) -> bool:
        """Whether time is up or the target is reached, in mid-wave."""
        if self._replaying:
            return False
        if self.target is not None and bool((values <= self.target).any()):
            self.stopped = "target"
        elif self.max_time is not None and self._session_seconds >= self.max_time:
            self.stopped = "time"
        return bool(self.stopped)

    # --- what makes a run durable

    @property
    def _session_seconds(self) -> float:
        return time.perf_counter() - self._started

    def _attach(self, journal: Journal) -> None:
        self._journal = journal
        losses = None if self.strategy.shape == () else self.strategy.losses
        self.evaluator = Journaled(self.evaluator, journal, losses)
        weakref.finalize(self, journal.close)

    def _restore(self) -> None:
        """The newest snapshot that can be read, then the steps on record since."""
        journal, evaluator = self._journal, self.evaluator
        if journal is None or not isinstance(evaluator, Journaled):
            return
        last_stop, self._seconds_before = journal.last_stop
        fresh = self.strategy.state_dict()
        for step, evaluations, data in journal.snapshots():
            try:
                state = unpack(data)
                self.strategy.load_state_dict(state["strategy"])
                self.tally.counts.update({str(status): int(lost) for status, lost in state["lost"].items()})
            except (*BROKEN, RunError):
                self.strategy.load_state_dict(fresh)
                self.tally = Tally()
                continue
            self.steps, self.evaluations, self._told = step, evaluations, evaluations
            self._lost = self.tally.counts.copy()
            break
        self._best = self.strategy.best_value
        self._replaying = True
        while (recorded := journal.recorded_step(self.steps + 1)) is not None:
            self._compare(recorded, self._wave(self.strategy.ask()))
        self._replaying = False
        self.tally.forget()  # the program may have been mended
        if last_stop == "failed":
            evaluator.again = self.steps + 1
        if self.target is not None and self.strategy.best_value <= self.target:
            self.stopped = "target"

    def _compare(self, recorded: tuple[Any, ...], step: Step | None) -> None:
        """Stop where the same values no longer lead to the same step."""
        journal = self._journal
        if journal is None or step is None:
            return
        number, self._best = self.steps, step.best_value
        now = (float(step.evaluations), step.value, step.best_value)
        before = tuple(read(journal.path, loaded, cell) for cell in recorded)
        if repr(now) != repr(before):
            raise RunError(
                f"step {number} must come out as it is on record, found other numbers: evaluations, value and best "
                f"value were {before}, now they are {now}. The file was changed by other hands, or the optimiser has "
                f"changed since. Restore the file from a copy, or start a new run.",
                path=journal.path,
                differences=(f"step {number}: {before} -> {now}",),
            )

    def _write(self, step: Step) -> None:
        """Record a step, and from time to time the state after it."""
        journal = self._journal
        if journal is None:
            return
        point = step.best_point if step.best_value != self._best else None
        self._best = step.best_value
        told = (step.number, step.evaluations, step.value, step.best_value, step.lost)
        journal.add_step(self.steps, told, step.diagnostics, point)
        wait = max(SNAPSHOT_SECONDS, self._snapshot_cost / SNAPSHOT_SHARE)
        if time.monotonic() - self._snapshot_at >= wait:
            begun = time.monotonic()
            state = {"strategy": self.strategy.state_dict(), "lost": dict(self.tally.counts)}
            journal.add_snapshot(self.steps, self._told, pack(state))
            self._store("")
            self._snapshot_at = time.monotonic()
            self._snapshot_cost = self._snapshot_at - begun

    def _store(self, stopped: str) -> None:
        """Write the best so far, how the session ended, and what still waits."""
        if self._journal is not None:
            point, value = self.strategy.answer
            self._journal.end(stopped, self._session_seconds, (point, value) if value != float("inf") else None)
