"""A command line as a black box."""

import contextlib
import copy
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from zograd._checks import count, positive, require
from zograd._errors import EvaluationError
from zograd.blackbox._functions import FunctionBox
from zograd.blackbox._lives import Lives, Worker
from zograd.blackbox._processes import MARK, Child, how_it_ended
from zograd.blackbox._program_inputs import Inputs, encoded, plain
from zograd.blackbox._program_results import Form, Results, finite
from zograd.blackbox._program_worker import LONGEST_LINE, Answer, request
from zograd.blackbox._seed import evaluation_seed

THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "BLIS", "VECLIB_MAXIMUM", "RAYON")
"""One thread each by default: as many programs run at a time as there are workers."""


@final
class Program(FunctionBox):
    r"""A command line as a black box: it is told its parameters, and its result is read from what it writes.

    **Parameters** go to the command in any of three ways, together or alone:

    - ``{name}`` in a word of the command; ``{scratch}`` and ``{seed}`` too. A word is put in as a whole: there is no
      shell, and nothing to quote.
    - ``${name}`` in ``templates``, such as netlists and input decks, which are written to the scratch directory under
      their own names.
    - one line of JSON on stdin, as ``x0`` was given, where neither of the others is used.

    Braces around what is no parameter stay as they are; a parameter that nothing uses is an error.

    Names are those that `Parameters` shows: ``width``, ``lens.radius``, ``x[3]``.

    **The result** is ``"json"`` (a number, lists of numbers, an object of these), a compiled regular expression whose
    groups are numbers (the last match counts), a dict of regular expressions by name, ``"npy"``, or ``"image"``
    (numbers from 0 to 1), on stdout or in a ``file`` of the scratch directory. ``then`` turns it into what is wanted,
    such as the loss of a dict of measurements.

    **Each evaluation** has a scratch directory of its own, which is also its working directory and is removed
    afterwards. A word of the command that names a file where `Program` is made is that file, wherever it runs.

    **What can go wrong** is one lost evaluation each: another exit code than zero is ``failed``, killed by a signal is
    ``crashed``, not done within ``timeout`` is ``timeout`` (the process is killed with all that it started), and a
    result that is missing, garbage, NaN or too long is ``invalid``. The message has the last lines of stderr.

    A program that prints few digits is a staircase: print all 17 (``%.17g``).

    **Cost**: starting a process an evaluation, and whatever the program itself needs to start;
    ``persistent=True`` pays that once a worker. Such a worker reads and writes one JSON line an evaluation,
    see ``zograd.blackbox._program_worker`` for the protocol and ``examples/workers`` for templates.

    **When**: a simulator, a renderer, a solver that is a program of its own. Linux and macOS.

    Args:
        command: The words of the command line.
        result: How the result is written.
        file: The file that it is in, relative to the scratch directory; ``None`` for stdout.
        templates: Files to render.
        stdin: Whether JSON is written to stdin; by default where no word and no template takes a parameter.
        then: Called with the result, in this process; its value is the output.
        timeout: Seconds an evaluation.
        persistent: Whether the command is a worker that answers many times.
        recycle_after: Evaluations after which a worker is replaced, for one that leaks.
        memory: Bytes of address space a process (Linux).
        exit_codes: Those with which it has a result; for a solver that exits with 1 after a warning, ``(0, 1)``.
        env: Environment variables to add. Thread pools default to one thread.
        cwd: The working directory in place of the scratch directory, which ``{scratch}`` still names.
        keep_failed: Keep the scratch directory of a lost evaluation, with ``stderr.txt`` and ``parameters.json``; the
            message says where.
        max_output: The bytes of output that are too many; of an image, unpacked.

    Raises:
        ArgumentError: When an argument is wrong.

    Example:
        >>> import zograd as zo
        >>> program = zo.Program(["echo", "{width}"])
        >>> program({"width": 2.5})
        2.5
    """

    rows_per_call = 1

    def __init__(
        self,
        command: Sequence[str],
        *,
        result: Form | re.Pattern[str] | Mapping[str, str | re.Pattern[str]] = "json",
        file: str | None = None,
        templates: Sequence[str | Path] = (),
        stdin: bool | None = None,
        then: Callable[[Any], Any] | None = None,
        timeout: float | None = None,
        persistent: bool = False,
        recycle_after: int | None = None,
        memory: int | None = None,
        exit_codes: Collection[int] = (0,),
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        keep_failed: bool = False,
        max_output: int = 64 * 2**20,
    ) -> None:
        require(then is None or callable(then), "then", "be callable", then, "It turns the result into the output.")
        limit = count("max_output", max_output, hint="In bytes.")
        inputs, results = Inputs(command, templates, stdin, file), Results(result, file, limit)
        if persistent:
            stdout = results.from_answer or file is not None
            require(stdout, "result", 'be "json" or in a file where the program is persistent', result)
        if memory is not None:
            count("memory", memory, hint="In bytes.")
            require(sys.platform == "linux", "memory", "be None: this system cannot limit it", memory)
        if recycle_after is not None:
            count("recycle_after", recycle_after)
            require(persistent, "persistent", "be True where workers are recycled", persistent)
        codes = isinstance(exit_codes, Collection) and not isinstance(exit_codes, str | bytes) and len(exit_codes) > 0
        codes = codes and all(type(code) is int and 0 <= code <= 255 for code in exit_codes)
        require(codes, "exit_codes", "be numbers from 0 to 255", exit_codes, "Such as (0, 1).")
        told = not persistent or set(exit_codes) == {0}
        require(
            told, "exit_codes", "be left out where the program is persistent: it says itself how it went", exit_codes
        )
        folder = None if cwd is None else Path(cwd).absolute()
        require(folder is None or folder.is_dir(), "cwd", "be a directory", cwd)
        added = dict(env or {})
        texts = all(isinstance(word, str) for pair in added.items() for word in pair)
        require(texts, "env", "map names to strings", env)
        self._command = _Command(
            inputs,
            results,
            then=then,
            timeout=None if timeout is None else positive("timeout", timeout, "In seconds an evaluation."),
            persistent=persistent,
            recycle_after=recycle_after,
            memory=memory,
            exit_codes=frozenset(exit_codes),
            env=added,
            cwd=folder,
            keep_failed=keep_failed,
        )
        super().__init__(self._command)

    def __call__(self, points: Any) -> Any:
        """Run it at one point, as ``x0`` is given, such as a dict of values; or once a row of a tensor (n, d).

        Several threads may ask at once.

        Args:
            points: What the program is told; a tensor of two dimensions is n points.

        Returns:
            What it said, after ``then``; for n points a tensor of shape (n, *out).

        Raises:
            EvaluationError: When it is lost.
        """
        if not (isinstance(points, Tensor) and points.ndim == 2):
            return self.function(points)
        decode = self.parameters.decode if self.parameters is not None else Tensor.clone
        return torch.stack([self._packed(self.function(decode(point)), points, None) for point in points])

    def limited(self, timeout: float) -> "Program":
        """The same program, the same workers, with at most ``timeout`` seconds an evaluation."""
        program = copy.copy(self)
        program._command = program.function = self._command.limited(timeout)
        return program

    def interrupt(self) -> None:
        """Kill every evaluation that runs now, from any thread; those are lost as ``crashed``."""
        self._command.interrupt()

    def close(self) -> None:
        """End the persistent workers; the next evaluation starts new ones."""
        self._command.close()

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Program({self._command.inputs.command})"


