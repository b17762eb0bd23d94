"""Any ``concurrent.futures.Executor`` as who does the work, and threads for external programs."""

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from typing import final

from zograd.blackbox import Program
from zograd.evaluate._parcel import Parcel
from zograd.evaluate._pool_backend import Backend, Lost, Returned, Task
from zograd.evaluate._pool_messages import Answered, Asked, Missing, asked_of
from zograd.evaluate._pool_worker import Boxes, answer

_here = threading.local()


@final
class Threads(Backend):
    """Threads of this process: enough where the work is done by other programs.

    Args:
        workers: How many.
    """

    def __init__(self, workers: int) -> None:
        self.capacity = workers
        self._executor: ThreadPoolExecutor | None = None
        self._out: dict[Future[Answered], tuple[Parcel, Task]] = {}

    def send(self, box: Parcel, task: Task) -> None:
        """Begin a task in a thread."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self.capacity, thread_name_prefix="zograd")
        asked = asked_of("", task.points(), task.seeds, task.each)  # no key: nothing travels
        self._out[self._executor.submit(answer, box.blackbox, asked)] = box, task

    def receive(self, patience: float | None) -> Iterator[Returned]:
        """What has ended."""
        done, _ = wait(self._out, patience, FIRST_COMPLETED)
        for future in done:
            _, task = self._out.pop(future)
            yield task, future.result()

    def cancel(self) -> None:
        """Kill the programs that run, until no thread waits for one."""
        for future in self._out:
            future.cancel()
        while waiting := [future for future in self._out if not future.done()]:
            for future in waiting:
                box = self._out[future][0].blackbox
                if isinstance(box, Program):
                    box.interrupt()
            wait(waiting, 0.05)
        self._out.clear()

    def close(self) -> None:
        """End the threads."""
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None


@final
class Futures(Backend):
    """An executor of the caller's: loky, Dask, MPI, or the standard library's.

    Args:
        executor: It stays the caller's to shut down.
        workers: How many tasks it may have at a time.
        timeout: Seconds a row.
        isolate: Whether each of its workers runs the black box in a process of its own, which may then die.
    """

    def __init__(self, executor: Executor, workers: int, *, timeout: float | None, isolate: bool) -> None:
        self.executor, self.capacity = executor, workers
        self.timeout, self.isolate = timeout, isolate
        self._out: dict[Future[bytes], tuple[Parcel, Task, bool]] = {}
        self._telling = ("", 0)

    def send(self, box: Parcel, task: Task) -> None:
        """Submit a task."""
        # Who gets it is the executor's choice: as many are told of a version as there are workers, the others ask.
        told = self._telling[1] if self._telling[0] == box.key else 0
        self._telling = box.key, told + 1
        tell = not box.versioned or told < self.capacity // 2
        self._submit(box, task, box.message([box.before]) if tell else b"")

    def _submit(self, box: Parcel, task: Task, message: bytes, again: bool = False) -> None:
        asked = pickle.dumps(task.asked(box))
        isolate = self.isolate and not isinstance(box.blackbox, Program)
        self.sent += len(message) + len(asked)
        try:
            future = self.executor.submit(remote, message, asked, isolate, self.timeout)
        except Exception as error:  # an executor that is broken or shut down says so in its own way
            future = Future()
            future.set_exception(error)
        self._out[future] = box, task, again

    def receive(self, patience: float | None) -> Iterator[Returned]:
        """What has ended; who did not know the black box is told of it and asked again."""
        done, _ = wait(self._out, patience, FIRST_COMPLETED)
        for future in done:
            box, task, again = self._out.pop(future)
            try:
                returned = pickle.loads(future.result())
            except (Exception, CancelledError) as error:
                yield task, Lost("crashed", -1, f"the executor lost it: {type(error).__name__}: {error}")
                continue
            if isinstance(returned, Missing):
                self._submit(box, task, box.message([] if again else returned.known), again=True)
            else:
                yield task, returned

    def cancel(self) -> None:
        """Take back what has not begun; what an executor runs already cannot be stopped from here."""
        for future in self._out:
            future.cancel()
        self._out.clear()

    def close(self) -> None:
        """Nothing is ours."""


def remote(pickled: bytes, task: bytes, isolate: bool, timeout: float | None) -> bytes:
    """A task in an executor's worker.

    Args:
        pickled: The black box, or nothing where the worker should know it.
        task: An `Asked`.
        isolate: Whether to run it in a child process, which may hang or die.
        timeout: Seconds a row.
    """
    asked: Asked = pickle.loads(task)
    if isolate:
        return pickle.dumps(_isolated(pickled, asked, timeout))
    boxes: Boxes = _here.__dict__.setdefault("boxes", Boxes())
    if pickled and not boxes.knows(asked.key):
        boxes.learn(asked.key, pickled)
    answered = boxes.answer(asked)
    return pickle.dumps(Lost("failed", -1, answered) if isinstance(answered, str) else answered)


def _isolated(pickled: bytes, asked: Asked, timeout: float | None) -> Answered | Missing | Lost:
    from zograd.evaluate._pool_processes import Processes

    processes: Processes | None = getattr(_here, "processes", None)
    if processes is None:
        processes = _here.processes = Processes(1, timeout=timeout)  # ends with the thread
    processes.timeout = timeout
    return processes.one(pickled, asked)
