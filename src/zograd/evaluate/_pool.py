"""Evaluation by many at a time: processes that may hang or die, threads for external programs, or any executor."""

import hashlib
import heapq
import itertools
import math
import os
import pickle
import struct
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from typing import Any, final

import numpy as np
import torch

from zograd._checks import count, instance, positive, require
from zograd._errors import ArgumentError
from zograd._probes import Probes
from zograd.blackbox import BlackBox, FunctionBox, Program, TorchFunction
from zograd.blackbox._outputs import NUMBER
from zograd.evaluate._evaluator import Evaluator, Finished, Status
from zograd.evaluate._pool_backend import Backend, Box, Lost, Rows, Task
from zograd.evaluate._pool_worker import Answered, Outcome

CHUNK_SECONDS = 0.1
"""What a task should cost: long against what it costs to hand it out, short against what is lost with it.

A caller that has slept for so long needs about half a millisecond to take an answer and to send the next task."""

IDLE_SECONDS = 0.1
"""How often a worker without work looks for some that another could give up."""

LONGEST_WAIT = 60.0


@final
class Pool(Evaluator):
    r"""Evaluates many rows at a time and survives what they do: a hang, a crash, a leak, rubbish.

    Who does the work depends on the black box: threads for a `Program`, which is processes anyway; else ``workers``
    processes on this machine; else an ``executor``. Closures and lambdas work, and the caller's script needs no guard.

    **Limits**: a row that takes longer than ``timeout`` is ended with its worker and all that it started, and is lost
    as ``timeout``; a worker that dies loses the row that it ran as ``crashed``. Other rows of the same task are done
    again by others. Workers are replaced as needed.

    **Same result, whoever works**: rows of a program of one point are evaluated one by one, and before each Python's,
    NumPy's and torch's global generators are seeded from (seed, call, row), so that 1 worker and 16, quick and slow,
    and a run that was resumed, give the same values bit for bit. A program of many points gets ``batch`` rows at a
    time whatever the number of workers. `zograd.Program` has the seed as ``{seed}`` and ``ZOGRAD_SEED``.

    **Cost**: two messages a task. Cheap rows travel together, as many as take 0.1 s by what the last ones took, and a
    worker without work takes over half of what waits in another. The first task starts the workers, which import torch
    once. Workers have one torch thread each.

    **When**: a row costs a millisecond or more, or may hang or crash. Else `InProcess` is quicker.

    Args:
        workers: How many at a time; by default one for each processor, or what the executor has.
        timeout: Seconds a row; for a program of many points, seconds a batch.
        retries: How often a lost row is tried again before it counts as lost.
        wait: Seconds before the first of these, twice as many before each next.
        executor: Any ``concurrent.futures.Executor``: loky's, ``MPIPoolExecutor``, Dask's
            ``Client.get_executor(pure=False)``, `zograd.evaluate.RayExecutor`; it is the caller's to shut down.
        isolate: Whether each worker of an executor runs the program in a child process of its own. Only then does
            ``timeout`` hold, and does a crash lose one row and no worker.
        memory: Bytes of address space that a row may add to what a worker process has at its start (Linux).
        recycle_after: Rows after which a worker process is replaced, for a program that leaks.
        batch: Rows at a time of a program of many points.
        seed: Of the rows' seeds.

    Attributes:
        calls: The number of `Probes` evaluated so far outside a run, whose calls are numbered by it.

    Raises:
        ArgumentError: When an argument is wrong, or the black box cannot be pickled.

    Example:
        >>> import zograd as zo
        >>> with zo.Pool(workers=2, timeout=10.0) as pool:  # doctest: +SKIP
        ...     layer = zo.differentiable(lambda x: float(x[0]) ** 2, evaluator=pool)
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
        wait: float = 0.1,
        executor: Executor | None = None,
        isolate: bool = True,
        memory: int | None = None,
        recycle_after: int | None = None,
        batch: int = 32,
        seed: int = 0,
    ) -> None:
        if workers is not None:
            count("workers", workers, hint="How many evaluations run at a time.")
        self.workers = workers
        self.timeout = None if timeout is None else positive("timeout", timeout, "In seconds a row.")
        self.retries = count("retries", retries, least=0)
        self.pause = positive("wait", wait, "In seconds.")
        if executor is not None:
            instance("executor", executor, Executor, "a concurrent.futures.Executor")
            require(isolate or timeout is None, "isolate", "be True where there is a time limit", isolate)
            local = memory is None and recycle_after is None
            require(local, "executor", "be None where workers are limited in memory or recycled", executor)
        self.executor, self.isolate = executor, isolate
        self.memory = None if memory is None else count("memory", memory, hint="In bytes.")
        self.recycle_after = None if recycle_after is None else count("recycle_after", recycle_after)
        self.batch = count("batch", batch)
        self.seed = count("seed", seed, least=0)
        self.calls = 0
        self._backends: dict[str, Backend] = {}
        self._last: tuple[weakref.ref[BlackBox], float] | None = None

    def stream(self, blackbox: BlackBox, probes: Sequence[Probes]) -> Iterator[Finished]:
        """Evaluate; rows come back as they finish. Closing the iterator kills what still runs.

        Raises:
            ArgumentError: When the black box cannot be pickled, or the caller made a mistake that it noticed.
        """
        places, self.places = self.places, ()
        if not places:
            places = tuple((self.calls + number, 0) for number in range(1, len(probes) + 1))
            self.calls += len(probes)
        if isinstance(blackbox, Program) and self.timeout is not None:
            box = Box(blackbox.limited(self.timeout))
        else:
            box = Box(blackbox)
        backend = self._backend(blackbox)
        yield from _Wave(self, box, blackbox, backend, list(probes), places).stream()

    def close(self) -> None:
        """End the workers; the next wave starts new ones."""
        for backend in self._backends.values():
            backend.close()
        self._backends.clear()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        said = {"workers": self.workers, "timeout": self.timeout, "executor": self.executor}
        return f"Pool({', '.join(f'{name}={value!r}' for name, value in said.items() if value is not None)})"

    def _seconds_of(self, blackbox: BlackBox) -> float:
        """What a row took in the last wave; NaN where that was of another black box."""
        return self._last[1] if self._last is not None and self._last[0]() is blackbox else math.nan

    def _backend(self, blackbox: BlackBox) -> Backend:
        # Imported here: `import zograd` starts nothing and pays for none of it.
        from zograd.evaluate._pool_futures import Futures, Threads

        workers = self.workers or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        if self.executor is not None:
            workers = self.workers or getattr(self.executor, "_max_workers", None) or workers
            self._backends.setdefault(
                "executor", Futures(self.executor, 2 * workers, timeout=self.timeout, isolate=self.isolate)
            )
            return self._backends["executor"]
        if isinstance(blackbox, Program):
            return self._backends.setdefault("threads", Threads(workers))
        if "processes" not in self._backends:
            from zograd.evaluate._pool_processes import Processes

            self._backends["processes"] = Processes(
                workers, timeout=self.timeout, memory=self.memory, recycle_after=self.recycle_after
            )
        return self._backends["processes"]


@final
class _Wave:
    """One wave of a pool: what waits, what is out, and what comes back."""

    def __init__(
        self,
        pool: Pool,
        box: Box,
        blackbox: BlackBox,
        backend: Backend,
        probes: list[Probes],
        places: tuple[tuple[int, int], ...],
    ) -> None:
        self.pool, self.box, self.blackbox, self.backend = pool, box, blackbox, backend
        self.probes, self.places = probes, places
        self.whole = type(blackbox).probe not in (BlackBox.probe, TorchFunction.probe)
        self.whole = self.whole or any(wave.quantity != "value" for wave in probes)
        self.each = blackbox.rows_per_call == 1
        self.fresh = deque((call, range(len(wave))) for call, wave in enumerate(probes) if len(wave) > 0)
        self.rows = Rows(probes)
        self.again: deque[Task] = deque()
        self.later: list[tuple[float, int, Task]] = []
        self.ties = itertools.count()
        self.out = 0
        self.seconds = pool._seconds_of(blackbox)

    def stream(self) -> Iterator[Finished]:
        """Hand out and take back until all is done."""
        try:
            while True:
                while self.later and self.later[0][0] <= time.monotonic():
                    self.again.append(heapq.heappop(self.later)[2])
                while self.out < self.backend.capacity and (self.again or self.fresh):
                    self.backend.send(self.box, self.again.popleft() if self.again else self._chunk())
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
            self.pool._last = weakref.ref(self.blackbox), self.seconds
            if self.out:
                self.backend.cancel()

    def _chunk(self) -> Task:
        """The next rows to send out: as many as cost `CHUNK_SECONDS`, and some for every worker."""
        rows = self.pool.batch
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
        firsts = [(call, row) for call, taken in parts for row in taken]
        seeds = [self._seed(*place) for place in (firsts if self.each else firsts[:1])]
        return Task(self.rows, parts, seeds, self.each, self.whole)

    def _seed(self, call: int, row: int) -> int:
        known_as, first = self.places[call]
        packed = struct.pack("<3q", self.pool.seed, known_as, first + row)
        return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1

    def _taken(self, task: Task, returned: Answered | Lost) -> Iterator[Finished]:
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
        if task.each and returned.row >= 0:
            mine = range(min(task.rows, task.limit))
            self.again.extend(task.alone(row) for row in mine if row != returned.row)
            if returned.row >= task.limit:
                return
            task = task.alone(returned.row)
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
        if lost and task.attempt < self.pool.retries:
            pause = min(LONGEST_WAIT, self.pool.pause * 2**task.attempt)
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
