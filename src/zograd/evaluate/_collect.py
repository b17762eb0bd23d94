"""From finished pieces, in any order, to the values of a wave, in ask order."""

from collections.abc import Sequence
from typing import final

import numpy as np
import torch

from zograd._arrays import array
from zograd._errors import EvaluationError
from zograd._probes import Probes
from zograd._typing import Values
from zograd.blackbox import BlackBox
from zograd.evaluate._evaluator import Evaluator, Finished
from zograd.evaluate._failures import FailurePolicy, Tally, last_words


@final
class Collector:
    """Puts what came back into ask order and applies the failure policy.

    Args:
        probes: The wave.
        policy: What a lost evaluation counts as.
        shape: The shape of one output where it is known (``()`` for a loss; one entry of any shape is then a
            number), or ``None`` to learn it from the first good piece.
        tally: Where lost evaluations are counted.
    """

    def __init__(
        self,
        probes: Sequence[Probes],
        policy: FailurePolicy,
        shape: tuple[int, ...] | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.probes = probes
        self.policy = policy
        self.shape = shape
        self.tally = tally if tally is not None else Tally()
        self._good: list[tuple[Finished, Values]] = []

    def add(self, finished: Finished) -> Values:
        """Take one piece; return its values, shape (rows, *out) or (rows,) of the fill for a lost piece.

        Raises:
            EvaluationError: When an evaluation is lost and the policy is to stop, or more are lost than it allows.
        """
        before = self.tally.total
        values = self._taken(self._checked(finished))
        self.tally.look(len(finished.rows), self.tally.total - before, self.policy)
        return values

    def _taken(self, finished: Finished) -> Values:
        if finished.values is None:
            self._lose(finished, list(finished.rows))
            return self.probes[finished.call].center.new_full((len(finished.rows),), self.policy.fill)
        values = finished.values
        finite = np.isfinite(array(values))
        if not finite.all():
            lost = np.flatnonzero(~finite.reshape(len(finite), -1).all(1)).tolist()
            self._lose(finished, [finished.rows[row] for row in lost])
            values = values.clone()
            values[lost] = self.policy.fill
        self._good.append((finished, values))
        return values

    def values(self) -> list[Values]:
        """The values of each of the wave's `Probes`, shape (n, *out), lost rows filled.

        Raises:
            EvaluationError: When no evaluation came back and the shape of an output is not known.
        """
        if self.shape is None:
            raise EvaluationError(f"every evaluation was lost ({self.tally}).{last_words(self.tally)}")
        if len(self._good) == len(self.probes) == 1 and len(self._good[0][1]) == len(self.probes[0]):
            return [self._good[0][1].to(self.probes[0].center, copy=True)]  # it came back as a whole, as it mostly does
        wave = [p.center.new_full((len(p), *self.shape), self.policy.fill) for p in self.probes]
        for finished, values in self._good:
            wave[finished.call][finished.rows.start : finished.rows.stop] = values
        return wave

    def _checked(self, finished: Finished) -> Finished:
        """``finished`` with values of the one shape that all outputs have, or as an invalid piece."""
        if finished.values is None:
            return finished
        rows, *out = finished.values.shape
        if rows != len(finished.rows):
            error = f"the black box must return one row a point, found {rows} rows for {len(finished.rows)} points."
            return Finished(finished.call, finished.rows, "invalid", finished.seconds, error=error)
        shape = tuple(out)
        if self.shape is None:
            self.shape = shape
        if shape == self.shape:
            return finished
        if self.shape == () and finished.values[0].numel() == 1:
            values = finished.values.flatten()
            return Finished(finished.call, finished.rows, "ok", finished.seconds, values)
        due = "one number" if self.shape == () else f"an output of shape {self.shape}"
        error = f"the black box must return {due}, found shape {shape}."
        return Finished(finished.call, finished.rows, "invalid", finished.seconds, error=error)

    def _lose(self, finished: Finished, rows: list[int]) -> None:
        self.tally.add(finished, len(rows))
        if self.policy.stop:
            row = rows[0]
            raise EvaluationError(
                f"Row {row} of call {finished.call} {finished.status}: {finished.error or 'NaN or inf'} "
                f'Pass on_failure="drop" to go on without it.',
                status="invalid" if finished.status == "ok" else finished.status,
                call=finished.call,
                row=row,
            ) from finished.exception


def evaluate(
    evaluator: Evaluator,
    blackbox: BlackBox,
    probes: Sequence[Probes],
    policy: FailurePolicy,
    shape: tuple[int, ...] | None = None,
) -> list[Values]:
    """The values of a whole wave, in ask order: `Evaluator.stream` and a `Collector`.

    Raises:
        EvaluationError: As the policy says, or when nothing at all came back.
    """
    collector = Collector(probes, policy, shape)
    with torch.no_grad():
        for finished in evaluator.stream(blackbox, probes):
            collector.add(finished)
    return collector.values()
