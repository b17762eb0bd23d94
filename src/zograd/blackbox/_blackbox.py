"""What is evaluated."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, final

import torch
from torch import Tensor

from zograd._errors import ArgumentError
from zograd._probes import Probes
from zograd._typing import Points, Values, Vector

ROWS_AT_ONCE_BYTES = 64 * 2**20
"""The points that the default `BlackBox.probe` materialises at once, at most."""


@final
class Share(NamedTuple):
    """Rows that are evaluated together, wherever that is.

    Args:
        rows: Which.
        cost: What they are expected to cost, in a unit that all shares of a wave have in common.
    """

    rows: range
    cost: float


class BlackBox(ABC):
    """A program that can be evaluated and not differentiated: points (n, d) to values (n, *out).

    Row i of the values comes from row i of the points alone. Failures are exceptions, or NaN rows.

    Attributes:
        rows_per_call: The rows that one call takes: ``1`` for a program that takes one point (each row is then
            timed and may fail by itself), ``None`` for as many as fit in memory.
    """

    rows_per_call: int | None = None

    @abstractmethod
    def __call__(self, points: Points) -> Values:
        """The values at ``points`` of shape (n, d): shape (n, *out)."""

    def one(self, point: Vector) -> Tensor:
        """The value at one point, shape out: what a program of ``rows_per_call = 1`` is asked for."""
        return self(point[None])[0]

    def each(self, points: Points) -> Iterator[Callable[[], Tensor | float]]:
        """`one` of each row, to be called once: override where rows are cheaper to prepare together.

        A call may return a number in place of a tensor of shape ().
        """
        for point in points:
            yield partial(self.one, point)

    def shares(self, probes: Probes) -> list[Share]:
        """All rows in shares for workers to take, where values depend on which rows are evaluated in one call.

        What is in a share follows from the probes alone, never from the number of workers, so that any number of them
        gives the same values bit for bit. Empty, the default, where rows may be put together in any way.
        """
        return []

    def probe(self, probes: Probes) -> Values:
        """The values at ``probes``, shape (n, *out): split, call, concatenate. Override where structure helps.

        Raises:
            ArgumentError: When the probes ask for derivatives, which only a torch function has.
        """
        if probes.quantity != "value":
            raise ArgumentError(
                f"probes that ask for a {probes.quantity} need a black box made with zo.torch_function, found "
                f"{type(self).__name__}. Use an estimator of values (RandomGradient, CoordinateGradient) here.",
                argument="estimator",
                found=self,
            )
        return torch.cat([self(piece.points()) for piece in probes.split(self._rows_at_once(probes))])

    def _rows_at_once(self, probes: Probes) -> int:
        row_bytes = probes.dimension * probes.center.element_size()
        return self.rows_per_call or max(1, ROWS_AT_ONCE_BYTES // row_bytes)
