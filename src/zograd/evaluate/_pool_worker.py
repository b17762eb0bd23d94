"""What runs in a worker: one task after another, row by row where the black box takes one point.

Nothing here is called in the caller's process, except by threads and by executors that have no other.
"""

import os
import pickle
import random
import signal
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import parent_process
from typing import Any, final

import cloudpickle
import numpy as np
import torch
from torch import Tensor

from zograd._errors import ArgumentError, EvaluationError
from zograd._probes import Probes
from zograd.blackbox import BlackBox, FunctionBox, Outputs
from zograd.blackbox._processes import MARK
from zograd.blackbox._program import THREADS
from zograd.blackbox._seed import evaluation_seed
from zograd.evaluate._evaluator import Status

PROGRESS = struct.Struct("<qd")
"""Which row runs, and since when: the worker writes it, and the parent then names the right row of a chunk."""

LIMIT = struct.Struct("<q")
"""The first row of a chunk that is no longer the worker's: the parent writes it, after the progress, in one file."""

EVERY_ROW = 2**62

BOXES_KEPT = 4


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """What a worker is asked: the black box by its key, and points row by row, at once, or as `Probes`.

    Args:
        key: Of the black box.
        points: Shape (n, d) as an array, or `Probes`.
        dtype: Of the points.
        seeds: One for each row that is called by itself, or one for all.
        each: Whether each row is called by itself.
    """

    key: str
    points: Any
    dtype: torch.dtype
    seeds: list[int]
    each: bool


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """How one call ended.

    Args:
        status: As in `Finished`, or ``"argument"`` for a mistake of the caller's.
        seconds: Wall time.
        values: Shape (rows, *out), or ``None``.
        error: What went wrong.
        exception: The exception, pickled where it could be.
    """

    status: Status | str
    seconds: float
    values: Any = None
    error: str = ""
    exception: bytes = b""


@final
@dataclass(frozen=True, slots=True)
class Answered:
    """What a worker answers: one outcome a call, and how the outputs are laid out."""

    outcomes: list[Outcome]
    outputs: Outputs | None


def asked_of(key: str, points: Tensor | Probes, seeds: list[int], each: bool) -> Asked:
    """A task as it travels: by value, whatever device it comes from."""
    if isinstance(points, Probes):
        return Asked(key, points, points.center.dtype, seeds, each)
    narrow = points.dtype in (torch.float32, torch.float64)
    return Asked(key, (points if narrow else points.double()).cpu().numpy(), points.dtype, seeds, each)


def answer(box: BlackBox, asked: Asked, started: Callable[[int], bool] = lambda row: True) -> Answered:
    """Evaluate a task here.

    Args:
        box: The black box.
        asked: The task.
        started: Told each row as it starts; says whether to go on.
    """
    points = asked.points if isinstance(asked.points, Probes) else torch.from_numpy(asked.points).to(asked.dtype)
    ask: Callable[[Any], Tensor] = box.probe if isinstance(points, Probes) else box
    calls = [points[row : row + 1] for row in range(len(points))] if asked.each else [points]
    outcomes = []
    for row, (call, seed) in enumerate(zip(calls, asked.seeds, strict=True)):
        if not started(row):
            break
        token = evaluation_seed.set(seed)
        try:
            outcomes.append(_outcome(ask, call))
        finally:
            evaluation_seed.reset(token)
    return Answered(outcomes, box.outputs if isinstance(box, FunctionBox) else None)


def _outcome(ask: Callable[[Any], Tensor], points: Any) -> Outcome:
    began = time.perf_counter()
    try:
        with torch.no_grad():
            values = ask(points)
        if not isinstance(values, Tensor) or values.ndim == 0 or len(values) != len(points):
            found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise EvaluationError(
                f"a black box must return a tensor with one row a point, shape ({len(points)}, ...), found {found}.",
                status="invalid",
            )
    except BaseException as error:
        seconds = time.perf_counter() - began
        status: str = "failed"
        message = f"{type(error).__name__}: {error}"
        if isinstance(error, EvaluationError | ArgumentError):
            status, message = (error.status if isinstance(error, EvaluationError) else "argument"), str(error)
        return Outcome(status, seconds, error=message, exception=_pickled(error))
    narrow = values.dtype in (torch.float32, torch.float64)
    array = (values if narrow else values.double()).detach().cpu().numpy()
    return Outcome("ok", time.perf_counter() - began, values=array)


def _pickled(error: BaseException) -> bytes:
    try:
        return pickle.dumps(error)
    except Exception:  # it may hold anything
        return b""


def seeded(seed: int) -> None:
    """Seed every global generator, so that a row's noise does not depend on which worker runs it."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - it is the user's program that draws from it
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 0.4 ms: it asks every kind of device
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


@final
class Boxes:
    """The black boxes that a worker has been sent, the last few of them, or the reason why one cannot be had."""

    def __init__(self) -> None:
        self._known: dict[str, BlackBox | str] = {}

    def learn(self, key: str, pickled: bytes) -> None:
        """Keep one, and forget the oldest."""
        while len(self._known) >= BOXES_KEPT:
            del self._known[next(iter(self._known))]
        try:
            self._known[key] = cloudpickle.loads(pickled)
        except Exception as error:
            self._known[key] = f"the program cannot be loaded in a worker: {type(error).__name__}: {error}"

    def knows(self, key: str) -> bool:
        """Whether it has been sent."""
        return key in self._known

    def answer(self, asked: Asked, started: Callable[[int], bool] = lambda row: True) -> Answered | str:
        """Evaluate a task, every row from its own seed; or say why not."""
        box = self._known[asked.key]
        if isinstance(box, str):
            return box

        def begin(row: int) -> bool:
            seeded(asked.seeds[row])
            return started(row)

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

        def started(row: int) -> bool:
            # In this order; the parent writes and reads in the other, so that no row is done by two.
            os.pwrite(file.fileno(), PROGRESS.pack(row, time.monotonic()), 0)
            return bool(row < LIMIT.unpack(os.pread(file.fileno(), LIMIT.size, PROGRESS.size))[0])

        while True:
            try:
                asked: Asked | tuple[str, bytes] = pickle.loads(connection.recv_bytes())
            except EOFError:
                return
            if isinstance(asked, Asked):
                connection.send_bytes(pickle.dumps(boxes.answer(asked, started)))
            else:
                boxes.learn(*asked)


def _die_with_parent() -> None:
    """End when the parent has been killed: nobody else would."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)
