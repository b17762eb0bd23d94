"""Local worker processes, each with a pipe of its own: who runs what is always known, and who must go is killed."""

import contextlib
import functools
import math
import multiprocessing
import os
import pickle
import select
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import popen_forkserver, spawn
from multiprocessing.context import ForkServerProcess
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, final

from zograd.blackbox._processes import how_it_ended, kill_tree
from zograd.evaluate._parcel import Parcel
from zograd.evaluate._pool_backend import Backend, Lost, Returned, Task
from zograd.evaluate._pool_messages import Answered, Asked, Missing
from zograd.evaluate._pool_worker import BOXES_KEPT, Progress, serve

STARTING = threading.Lock()
STEAL_SECONDS = 1e-3
"""What rows must be expected to take for another worker to take them over: that costs a part of it."""

PRELOADED = "zograd.evaluate._pool_worker"


@final
class Processes(Backend):
    """Worker processes on this machine, started when they are first needed and kept.

    They are forked from a server that has imported torch and nothing of the caller's: a worker takes a hundredth of a
    second, and shares no thread, lock or device with the caller.

    Args:
        workers: How many.
        timeout: Seconds a row.
        memory: Bytes that each may add to what it has at its start.
        recycle_after: Rows after which a worker is replaced.
    """

    reclaims = True

    def __init__(
        self, workers: int, *, timeout: float | None, memory: int | None = None, recycle_after: int | None = None
    ) -> None:
        self.capacity = workers
        self.timeout, self.memory, self.recycle_after = timeout, memory, recycle_after
        self._workers: list[_Worker] = []
        weakref.finalize(self, _end, self._workers)
        # An engine's worker that ends waits for its children, and runs these alone before.
        Finalize(self, _end, args=(self._workers,), exitpriority=10)

    def send(self, box: Parcel, task: Task) -> None:
        """Give a task to a worker that has none."""
        self.sent += self._free(box.key).send(box.message, task.asked(box), task)

    def one(self, pickled: bytes, asked: Asked) -> Answered | Missing | Lost:
        """One task, here and now; nothing pickled where the worker should know the black box."""
        self._free(asked.key).send(lambda known: pickled, asked, asked)
        while True:
            for _, returned in self.receive(None):
                return returned

    def _free(self, key: str) -> "_Worker":
        """A worker that has no task, if possible one that knows the black box."""
        for worker in [worker for worker in self._workers if worker.task is None and worker.has_died]:
            self._dismissed(worker)
        idle = [worker for worker in self._workers if worker.task is None]
        if not idle:
            self._workers.append(_Worker(self.memory))
            return self._workers[-1]
        return next((worker for worker in idle if key in worker.keys), idle[0])

    def receive(self, patience: float | None) -> Iterator[Returned]:
        """What has come back, or been lost, within so many seconds."""
        busy = [worker for worker in self._workers if worker.task is not None]
        deadline = None
        if self.timeout is not None:
            deadline = min(worker.running()[1] for worker in busy) + self.timeout
            left = max(0.0, deadline - time.monotonic())
            patience = left if patience is None else min(patience, left)
        watch = select.poll()  # a tenth of what multiprocessing's wait costs
        for worker in busy:
            watch.register(worker.connection.fileno(), select.POLLIN)
            watch.register(worker.sentinel, select.POLLIN)
        ready = {handle for handle, _ in watch.poll(None if patience is None else math.ceil(1000 * patience))}
        for worker in busy:
            if worker.connection.fileno() in ready or worker.sentinel in ready:
                yield from self._heard(worker)
            elif self.timeout is not None:
                row, since = worker.running()
                if row >= 0 and time.monotonic() - since >= self.timeout:
                    task = self._dismissed(worker)
                    yield task, Lost("timeout", row, f"it was stopped at its time limit of {self.timeout:g} s.")

    def reclaim(self, seconds: float) -> list[Task]:
        """Take back half of the rows that wait in one worker; all of them where its row takes far too long."""
        most, found = STEAL_SECONDS, None
        for worker in self._workers:
            task = worker.task
            if isinstance(task, Task) and task.each and task.rows > 1:
                row, since = worker.running()
                ahead = min(task.rows, task.limit) - row - 1
                elapsed = time.monotonic() - since
                expected = ahead * max(elapsed, seconds if seconds == seconds else 0.0)
                if row >= 0 and ahead > 0 and expected >= most:
                    most, found = expected, (worker, task, row + 1 if elapsed > 2 * seconds else row + 1 + ahead // 2)
        if found is None:
            return []
        worker, task, first = found
        end, limit = min(task.rows, task.limit), worker.limited(first)
        if limit >= end:
            return []
        task.limit = limit
        return [task.some(limit, end)]

    def cancel(self) -> None:
        """Kill every worker that runs a task."""
        for worker in [worker for worker in self._workers if worker.task is not None]:
            self._dismissed(worker)

    def close(self) -> None:
        """End all workers."""
        _end(self._workers)

    def _heard(self, worker: "_Worker") -> Iterator[Returned]:
        began = worker.began
        try:
            answered = worker.answered()
        except (EOFError, OSError):  # it died
            row = worker.running()[0]
            task = self._dismissed(worker)
            _, sentence = how_it_ended("the worker", worker.exit_code, time.monotonic() - began)
            yield task, Lost("crashed", row, sentence)
            return
        task, worker.task = worker.task, None
        if self.recycle_after is not None and worker.rows >= self.recycle_after:
            self._dismissed(worker)
        yield task, answered

    def _dismissed(self, worker: "_Worker") -> Any:
        self._workers.remove(worker)
        worker.stop()
        return worker.task


@final
class _Worker:
    """One worker process."""

    def __init__(self, memory: int | None) -> None:
        handle, name = tempfile.mkstemp(prefix="zograd-worker-")
        os.ftruncate(handle, Progress.BYTES)
        self._progress, self._name = Progress(handle), Path(name)
        os.close(handle)
        self.task: Any = None
        self.keys: list[str] = []
        self.rows = 0
        self.began = 0.0
        self.exit_code = 0
        self._progress.clear()
        context = _context()
        self.connection, theirs = context.Pipe()
        self._process = _Process(target=serve, args=(theirs, name, memory), name="zograd-worker")
        with STARTING, _not_daemonic():
            self._process.start()
        theirs.close()
        self.sentinel = self._process.sentinel
        self._watch = select.poll()
        self._watch.register(self.sentinel, select.POLLIN)

    @property
    def has_died(self) -> bool:
        """Whether it is gone."""
        return bool(self._watch.poll(0))

    def send(self, message: Callable[[list[str]], bytes], asked: Asked, task: Any) -> int:
        """Ask it to do a task; one that dies meanwhile is noticed when it is listened to. Return the bytes sent."""
        self.task, self.began = task, time.monotonic()
        self.rows += len(asked.seeds)
        self._progress.clear()
        sent = [pickle.dumps(asked)]
        if asked.key not in self.keys and (said := message(self.keys)):
            # A version takes the place of those before it.
            others = [key for key in self.keys if key.partition(":")[0] != asked.key.partition(":")[0]]
            self.keys = [*others, asked.key][-BOXES_KEPT:]
            sent.insert(0, pickle.dumps((asked.key, said)))
        with contextlib.suppress(OSError):
            for one in sent:
                self.connection.send_bytes(one)
        return sum(map(len, sent))

    def answered(self) -> Answered | Missing | Lost:
        """What it says.

        Raises:
            EOFError: When it has died.
        """
        if not self.connection.poll():
            raise EOFError
        said: Answered | Missing | str = pickle.loads(self.connection.recv_bytes())
        if isinstance(said, Missing):
            self.keys = list(said.known)
        return Lost("failed", -1, said) if isinstance(said, str) else said

    def running(self) -> tuple[int, float]:
        """Which row of its task it runs, or -1, and since when."""
        return self._progress.running()

    def limited(self, row: int) -> int:
        """Take back the rows from ``row`` on; return the first of which that is true."""
        return self._progress.limit(row)

    def stop(self) -> None:
        """Kill it with all that it started."""
        pid = self._process.pid
        self._process.kill()
        if pid is not None:
            kill_tree(pid, mark=str(self._name))
        self._process.join()
        code = self._process.exitcode
        self.exit_code = code if code is not None else 0
        self.connection.close()
        self._process.close()
        self._progress.close()
        self._name.unlink(missing_ok=True)


def _end(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().stop()


@functools.cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    return context


@final
class _Popen(popen_forkserver.Popen):
    """Starts a process that does not run the caller's script again, whether or not that has a guard."""

    def _launch(self, process_obj: Any) -> None:
        whole, here = spawn.get_preparation_data, threading.get_ident()

        def without_main(name: str) -> dict[str, Any]:
            data = whole(name)
            if threading.get_ident() != here:
                return data
            # The start method may be an engine's own, of which the new process has not heard.
            return {key: data[key] for key in data if not key.startswith(("init_main_", "start_method"))}

        spawn.get_preparation_data = without_main
        try:
            super()._launch(process_obj)  # type: ignore[misc]
        finally:
            spawn.get_preparation_data = whole


@final
class _Process(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        return _Popen(process_obj)


@contextlib.contextmanager
def _not_daemonic() -> Iterator[None]:
    """A daemonic worker of an engine may have children here: they end when it does."""
    config: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    daemonic = config.pop("daemon", None)
    try:
        yield
    finally:
        if daemonic is not None:
            config["daemon"] = daemonic
