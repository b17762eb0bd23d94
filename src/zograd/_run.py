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
from typing import Any, Unpack, final

from zograd._checks import count, positive
from zograd._configuration import Settings, configuration_of, must_be_same
from zograd._errors import EvaluationError, RunError
from zograd._interrupt import raise_swallowed
from zograd._probes import Probes
from zograd._record import Record
from zograd._run_file import RunFile
from zograd._typing import Values
from zograd._wave import Wave
from zograd.blackbox import BlackBox
from zograd.evaluate import Evaluator, FailurePolicy, InProcess, Journal, Journaled, Tally
from zograd.strategies import Step, Strategy


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
        self._file: RunFile | None = None
        self._told = 0
        self._lost: Counter[str] = Counter()
        self._replaying = False

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
            must_be_same(directory, recorded, configuration_of(strategy, run.policy, configuration))
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
        return self._file is not None and self._file.journal.sessions > 0

    @property
    def salvaged(self) -> str:
        """What was wrong with a damaged file, of which this run goes on with what could be read; else empty."""
        return self._file.journal.salvaged if self._file is not None else ""

    @property
    def record(self) -> Record:
        """The run's file, for reading: history, and tables for other tools; what a full disk did not take is not in it.

        Raises:
            RunError: When the run has none.
        """
        if self._file is None:
            raise RunError("a run must have a file for this, found one in memory. Make it with zograd.Run.create.")
        return self._file.record

    def close(self, stopped: str = "closed") -> None:
        """Write everything and let another writer in; nothing for a run in memory. It can be resumed.

        Raises:
            RunError: When the writing fails.
        """
        if self._file is None or self._file.journal.closed:
            return
        try:
            self._store(self.stopped or stopped)
        finally:
            self._file.journal.close()

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
        if self._file is not None and self._file.journal.closed:
            raise StopIteration
        if not self.stopped and self.max_time is not None and self._session_seconds >= self.max_time:
            self.stopped = "time"
        if not self.stopped:
            probes = self.strategy.ask()
            if self._file is not None:  # what is known of a wave that was cut short comes again, and counts once
                self.evaluations = self._told
                self.tally.counts = self._lost.copy()
            if self.evaluations + len(probes) > self.budget:
                if self._file is None and self.evaluations == 0:  # too little for one step: look at what fits
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
        if self._file is not None:
            self._file.write(self.steps, step, self._told, self._lost, self.strategy)
        return step

    def _wave(self, probes: Probes, tell: bool = True) -> Step | None:
        """Evaluate and tell; ``None`` where time or target cut the wave short."""
        # What is on record was put up with when it was lost.
        policy = replace(self.policy, max_lost=1.0) if self._replaying else self.policy
        wave = Wave(self.strategy, probes, policy, self.tally)
        self.evaluations += len(probes)
        self.evaluator.places = ((self.steps + 1, 0),)
        try:
            wave.evaluate(self.evaluator, self.blackbox, self._enough)
        finally:
            self.evaluations -= len(probes) - wave.came_back
        if wave.came_back < len(probes) or not tell:
            return None
        step = wave.tell()
        self.steps += 1
        self._told += len(probes)
        self._lost = self.tally.counts.copy()
        return step

    def _enough(self, values: Values) -> bool:
        """Whether time is up or the target is reached, in mid-wave."""
        raise_swallowed()
        if self._replaying:
            return False
        if self.target is not None and bool((values <= self.target).any()):
            self.stopped = "target"
        elif self.max_time is not None and self._session_seconds >= self.max_time:
            self.stopped = "time"
        return bool(self.stopped)

    @property
    def _session_seconds(self) -> float:
        return time.perf_counter() - self._started

    def _attach(self, journal: Journal) -> None:
        begun = self._started
        self._file = RunFile(journal, lambda: time.perf_counter() - begun)  # which must not hold the run itself
        losses = None if self.strategy.shape == () else self.strategy.losses
        self.evaluator = Journaled(self.evaluator, journal, losses)
        weakref.finalize(self, journal.close)

    def _restore(self) -> None:
        """The newest snapshot that can be read, then the steps on record since."""
        file, evaluator = self._file, self.evaluator
        if file is None or not isinstance(evaluator, Journaled):
            return
        last_stop, self._seconds_before = file.journal.last_stop
        self.steps, self._told, self._lost = file.restore(self.strategy)
        self.evaluations, self.tally.counts = self._told, self._lost.copy()
        file.best = self.strategy.best_value
        self._replaying = True
        while (recorded := file.journal.recorded_step(self.steps + 1)) is not None:
            step = self._wave(self.strategy.ask())
            if step is not None:
                file.compare(self.steps, recorded, step)
        self._replaying = False
        self.tally.forget()  # the program may have been mended
        if last_stop == "failed":
            evaluator.again = self.steps + 1
        if self.target is not None and self.strategy.best_value <= self.target:
            self.stopped = "target"

    def _store(self, stopped: str) -> None:
        if self._file is not None:
            self._file.store(stopped, self.strategy.answer)
