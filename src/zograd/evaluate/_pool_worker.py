"""What runs in a worker: one task after another, row by row where the black box takes one point.

Nothing here is called in the caller's process, except by threads and by executors that have no other.

A row's own path is short and avoids torch where it can: between two rows of a busy program the caches have been used by
others, and code that takes 10 us in a loop then takes 200.
"""

import copy
import mmap
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import parent_process
from typing import Any, final

import cloudpickle
import torch
from torch import Tensor

from zograd._errors import ArgumentError, EvaluationError
from zograd._probes import Probes
from zograd.blackbox import BlackBox, FunctionBox
from zograd.blackbox._processes import MARK
from zograd.blackbox._program import THREADS
from zograd.blackbox._seed import evaluation_seed
from zograd.evaluate._pool_messages import Answered, Asked, Missing, Outcome
from zograd.evaluate._replica import Around, Change, Replica, key_of
from zograd.evaluate._seeds import sow

EVERY_ROW = 2**62

BOXES_KEPT = 4

_one_network = threading.Lock()
"""Threads of one process share torch's random numbers, from which dropout masks are drawn."""


@final
class Progress:
    """What a worker and its parent tell each other in mid-task, in memory that they share: no system calls.

    Args:
        handle: Of a file of `BYTES` bytes.
    """

    BYTES = 24

    def __init__(self, handle: int) -> None:
        self._memory = mmap.mmap(handle, self.BYTES)
        self._rows, self._times = memoryview(self._memory).cast("q"), memoryview(self._memory).cast("d")

    def begin(self, row: int) -> bool:
        """Say that a row begins, in the worker; False where it is no longer the worker's."""
        # The parent reads the row first, and may so take a row for a younger one, but not for an older.
        self._times[1] = time.monotonic()
        self._rows[0] = row
        return row < self._rows[2]

    def running(self) -> tuple[int, float]:
        """Which row of its task the worker runs, or -1, and since when."""
        row, since = self._rows[0], self._times[1]
        return row, since if row >= 0 else time.monotonic()

    def limit(self, row: int) -> int:
        """Take back the rows from ``row`` on, in the parent; return the first that is taken."""
        self._rows[2] = row
        if self._rows[0] >= row:  # it was quicker
            self._rows[2] = EVERY_ROW
            return EVERY_ROW
        return row

    def clear(self) -> None:
        """Before a task."""
        self._rows[0], self._rows[2] = -1, EVERY_ROW

    def close(self) -> None:
        """Let the memory go."""
        self._rows.release()
        self._times.release()
        self._memory.close()


def answer(box: BlackBox, asked: Asked, started: Callable[[int], bool] = lambda row: True) -> Answered:
    """Evaluate a task here.

    Args:
        box: The black box.
        asked: The task.
        started: Told each row as it starts; says whether to go on.
    """
    outcomes: list[Outcome] = []
    if isinstance(box, FunctionBox):
        box = copy.copy(box)  # threads share one, and what is known of its outputs is each task's own
    with torch.no_grad():
        try:
            calls = _calls(box, asked)
        except ArgumentError as error:  # of the first row, before it has begun
            return Answered([_lost(error, 0.0)] if started(0) else [])
        for row, (call, seed) in enumerate(zip(calls, asked.seeds, strict=True)):
            if not started(row):
                break
            token = evaluation_seed.set(seed)
            try:
                outcomes.append(_outcome(box, call))
            finally:
                evaluation_seed.reset(token)
    return Answered(outcomes)


def _calls(box: BlackBox, asked: Asked) -> list[Callable[[], Any]]:
    """The calls of a task, to be made; what they need of torch is done for all of them together."""
    points = asked.points
    if isinstance(points, Around):
        points = points.probes(box.center)  # type: ignore[attr-defined]
    elif not isinstance(points, Probes):
        points = torch.from_numpy(points).to(asked.dtype)
    if isinstance(points, Tensor) and asked.each and type(box).each is not BlackBox.each:
        return [partial(_row, call) for call in box.each(points)]
    ask: Callable[[Any], Tensor] = box.probe if isinstance(points, Probes) else box
    pieces = [points[row : row + 1] for row in range(len(points))] if asked.each else [points]
    return [partial(_rows, ask, piece) for piece in pieces]


def _row(call: Callable[[], Tensor | float]) -> Tensor | float:
    """What a black box returns for one point: one number as it is, else as a row."""
    value = call()
    return value[None] if isinstance(value, Tensor) else value


