"""A process and everything that it starts: bounded talk with it, and an end that leaves nothing behind."""

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, final

import psutil

from zograd._errors import EvaluationError

STDERR_KEPT = 8192
"""Bytes of stderr that are kept: its end."""

MARK = "ZOGRAD_SCRATCH"
"""The environment variable that names an evaluation's scratch directory, and by which what it started is found."""

POLL_SECONDS = 0.02
READ_BYTES = 65536


@final
class Child:
    """A process in a session of its own.

    Args:
        command: Its words; no shell sees them.
        cwd: Its working directory.
        environment: All of its environment.
        memory: Bytes of address space that it, and each process it starts, may have (Linux).

    Raises:
        EvaluationError: When it cannot be started.
    """

    def __init__(
        self, command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], memory: int | None = None
    ) -> None:
        self.name = Path(command[0]).name
        self.mark = environment.get(MARK, "")
        self.started = time.monotonic()
        self._stderr = bytearray()
        self._lock = threading.Lock()
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env=dict(environment),
                bufsize=0,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise EvaluationError(f"{command[0]} could not be started: {error}.", status="failed") from error
        self.pid = self._process.pid
        if memory is not None:
            _limit_memory(self.pid, memory)
        self._watch: int | None = None
        with contextlib.suppress(OSError, AttributeError):
            self._watch = os.pidfd_open(self.pid)
        for pipe in self._pipes():
            os.set_blocking(pipe.fileno(), False)

    def talk(
        self,
        sent: bytes,
        *,
        deadline: float | None,
        limit: int,
        complete: Callable[[bytearray], bool] | None = None,
    ) -> bytearray:
        """Send bytes, and read what comes back.

        Args:
            sent: Written to its stdin, which is then closed unless ``complete`` is given.
            deadline: The `time.monotonic` at which it is too late.
            limit: The bytes of stdout that are too many.
            complete: Whether the bytes so far are the whole answer; ``None`` to read until it exits.

        Raises:
            EvaluationError: With status ``"timeout"``, or ``"invalid"`` when there is too much output. The process
                still runs then.
        """
        stdin, stdout, stderr = self._pipes()
        answer, waiting = bytearray(), memoryview(sent)
        with selectors.DefaultSelector() as selector:
            for pipe in (stdout, stderr):
                if not pipe.closed:
                    selector.register(pipe, selectors.EVENT_READ)
            if not stdin.closed:
                selector.register(stdin, selectors.EVENT_WRITE)
            if self._watch is not None:
                selector.register(self._watch, selectors.EVENT_READ)
            while True:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise EvaluationError(f"{self.name} was stopped at its time limit.", status="timeout")
                patience = left if self._watch is not None else min(POLL_SECONDS, left or POLL_SECONDS)
                ready = {key.fileobj for key, _ in selector.select(patience)}
                # Before the reading: what it wrote before it ended is then all read.
                ended = self.ended()
                if stdin in ready:
                    waiting = _write(stdin, waiting)
                    if not waiting:
                        selector.unregister(stdin)
                        if complete is None:
                            stdin.close()
                for pipe, kept, most in ((stdout, answer, limit), (stderr, self._stderr, None)):
                    if not pipe.closed and (pipe in ready or ended) and not _read(pipe, kept, most):
                        selector.unregister(pipe)
                        pipe.close()
                del self._stderr[:-STDERR_KEPT]
                if len(answer) > limit:
                    raise EvaluationError(f"{self.name} wrote more than {limit:,} bytes.", status="invalid")
                if ended or (complete is not None and (complete(answer) or stdout.closed)):
                    return answer

    def ended(self) -> bool:
        """Whether the process itself has ended; it is not reaped, so that its number still stands for its group."""
        if self._process.returncode is not None:
            return True
        if hasattr(os, "waitid"):
            try:
                return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            except ChildProcessError:  # somebody else in this process has waited for it
                return True
        return self._process.poll() is not None

    def stop(self, *, search: bool = True) -> int:
        """End it and all that it started; return its exit code, negative for a signal.

        Args:
            search: Look for what left its process group too, which reads the table of all processes.
        """
        with self._lock:
            if self._process.returncode is None:
                kill_tree(self.pid, mark=self.mark if search else "", search=search)
                self._process.wait()
                for pipe in self._pipes():
                    with contextlib.suppress(OSError):
                        pipe.close()
                if self._watch is not None:
                    os.close(self._watch)
            return self._process.returncode

    def kill(self) -> None:
        """Kill it and all that it started, from any thread; whoever talks with it sees its end."""
        with self._lock:  # its number is its own until it is reaped
            if self._process.returncode is None:
                kill_tree(self.pid, mark=self.mark)

    def last_lines(self, most: int = 5) -> str:
        """The end of its stderr, for a message."""
        lines = [line for line in self._stderr.decode(errors="replace").splitlines() if line.strip()]
        return " Its last lines: " + " | ".join(line[-300:] for line in lines[-most:]) if lines else ""

    @property
    def stderr(self) -> bytes:
        """The end of its stderr."""
        return bytes(self._stderr)

    def _pipes(self) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
        process: Any = self._process
        return process.stdin, process.stdout, process.stderr


def how_it_ended(name: str, code: int, seconds: float) -> tuple[Literal["ok", "failed", "crashed"], str]:
    """The status of an exit code, and a sentence."""
    if code == 0:
        return "ok", f"{name} ended after {seconds:.2g} s."
    if code > 0:
        return "failed", f"{name} exited with {code} after {seconds:.2g} s."
    try:
        known = signal.Signals(-code).name
    except ValueError:
        known = f"signal {-code}"
    return "crashed", f"{name} was killed by {known} after {seconds:.2g} s."


def kill_tree(pid: int, *, mark: str = "", search: bool = True) -> None:
    """Kill the process group of ``pid``, what descends from it, and what carries its mark.

    Args:
        pid: The leader of a session.
        mark: The scratch directory by which a process that has been detached is still found.
        search: Whether to read the table of processes for descendants; the group alone is one system call.
    """
    for _ in range(3):  # what was forked while the list was made is in the next one
        found = _family(pid, mark) if search else []
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if not found:
            return


def _family(pid: int, mark: str) -> list[psutil.Process]:
    found = []
    with contextlib.suppress(psutil.Error):
        found = psutil.Process(pid).children(recursive=True)
    if mark:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid != pid and process.environ().get(MARK) == mark and process not in found:
                    found.append(process)
    return [process for process in found if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _limit_memory(pid: int, memory: int) -> None:
    import resource

    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_AS, (memory, memory))


def _write(pipe: IO[bytes], waiting: memoryview) -> memoryview:
    """What is still to be written; nothing where nobody reads."""
    try:
        return waiting[os.write(pipe.fileno(), waiting[:READ_BYTES]) :]
    except BlockingIOError:
        return waiting
    except OSError:
        return waiting[:0]


def _read(pipe: IO[bytes], into: bytearray, most: int | None) -> bool:
    """Take what is there, a little over ``most`` bytes in all; return False at the end of the file."""
    while most is None or len(into) <= most:
        try:
            piece = os.read(pipe.fileno(), READ_BYTES)
        except BlockingIOError:
            return True
        if not piece:
            return False
        into += piece
        if most is None:
            return True
    return True