@final
class _Command:
    """What a `Program` calls: one evaluation of a decoded point, from any thread."""

    def __init__(
        self,
        inputs: Inputs,
        results: Results,
        *,
        then: Callable[[Any], Any] | None,
        timeout: float | None,
        persistent: bool,
        recycle_after: int | None,
        memory: int | None,
        exit_codes: frozenset[int],
        env: dict[str, str],
        cwd: Path | None,
        keep_failed: bool,
    ) -> None:
        self.inputs, self.results, self.then = inputs, results, then
        self.timeout, self.memory, self.env, self.cwd = timeout, memory, env, cwd
        self.persistent, self.recycle_after, self.keep_failed = persistent, recycle_after, keep_failed
        self.exit_codes = exit_codes
        self._lives = Lives()

    @property
    def __name__(self) -> str:
        return Path(self.inputs.command[0]).name

    def __call__(self, decoded: Any) -> Any:
        told, seed = plain(decoded), evaluation_seed.get()
        scratch, keep = Path(tempfile.mkdtemp(prefix="zograd-")), False
        try:
            self.inputs.render(told, scratch, seed)
            read = (self._asked if self.persistent else self._started)(told, scratch, seed)
        except EvaluationError as error:
            if not self.keep_failed:
                raise
            keep = True
            _keep(scratch / "parameters.json", encoded(told))
            raise EvaluationError(f"{error} Its files are kept in {scratch}.", status=error.status) from error
        finally:
            if not keep:
                shutil.rmtree(scratch, ignore_errors=True)
        return self.then(read) if self.then is not None else read

    def limited(self, timeout: float) -> "_Command":
        """The same command and workers, with at most so many seconds."""
        command = copy.copy(self)
        command.timeout = timeout if self.timeout is None else min(timeout, self.timeout)
        return command

    def interrupt(self) -> None:
        """Kill what runs."""
        self._lives.kill()

    def close(self) -> None:
        """End the idle workers."""
        self._lives.close()

    def _started(self, told: Any, scratch: Path, seed: int) -> Any:
        """One evaluation by a process of its own."""
        words = self.inputs.words(told, scratch, seed)
        began, kills = time.monotonic(), self._lives.kills
        child = Child(words, cwd=self.cwd or scratch, environment=self._environment(scratch, seed), memory=self.memory)
        with self._lives.running(child, kills), self._explained(child, scratch, began):
            deadline = None if self.timeout is None else began + self.timeout
            answer = child.talk(self.inputs.sent(told), deadline=deadline, limit=self.results.limit)
            code = child.stop(search=False)
            status, sentence = how_it_ended(child.name, code, time.monotonic() - began)
            if code not in self.exit_codes:
                raise EvaluationError(sentence, status="failed" if status == "ok" else status)
            return self.results.read(answer, scratch)

    def _asked(self, told: Any, scratch: Path, seed: int) -> Any:
        """One evaluation by a persistent worker."""
        began, kills = time.monotonic(), self._lives.kills
        worker = self._lives.idle() or self._hired(told, seed)
        child = worker.child
        with self._lives.running(child, kills, worker), self._explained(child, scratch, began):
            answer = Answer(worker.asked, self.results.limit)
            line = encoded(request(worker.asked, told, seed, scratch))
            deadline = None if self.timeout is None else began + self.timeout
            worker.asked, worker.waits = worker.asked + 1, False
            limit = LONGEST_LINE + self.results.limit
            data = child.talk(line, deadline=deadline, limit=limit, complete=answer.complete)
            if answer.line is None or not answer.complete(data):
                status, sentence = how_it_ended(child.name, child.stop(), time.monotonic() - began)
                raise EvaluationError(f"{sentence} It did not answer.", status="failed" if status == "ok" else status)
            worker.waits = self.recycle_after is None or worker.asked < self.recycle_after
            if self.results.from_answer or "error" in answer.line:
                return finite(answer.result(data))
            return self.results.read(b"", scratch)

    def _hired(self, told: Any, seed: int) -> Worker:
        self.inputs.refuse_words(told)
        home = Path(tempfile.mkdtemp(prefix="zograd-"))
        words = self.inputs.words({}, home, seed)
        environment = self._environment(home, seed)
        return Worker(Child(words, cwd=self.cwd or home, environment=environment, memory=self.memory), home)

    def _environment(self, scratch: Path, seed: int) -> dict[str, str]:
        single = {f"{name}_NUM_THREADS": "1" for name in THREADS}
        return {**os.environ, **single, **self.env, MARK: str(scratch), "ZOGRAD_SEED": str(seed)}

    @contextlib.contextmanager
    def _explained(self, child: Child, scratch: Path, began: float) -> Iterator[None]:
        """Say how long an evaluation that is lost took, and what was last on stderr."""
        try:
            yield
        except EvaluationError as error:
            if self.keep_failed:
                _keep(scratch / "stderr.txt", child.stderr)
            took = f" It ran for {time.monotonic() - began:.2g} s." if error.status == "timeout" else ""
            raise EvaluationError(f"{error}{took}{child.last_lines()}", status=error.status) from error


def _keep(path: Path, data: bytes) -> None:
    """Write a new file, never one that the program made, nor through a link of its."""
    with contextlib.suppress(OSError):
        if not path.parent.is_symlink():
            with path.open("xb") as file:
                file.write(data)
