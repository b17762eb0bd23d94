"""How black boxes are evaluated: what came back, and what an evaluator promises."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, final

from zograd._probes import Probes
from zograd._typing import Values
from zograd.blackbox import BlackBox

Status = Literal["ok", "failed", "timeout", "crashed", "invalid"]


@final
@dataclass(frozen=True, eq=False, slots=True)
class Finished:
    """Rows of a wave that have come back, however they ended.

    Args:
        call: Which of the wave's `Probes` they belong to.
        rows: Which of its rows.
        status: ``"ok"``; ``"failed"`` (raised); ``"invalid"`` (returned nothing usable: NaN, inf, None, the wrong
            shape); ``"timeout"``; ``"crashed"`` (its process died).
        seconds: Wall time of the whole piece.
        values: Shape (len(rows), *out), or ``None`` unless ok. Single rows of an ok piece may still be NaN or
            inf; `gather` counts them as invalid.
        error: What went wrong, for a person.
        exception: The exception itself, where there was one in this process.
    """

    call: int
    rows: range
    status: Status
    seconds: float
    values: Values | None = None
    error: str = ""
    exception: BaseException | None = None


class Evaluator(ABC):
    """Gets probes evaluated. Knows nothing of gradients.

    Attributes:
        places: For each `Probes` of the next wave, the number of its call in the run and its first row there; empty
            outside a run. What is derived from a place, such as a seed, is the same whoever evaluates the row and
            when: a resumed run asks only for the rows that are missing.
        calls: The number of `Probes` placed so far outside a run, whose calls are numbered by it.
    """

    places: tuple[tuple[int, int], ...] = ()
    calls: int = 0

    @abstractmethod
    def stream(self, blackbox: BlackBox, probes: Sequence[Probes]) -> Iterator[Finished]:
        """Evaluate every row of every `Probes` of a wave; yield pieces as they finish, in any order.

        An exception of the black box is a `Finished` with its status, never raised here; KeyboardInterrupt and
        SystemExit pass through.
        """

    def _placed(self, probes: Sequence[Probes]) -> tuple[tuple[int, int], ...]:
        """The places of this wave, which are used up: those that the run said, else calls of their own."""
        places, self.places = self.places, ()
        if not places:
            places = tuple((self.calls + number, 0) for number in range(1, len(probes) + 1))
            self.calls += len(probes)
        return places
