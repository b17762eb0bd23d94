"""Evaluation here and now, in the caller's process and thread."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from zograd._checks import count, positive
from zograd._errors import ArgumentError, EvaluationError
from zograd._probes import Probes
from zograd._typing import Points, Vector
from zograd.blackbox import BlackBox, TorchFunction
from zograd.blackbox._blackbox import ROWS_AT_ONCE_BYTES
from zograd.evaluate._evaluator import Evaluator, Finished, Status
from zograd.evaluate._seeds import Seeds, sown

LONGEST_WAIT = 60.0

ROWS_MATERIALISED_BYTES = 8 * 2**20
REPORT_SECONDS = 1e-3
"""Rows that take less than this together are reported together: a report costs as much as a cheap evaluation."""

Part = tuple[int, range]
"""A call of the wave, and some of its rows."""


@final
class InProcess(Evaluator):
    """Evaluates in this process, in ask order: a program of one point row by row, any other in one call a wave.

    The rows of a wave's `Probes` are put together, as many as ``rows_per_call`` says or as fit in 64 MiB of points, so
    that a batch of centres costs a batched program one call. A black box with a ``probe`` of its own gets the
    `Probes` as they are instead, ``rows_per_call`` rows at a time.

    Args:
        retries: How often a call that is lost is tried again; in a batch, one that is lost as a whole.
        wait: Seconds before the first of these, twice as many before each next.
        seed: Of the rows' seeds, which there are with common random numbers only.
        common_random_numbers: Whether ``{seed}`` of a `Program`, ``random``, NumPy and torch begin anew at every row of
            a program of one point, at one seed for the two sides of a mirrored pair. All of them go on afterwards as if
            they had not been touched. Else ``{seed}`` is 0, and the generators are left as they are.

    Cost: ``benchmarks/overhead.py`` measures what a row costs on top of the function itself.

    Raises:
        ArgumentError: When an argument is wrong; from `stream`, when a program of many points is to have common random
            numbers.
    """

    def __init__(
        self, retries: int = 0, wait: float = 0.1, *, seed: int = 0, common_random_numbers: bool = False
    ) -> None:
        self.retries, self.pause = count("retries", retries, least=0), positive("wait", wait, "In seconds.")
        self.seeds = Seeds(seed, common_random_numbers)

    def stream(self, blackbox: BlackBox, probes: Sequence[Probes]) -> Iterator[Finished]:
        """Evaluate, one `Finished` a call of the black box and `Probes` in it."""
        self.seeds.must_fit(blackbox)
        places = self._placed(probes)
        unstructured = type(blackbox).probe in (BlackBox.probe, TorchFunction.probe)
        if unstructured and all(wave.quantity == "value" for wave in probes):
            if blackbox.rows_per_call == 1:
                yield from self._row_by_row(blackbox, probes, places)
                return
            for points, parts in _calls(probes, blackbox.rows_per_call):
                yield from self._tried(blackbox, points, parts)
            return
        for call, wave in enumerate(probes):
            size = blackbox.rows_per_call or max(1, len(wave))
            pieces = [share.rows for share in blackbox.shares(wave)]
            for rows in pieces or (range(len(wave))[start : start + size] for start in range(0, len(wave), size)):
                yield from self._tried(blackbox.probe, wave[rows.start : rows.stop], [(call, rows)])

    def _row_by_row(
        self, blackbox: BlackBox, probes: Sequence[Probes], places: tuple[tuple[int, int], ...]
    ) -> Iterator[Finished]:
        """One point after the other."""
        for call, wave in enumerate(probes):
            group = _Group(call, wave.center)
            seeds = self.seeds.of(wave, *places[call]) if self.seeds.common else None
            for row, evaluate in enumerate(self._evaluations(blackbox, wave, seeds)):
                started = time.perf_counter()
                try:
                    value = evaluate()
                except ArgumentError:
                    raise  # the caller's mistake, not the program's
                except Exception as error:
                    yield from group.report()
                    status, words = _ending(error)
                    words += f" It was tried {self.retries + 1} times." if self.retries else ""
                    seconds = time.perf_counter() - started
                    yield Finished(call, range(row, row + 1), status, seconds, error=words, exception=error)
                except BaseException:
                    yield from group.report()  # Ctrl-C: what was paid for is kept
                    raise
                else:
                    seconds = time.perf_counter() - started
                    if not group.fits(value):
                        yield from group.report()
                    if group.add(row, value, seconds):
                        yield from group.report()
            yield from group.report()

    def _evaluations(
        self, blackbox: BlackBox, wave: Probes, seeds: list[int] | None
    ) -> Iterator[Callable[[], Tensor | float]]:
        """The evaluation of each row, to be made; points are made few at a time. All attempts have the row's seed."""
        at_once = max(1, ROWS_MATERIALISED_BYTES // (wave.dimension * wave.center.element_size()))
        seed = iter(seeds or ())
        for piece in wave.split(at_once):
            points = piece.points()
            calls: Iterator[Callable[[], Any]] = blackbox.each(points)
            if self.retries:
                calls = (partial(blackbox.one, point) for point in points)
            if seeds is not None:
                calls = (partial(_sown, next(seed), call) for call in calls)
            yield from (partial(self._retried, call) for call in calls) if self.retries else calls

    def _retried(self, evaluate: Callable[[], Tensor]) -> Tensor:
        """The value at one point; what is lost is tried again."""
        for attempt in range(self.retries):
            try:
                value = evaluate()
            except ArgumentError:
                raise
            except Exception:
                value = None
            if value is not None and bool(value.isfinite().all()):
                return value
            time.sleep(min(LONGEST_WAIT, self.pause * 2**attempt))
        return evaluate()

    def _tried(
        self, evaluate: Callable[[Any], Tensor], asked: Probes | Points, parts: list[Part]
    ) -> Iterator[Finished]:
        for attempt in range(self.retries):
            pieces = list(attempted(evaluate, asked, parts))
            if not any(_is_lost(piece) for piece in pieces):
                yield from pieces
                return
            time.sleep(min(LONGEST_WAIT, self.pause * 2**attempt))
        for piece in attempted(evaluate, asked, parts):
            again = self.retries > 0 and _is_lost(piece)
            yield replace(piece, error=f"{piece.error} It was tried {self.retries + 1} times.") if again else piece


def _sown(seed: int, evaluate: Callable[[], Any]) -> Any:
    with sown(seed):
        return evaluate()


def _is_lost(piece: Finished) -> bool:
    """Whether nothing of it came back."""
    return piece.values is None or (len(piece.rows) == 1 and not bool(piece.values.isfinite().all()))


@final
class _Group:
    """Rows in a row that came back well, reported together while they take less than `REPORT_SECONDS`."""

    def __init__(self, call: int, center: Vector) -> None:
        self.call, self.center, self.first, self.seconds = call, center, 0, 0.0
        self.values: list[Any] = []
        self.shape: torch.Size | None = None

    def fits(self, value: Tensor | float) -> bool:
        """Whether it is what the others are: a tensor of their shape, or a number."""
        return not self.values or self.shape == getattr(value, "shape", None)

    def add(self, row: int, value: Tensor | float, seconds: float) -> bool:
        """Take one in; say whether to report now."""
        if not self.values:
            self.first, self.shape = row, getattr(value, "shape", None)
        self.values.append(value)
        self.seconds += seconds
        return self.seconds >= REPORT_SECONDS

    def report(self) -> Iterator[Finished]:
        if self.values:
            rows = range(self.first, self.first + len(self.values))
            values = self.center.new_tensor(self.values) if self.shape is None else torch.stack(self.values)
            yield Finished(self.call, rows, "ok", self.seconds, values)
            self.values, self.seconds = [], 0.0


def _calls(probes: Sequence[Probes], rows_per_call: int | None) -> Iterator[tuple[Points, list[Part]]]:
    """The points of each call, and where its rows belong."""
    waiting: list[Tensor] = []
    parts: list[Part] = []
    space = 0
    for call, wave in enumerate(probes):
        row_bytes = wave.dimension * wave.center.element_size()
        budget = ROWS_AT_ONCE_BYTES if rows_per_call is None else ROWS_MATERIALISED_BYTES
        at_once = max(1, budget // row_bytes)
        start = 0
        for piece in wave.split(at_once):
            points = piece.points()
            taken, total = 0, points.shape[0]
            while taken < total:
                space = space or rows_per_call or at_once
                rows = min(space, total - taken)
                waiting.append(points if rows == total else points[taken : taken + rows])
                parts.append((call, range(start + taken, start + taken + rows)))
                taken += rows
                space -= rows
                if space == 0:
                    yield (waiting[0] if len(waiting) == 1 else torch.cat(waiting)), parts
                    waiting, parts = [], []
            start += taken
    if waiting:
        yield (waiting[0] if len(waiting) == 1 else torch.cat(waiting)), parts


def attempted(evaluate: Callable[[Any], Tensor], asked: Probes | Points, parts: list[Part]) -> Iterator[Finished]:
    """One call of the black box, as a `Finished` for each of its parts."""
    started = time.perf_counter()
    values: Tensor | None = None
    error: Exception | None = None
    sizes = [len(rows) for _, rows in parts]
    try:
        values = _rows(evaluate(asked), sum(sizes))
    except ArgumentError:
        raise  # the caller's mistake, not the program's
    except Exception as caught:
        error = caught
    share = (time.perf_counter() - started) / sum(sizes)
    if values is not None:
        pieces = torch.split(values, sizes) if len(parts) > 1 else (values,)
        for (call, rows), piece in zip(parts, pieces, strict=True):
            yield Finished(call, rows, "ok", share * len(rows), piece)
        return
    status, message = _ending(error)
    for call, rows in parts:
        yield Finished(call, rows, status, share * len(rows), error=message, exception=error)


def _ending(error: Exception | None) -> tuple[Status, str]:
    """How an evaluation that raised has ended, and in words."""
    if isinstance(error, EvaluationError):
        return error.status, str(error)
    return "failed", f"{type(error).__name__}: {error}"


def _rows(values: Any, rows: int) -> Tensor:
    """``values``, which must be a tensor of ``rows`` rows."""
    if isinstance(values, Tensor) and values.ndim > 0 and values.shape[0] == rows:
        return values
    found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
    raise EvaluationError(
        f"a black box must return a tensor with one row a point, shape ({rows}, ...), found {found}.", status="invalid"
    )
