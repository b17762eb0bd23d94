"""One wave of a pool: who gets which rows when, and what becomes of those that are lost."""

import heapq
import itertools
import math
import pickle
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple, final

import numpy as np
import torch

from zograd._errors import ArgumentError
from zograd._probes import Probes
from zograd.blackbox import BlackBox, FunctionBox, TorchFunction
from zograd.blackbox._outputs import NUMBER
from zograd.evaluate._evaluator import Finished, Status
from zograd.evaluate._parcel import Parcel
from zograd.evaluate._pool_backend import Backend, Lost, Rows, Task
from zograd.evaluate._pool_messages import Answered, Missing, Outcome
from zograd.evaluate._seeds import Seeds

CHUNK_SECONDS = 0.1
"""What a task should cost: long against what it costs to hand it out, short against what is lost with it.

A caller that has slept for so long needs about half a millisecond to take an answer and to send the next task."""

CRASHES = 2
"""How often rows of a network that were lost with their worker are given to another before they count as lost."""

IDLE_SECONDS = 0.1
"""How often a worker without work looks for some that another could give up."""

LONGEST_WAIT = 60.0


@final
class WaveSettings(NamedTuple):
    """What of a pool's settings is a wave's.

    Args:
        retries: How often a lost row is tried again.
        pause: Seconds before the first of these.
        batch: Rows at a time of a program of many points.
        seeds: Of the rows.
    """

    retries: int
    pause: float
    batch: int
    seeds: Seeds


