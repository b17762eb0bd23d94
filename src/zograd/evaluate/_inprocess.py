"""Evaluation here and now, in the caller's process and thread."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from zograd._checks import count, positive
from zograd._errors import ArgumentError, EvaluationError
from zograd._probes import Probes
from zograd._typing import Points
from zograd.blackbox import BlackBox, TorchFunction
from zograd.blackbox._blackbox import ROWS_AT_ONCE_BYTES
from zograd.evaluate._evaluator import Evaluator, Finished, Status

LONGEST_WAIT = 60.0

ROWS_MATERIALISED_BYTES = 8 * 2**20

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

    Cost: about 15 microseconds a row on top of a pointwise function, see ``benchmarks/overhead.py``.
    """

    def __init__(self, retries: int = 0, wait: float = 0.1) -> None:
        self.retries, self.pause = count("retries", retries, least=0), positive("wait", wait, "In seconds.")

    def stream(self, blackbox: BlackBox, probes: Sequence[Probes]) -> Iterator[Finished]:
        """Evaluate, one `Finished` a call of the black box and `Probes` in it."""
        unstructured = type(blackbox).probe in (BlackBox.probe, TorchFunction.probe)
        if unstructured and all(wave.quantity == "value" for wave in probes):
            for points, parts in _calls(probes, blackbox.rows_per_call):
                yield from self._tried(blackbox, points, parts)
            return
        for call, wave in enumerate(probes):
            size = blackbox.rows_per_call or max(1, len(wave))
            for start in range(0, len(wave), size):
                piece = wave[start : start + size]
                yield from self._tried(blackbox.probe, piece, [(call, range(start, start + len(piece)))])

    def _tried(
        self, evaluate: Callable[[Any], Tensor], asked: Probes | Points, parts: list[Part]
    ) -> Iterator[Finished]:
        for attempt in range(self.retries):
            pieces = list(_attempt(evaluate, asked, parts))
            if not any(_is_lost(piece) for piece in pieces):
                yield from pieces
                return
            time.sleep(min(LONGEST_WAIT, self.pause * 2**attempt))
        for piece in _attempt(evaluate, asked, parts):
            again = self.retries > 0 and _is_lost(piece)
            yield replace(piece, error=f"{piece.error} It was tried {self.retries + 1} times.") if again else piece


def _is_lost(piece: Finished) -> bool:
    """Whether nothing of it came back."""
    return piece.values is None or (len(piece.rows) == 1 and not bool(piece.values.isfinite().all()))


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
                waiting.append(points[taken : taken + rows])
                parts.append((call, range(start + taken, start + taken + rows)))
                taken += rows
                space -= rows
                if space == 0:
                    yield (waiting[0] if len(waiting) == 1 else torch.cat(waiting)), parts
                    waiting, parts = [], []
            start += taken
    if waiting:
        yield (waiting[0] if len(waiting) == 1 else torch.cat(waiting)), parts


def _attempt(evaluate: Callable[[Any], Tensor], asked: Probes | Points, parts: list[Part]) -> Iterator[Finished]:
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
    known = isinstance(error, EvaluationError)
    message = str(error) if known else f"{type(error).__name__}: {error}"
    status: Status = error.status if isinstance(error, EvaluationError) else "failed"
    for call, rows in parts:
        yield Finished(call, rows, status, share * len(rows), error=message, exception=error)


def _rows(values: Any, rows: int) -> Tensor:
    """``values``, which must be a tensor of ``rows`` rows."""
    if isinstance(values, Tensor) and values.ndim > 0 and values.shape[0] == rows:
        return values
    found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
    raise EvaluationError(
        f"a black box must return a tensor with one row a point, shape ({rows}, ...), found {found}.", status="invalid"
    )
