"""The processes of a program: those that run, and the persistent workers that wait."""

import contextlib
import shutil
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import final

from zograd.blackbox._processes import Child


@final
class Worker:
    """A persistent worker.

    Args:
        child: Its process.
        home: Its directory.

    Attributes:
        asked: How often it has been asked.
        waits: Whether it has answered and may be asked again.
    """

    def __init__(self, child: Child, home: Path) -> None:
        self.child, self.home = child, home
        self.asked = 0
        self.waits = False

    def stop(self) -> None:
        """End it."""
        self.child.stop()
        shutil.rmtree(self.home, ignore_errors=True)


@final
class Lives:
    """Who runs and who waits, from any thread. What waits ends with this object, and with the interpreter.

    Attributes:
        kills: How often `kill` was called.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Child] = set()
        self._waiting: list[Worker] = []
        self.kills = 0
        weakref.finalize(self, _end, self._waiting)

    def __reduce__(self) -> tuple[type["Lives"], tuple[()]]:
        """Processes do not travel: a copy elsewhere starts its own."""
        return Lives, ()

    @contextlib.contextmanager
    def running(self, child: Child, kills: int, worker: Worker | None = None) -> Iterator[None]:
        """Keep ``child`` where `kill` finds it. It ends here, unless it is a worker that waits for more.

        Args:
            child: The process.
            kills: The count before it was started: a `kill` since then was meant for it too.
            worker: Whose process it is.
        """
        with self._lock:
            self._running.add(child)
            missed = self.kills > kills
        try:
            if missed:
                child.kill()
            yield
        finally:
            with self._lock:
                self._running.discard(child)
                waits = worker is not None and worker.waits
                if worker is not None and waits:
                    self._waiting.append(worker)
            if worker is None:
                child.stop()
            elif not waits:
                worker.stop()

    def idle(self) -> Worker | None:
        """A worker that waits and still lives, if there is one."""
        while True:
            with self._lock:
                if not self._waiting:
                    return None
                worker = self._waiting.pop()
            if not worker.child.ended():
                return worker
            worker.stop()

    def kill(self) -> None:
        """Kill what runs; those that wait for it see its end."""
        with self._lock:
            self.kills += 1
            running = list(self._running)
        for child in running:
            child.kill()

    def close(self) -> None:
        """End the workers that wait."""
        with self._lock:
            waiting = self._waiting[:]
            self._waiting.clear()
        _end(waiting)


def _end(waiting: list[Worker]) -> None:
    for worker in waiting:
        worker.stop()
