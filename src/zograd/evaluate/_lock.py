"""One writer a run: a lock that the operating system drops when its process ends, however it ends."""

import os
import socket
import sys
import weakref
from pathlib import Path
from typing import final

from zograd._errors import RunError

FAR = 2**30
"""The byte that is locked on Windows, where nobody may read what is locked: far behind the text."""

_held: "weakref.WeakSet[WriterLock]" = weakref.WeakSet()


@final
class WriterLock:
    """Held from creation to `close`.

    Args:
        path: The lock's file; it stays behind, unlocked, for deleting it would race with the next writer.

    Raises:
        RunError: When another writer holds it, or the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise RunError(
                f"a run must be able to write to {path.parent}, found: {error}. Pass another run=, or make the "
                f"directory writable; zograd.read_run reads a run without writing.",
                path=path.parent,
            ) from error
        try:
            _lock(self._descriptor)
        except OSError as error:
            holder = os.read(self._descriptor, 200).decode("utf-8", "replace").strip()
            os.close(self._descriptor)
            raise RunError(
                f"a run must have one writer, found that {path.parent} is being written by "
                f"{holder or 'another process'}. Wait for it or stop it (in this process: close that run first); "
                f"zograd.read_run reads it meanwhile.",
                path=path.parent,
            ) from error
        _held.add(self)
        self._describe()

    def close(self) -> None:
        """Let the next writer in."""
        if self in _held:
            _held.discard(self)
            os.close(self._descriptor)

    def _describe(self) -> None:
        """Say who holds it, for the error of whoever comes second."""
        try:
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except OSError:  # a full disk: the lock holds without its text
            pass


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":  # pragma: no cover
        import msvcrt

        os.lseek(descriptor, FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _forget() -> None:
    """In a forked child: a worker that outlives a killed writer must not keep the run locked."""
    for lock in list(_held):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
