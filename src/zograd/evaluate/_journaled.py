"""An evaluator that pays for no evaluation twice: known ones come from the journal, new ones go into it."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import final

import torch

from zograd._errors import RunError
from zograd._probes import Probes
from zograd._typing import Values, Weights
from zograd.blackbox import BlackBox
from zograd.evaluate._digests import digests
from zograd.evaluate._evaluator import Evaluator, Finished, Status
from zograd.evaluate._journal import Journal
from zograd.evaluate._records import Evaluation


@final
class Journaled(Evaluator):
    """What another evaluator does, recorded as it finishes.

    Args:
        inner: Who evaluates what is not known.
        journal: Where it is written.
        losses: The loss of each of some outputs, for black boxes that return more than one number: the loss is kept
            for good, the outputs as long as a resumed run may need them. What is no longer there is evaluated again.

    Attributes:
        places: The call of each `Probes` in the journal; streaming the same call again replays what is known of it.
        again: A call whose lost evaluations are tried once more, not replayed: the one that a run failed at.
    """

    def __init__(self, inner: Evaluator, journal: Journal, losses: Callable[[Values], Weights] | None = None) -> None:
        self.losses = losses
        self.inner = inner
        self.journal = journal
        self.again = 0

    def stream(self, blackbox: BlackBox, probes: Sequence[Probes]) -> Iterator[Finished]:
        """Replay what is known, then evaluate and record the rest.

        Raises:
            RunError: When a recorded point is another one than is asked for now, or the journal cannot be written.
        """
        marks = [digests(wave) for wave in probes]
        calls = [call for call, _ in self.places] or list(range(1, len(probes) + 1))
        pieces: list[tuple[int, int, Probes]] = []
        for index, wave in enumerate(probes):
            known = self._known(calls[index], marks[index])
            yield from _replayed(index, known)
            pieces += [(index, rows.start, wave[rows.start : rows.stop]) for rows in _gaps(known, len(wave))]
        if not pieces:
            return
        self.inner.places = tuple((calls[index], start) for index, start, _ in pieces)
        for finished in self.inner.stream(blackbox, [piece for _, _, piece in pieces]):
            index, start, _ = pieces[finished.call]
            rows = range(start + finished.rows.start, start + finished.rows.stop)
            self.journal.append(self._evaluations(finished, calls[index], rows, marks[index]))
            yield Finished(
                index,
                rows,
                finished.status,
                finished.seconds,
                finished.values,
                finished.error,
                finished.exception,
            )

    def _known(self, call: int, marks: list[bytes]) -> list[Evaluation]:
        known = self.journal.recall(call)
        for each in known:
            if each.row >= len(marks) or each.digest != marks[each.row]:
                now = marks[each.row].hex() if each.row < len(marks) else f"no such row among {len(marks)}"
                raise RunError(
                    f"row {each.row} of call {call} must be the point that was recorded, found another one: its digest "
                    f"was {each.digest.hex()}, now it is {now}. The run no longer makes the same decisions: the "
                    f"estimator, the optimiser, or what they run on (versions of zograd and torch, the machine, its "
                    f"number of threads) has changed since. Go back to what it was, or start a new run.",
                    path=self.journal.path,
                    differences=(f"call {call}, row {each.row}: {each.digest.hex()} -> {now}",),
                )
        if self.losses is not None:
            known = [each for each in known if each.status != "ok" or each.outputs is not None]
        return [each for each in known if each.status == "ok"] if call == self.again else known

    def _evaluations(self, finished: Finished, call: int, rows: range, marks: list[bytes]) -> Iterator[Evaluation]:
        """One record a row."""
        if self.losses is None or finished.values is None or finished.values.shape[:1] != (len(rows),):
            yield from _evaluations(finished, call, rows, marks)
            return
        seconds = finished.seconds / max(1, len(rows))
        for row, outputs, loss in zip(rows, finished.values, self.losses(finished.values).tolist(), strict=True):
            status: Status = "ok" if math.isfinite(loss) else "invalid"
            yield Evaluation(call, row, marks[row], loss, seconds, status, "", outputs if status == "ok" else None)


def _replayed(index: int, known: list[Evaluation]) -> Iterator[Finished]:
    """Known evaluations as pieces: neighbours that went well together, lost ones alone."""
    group: list[Evaluation] = []
    for each in known:
        if group and (each.status != "ok" or each.row != group[-1].row + 1):
            yield _piece(index, group)
            group = []
        if each.status == "ok":
            group.append(each)
        else:
            rows = range(each.row, each.row + 1)
            yield Finished(index, rows, each.status, each.seconds, error=each.error)
    if group:
        yield _piece(index, group)


def _piece(index: int, group: list[Evaluation]) -> Finished:
    if group[0].outputs is not None:
        values = torch.stack([each.outputs for each in group if each.outputs is not None])
    else:
        values = torch.tensor([each.value for each in group], dtype=torch.float64)
    rows = range(group[0].row, group[-1].row + 1)
    return Finished(index, rows, "ok", sum(each.seconds for each in group), values)


def _gaps(known: list[Evaluation], rows: int) -> Iterator[range]:
    """The rows that are not known, neighbours together."""
    start = 0
    for row in [*(each.row for each in known), rows]:
        if row > start:
            yield range(start, row)
        start = row + 1


def _evaluations(finished: Finished, call: int, rows: range, marks: list[bytes]) -> Iterator[Evaluation]:
    """One record a row; what is not one finite number is recorded as invalid."""
    seconds = finished.seconds / max(1, len(rows))
    values = finished.values
    if finished.status == "ok" and values is not None and values.shape[:1] == (values.numel(),) == (len(rows),):
        for row, value in zip(rows, values.flatten().tolist(), strict=True):
            number = float(value)
            yield Evaluation(call, row, marks[row], number, seconds, "ok" if math.isfinite(number) else "invalid")
        return
    status, error = finished.status, finished.error
    if status == "ok":
        status, error = "invalid", "the black box must return one number a point."
        if values is not None:
            error = f"the black box must return one number, found shape {tuple(values.shape[1:])}."
    for row in rows:
        yield Evaluation(call, row, marks[row], math.nan, seconds, status, error)