def _rows(ask: Callable[[Any], Any], points: Any) -> Tensor:
    """What a black box returns for many points, which must be one row a point."""
    values = ask(points)
    if not isinstance(values, Tensor) or values.ndim == 0 or len(values) != len(points):
        found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise EvaluationError(
            f"a black box must return a tensor with one row a point, shape ({len(points)}, ...), found {found}.",
            status="invalid",
        )
    return values


def _outcome(box: BlackBox, call: Callable[[], Tensor | float]) -> Outcome:
    if isinstance(box, FunctionBox):
        box.outputs = None  # each row by itself: one that is laid out in another way must not decide for the next
    began = time.perf_counter()
    try:
        values = call()
        if isinstance(values, float):
            return Outcome("ok", time.perf_counter() - began, float(values))
    except BaseException as error:
        return _lost(error, time.perf_counter() - began)
    narrow = values.dtype in (torch.float32, torch.float64)
    array = (values if narrow else values.double()).detach().cpu().numpy()
    outputs = box.outputs if isinstance(box, FunctionBox) else None
    return Outcome("ok", time.perf_counter() - began, array, outputs=outputs)


def _lost(error: BaseException, seconds: float) -> Outcome:
    status: str = "failed"
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, EvaluationError | ArgumentError):
        status, message = (error.status if isinstance(error, EvaluationError) else "argument"), str(error)
    return Outcome(status, seconds, error=message, exception=_pickled(error))


def _pickled(error: BaseException) -> bytes:
    try:
        return pickle.dumps(error)
    except Exception:  # it may hold anything
        return b""


@final
class Boxes:
    """The black boxes that a worker has been sent, the last few of them, or the reason why one cannot be had."""

    def __init__(self) -> None:
        self._known: dict[str, BlackBox | Replica | str] = {}

    def learn(self, key: str, pickled: bytes) -> None:
        """Keep one in the place of its version before, and forget the oldest; a change of what is not known is not."""
        try:
            sent = pickle.loads(pickled)
            if isinstance(sent, Change):
                before = self._known.pop(key_of(sent.session, sent.base), None)
                if sent.base >= 0 and not isinstance(before, Replica):
                    return
                replica = before if isinstance(before, Replica) else Replica()
                with _one_network:
                    replica.apply(sent)
                self._keep(key, replica)
            else:
                box = cloudpickle.loads(sent[0])
                if sent[1]:
                    box.parameters = cloudpickle.loads(sent[1])
                self._keep(key, box)
        except Exception as error:
            self._keep(key, f"the program cannot be loaded in a worker: {type(error).__name__}: {error}")

    def _keep(self, key: str, box: "BlackBox | Replica | str") -> None:
        while len(self._known) >= BOXES_KEPT:
            del self._known[next(iter(self._known))]
        self._known[key] = box

    def knows(self, key: str) -> bool:
        """Whether it has been sent."""
        return key in self._known

    def answer(self, asked: Asked, started: Callable[[int], bool] = lambda row: True) -> Answered | Missing | str:
        """Evaluate a task, every row from its own seed; or say why not."""
        if asked.key not in self._known:
            return Missing(tuple(self._known))
        box = self._known[asked.key]
        if isinstance(box, str):
            return box

        def begin(row: int) -> bool:
            sow(asked.seeds[row])
            return started(row)

        if isinstance(box, Replica):
            with _one_network, box.settings.applied():
                return answer(box.loss, asked, begin)
        return answer(box, asked, begin)


def serve(connection: Connection, progress: str, memory: int | None) -> None:
    """The whole life of a worker process.

    Args:
        connection: To its parent.
        progress: The file that says which row runs.
        memory: Bytes of address space that it may add.
    """
    os.setsid()  # what it starts is found, and ends, with it; a Ctrl-C at the terminal is its parent's
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ.update({f"{name}_NUM_THREADS": "1" for name in THREADS}, **{MARK: progress})
    torch.set_num_threads(1)
    if memory is not None:
        import resource

        import psutil

        most = psutil.Process().memory_info().vms + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    boxes = Boxes()
    with open(progress, "r+b", buffering=0) as file:
        begin = Progress(file.fileno()).begin
    while True:
        try:
            asked: Asked | tuple[str, bytes] = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        if isinstance(asked, Asked):
            connection.send_bytes(pickle.dumps(boxes.answer(asked, begin)))
        else:
            boxes.learn(*asked)


def _die_with_parent() -> None:
    """End when the parent has been killed: nobody else would."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)