@final
class Wave:
    """One wave of a pool: what waits, what is out, and what comes back.

    Args:
        box: The black box as it travels.
        blackbox: The black box.
        backend: Who does the work.
        probes: The wave.
        places: Where its rows belong in a run.
        settings: The pool's.
        seconds: What a row is expected to take; NaN where it is not known.
    """

    def __init__(
        self,
        box: Parcel,
        blackbox: BlackBox,
        backend: Backend,
        probes: list[Probes],
        places: tuple[tuple[int, int], ...],
        settings: "WaveSettings",
        seconds: float,
    ) -> None:
        self.box, self.blackbox, self.backend = box, blackbox, backend
        self.probes, self.places, self.settings, self.seconds = probes, places, settings, seconds
        self.whole = type(blackbox).probe not in (BlackBox.probe, TorchFunction.probe)
        self.whole = self.whole or any(wave.quantity != "value" for wave in probes)
        self.each = blackbox.rows_per_call == 1
        self.rows = Rows(probes)
        self.fresh = deque((call, range(len(wave))) for call, wave in enumerate(probes) if len(wave) > 0)
        shares = [(call, share) for call, wave in enumerate(probes) for share in blackbox.shares(wave)]
        if shares:
            self.fresh.clear()
        # The longest first: what is left at the end is short, and nobody waits long for the last.
        shares.sort(key=lambda pair: pair[1].cost, reverse=True)
        self.planned = deque(self._task([(call, share.rows)]) for call, share in shares)
        self.again: deque[Task] = deque()
        self.later: list[tuple[float, int, Task]] = []
        self.ties = itertools.count()
        self.out = 0

    def stream(self) -> Iterator[Finished]:
        """Hand out and take back until all is done."""
        try:
            while True:
                while self.later and self.later[0][0] <= time.monotonic():
                    self.again.append(heapq.heappop(self.later)[2])
                while self.out < self.backend.capacity and (self.again or self.planned or self.fresh):
                    waiting = self.again or self.planned
                    self.backend.send(self.box, waiting.popleft() if waiting else self._chunk())
                    self.out += 1
                patience = max(0.0, self.later[0][0] - time.monotonic()) if self.later else None
                if self.out and self.out < self.backend.capacity and self.each:
                    self.again.extend(self.backend.reclaim(self.seconds))
                    if self.again:
                        continue
                    patience = IDLE_SECONDS if patience is None else min(patience, IDLE_SECONDS)
                if self.out:
                    for task, returned in self.backend.receive(patience):
                        self.out -= 1
                        yield from self._taken(task, returned)
                elif patience is not None:
                    time.sleep(patience)
                else:
                    return
        finally:
            if self.out:
                self.backend.cancel()

    def _chunk(self) -> Task:
        """The next rows to send out: as many as cost `CHUNK_SECONDS`, and some for every worker."""
        rows = self.settings.batch
        if self.each:
            waiting = sum(len(rows) for _, rows in self.fresh)
            share = -(-waiting // (self.backend.capacity * (1 if self.backend.reclaims else 2)))
            cheap = self.seconds < CHUNK_SECONDS / 2  # others are told of at once: the caller may be killed
            rows = int(CHUNK_SECONDS / max(self.seconds, 1e-7)) if cheap else 1
            rows = max(1, min(rows, share))
        parts: list[tuple[int, range]] = []
        while self.fresh and rows > 0:
            call, waiting_rows = self.fresh.popleft()
            taken, left = waiting_rows[:rows], waiting_rows[rows:]
            parts.append((call, taken))
            rows -= len(taken)
            if left:
                self.fresh.appendleft((call, left))
            if self.whole:
                break
        return self._task(parts)

    def _task(self, parts: list[tuple[int, range]]) -> Task:
        """Rows to send out together."""
        known = parts if self.each else [(parts[0][0], parts[0][1][:1])]
        seeds = [seed for call, taken in known for seed in self._seeds(call, taken)]
        return Task(self.rows, parts, seeds, self.each, self.whole)

    def _seeds(self, call: int, rows: range) -> list[int]:
        known_as, first = self.places[call]
        return self.settings.seeds.of(self.probes[call][rows.start : rows.stop], known_as, first + rows.start)

    def _taken(self, task: Task, returned: Answered | Missing | Lost) -> Iterator[Finished]:
        if isinstance(returned, Answered):
            # One that it ran though it was to stop is another's by now.
            outcomes = [self._consistent(outcome) for outcome in returned.outcomes[: task.limit]]
            done = len(outcomes)
            rows = [task] if not task.each else [task.alone(row) for row in range(done)]
            # It may have seen that it was to stop, and its parent that it had not.
            self.again.extend(task.alone(row) for row in range(done, min(task.rows, task.limit)) if task.each)
            for piece, outcome in zip(rows, outcomes, strict=True):
                yield from self._ended(piece, outcome)
            return
        if isinstance(returned, Missing):
            returned = Lost("crashed", -1, "the worker had lost its copy of the model.")
        if task.each and returned.row >= 0:
            mine = range(min(task.rows, task.limit))
            self.again.extend(task.alone(row) for row in mine if row != returned.row)
            if returned.row >= task.limit:
                return
            task = task.alone(returned.row)
        if self.box.versioned and returned.status == "crashed" and task.crashes < CRASHES:
            task.crashes += 1  # a network seldom ends its process: somebody else did
            self.again.append(task)
            return
        yield from self._ended(task, Outcome(returned.status, 0.0, error=returned.error))

    def _consistent(self, outcome: Outcome) -> Outcome:
        """The outcome, invalid where the structure of the outputs is another than before."""
        box = self.blackbox
        if not isinstance(box, FunctionBox) or outcome.values is None:
            return outcome
        outputs = outcome.outputs or NUMBER
        if box.outputs is None:
            box.outputs = outputs
        if box.outputs is outputs or box.outputs == outputs:
            return outcome
        error = f"{box!r} must return one structure every time, found {outputs} after {box.outputs}."
        return Outcome("invalid", outcome.seconds, error=error)

    def _ended(self, task: Task, outcome: Outcome) -> Iterator[Finished]:
        """Rows that are done, or that are tried again later."""
        if outcome.status == "argument":
            raise _exception(outcome.exception) or ArgumentError(outcome.error)
        values, center, lost = None, self.probes[task.parts[0][0]].center, True
        if isinstance(outcome.values, float):
            values, lost = center.new_tensor([outcome.values]), not math.isfinite(outcome.values)
        elif outcome.values is not None:
            values = torch.from_numpy(outcome.values).to(center)
            lost = task.rows == 1 and not np.isfinite(outcome.values).all()
        if task.each and not lost:
            known = outcome.seconds if math.isnan(self.seconds) else self.seconds
            self.seconds = 0.8 * known + 0.2 * outcome.seconds
        if lost and task.attempt < self.settings.retries:
            pause = min(LONGEST_WAIT, self.settings.pause * 2**task.attempt)
            task.attempt += 1
            heapq.heappush(self.later, (time.monotonic() + pause, next(self.ties), task))
            return
        tried = f" It was tried {task.attempt + 1} times." if lost and task.attempt else ""
        status: Status = outcome.status  # type: ignore[assignment]
        start, share = 0, outcome.seconds / task.rows
        for call, rows in task.parts:
            piece = None if values is None else values[start : start + len(rows)]
            start += len(rows)
            error = outcome.error + tried if lost else ""
            exception = _exception(outcome.exception)
            yield Finished(call, rows, status, share * len(rows), piece, error, exception)


def _exception(pickled: bytes) -> Any:
    """The exception of a worker, where it can be made here."""
    try:
        return pickle.loads(pickled) if pickled else None
    except Exception:  # its class may need anything
        return None
