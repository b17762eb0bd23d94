"""What a pool hands out and gets back, and what it needs of those who do the work."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias, final

import cloudpickle
import torch
from torch import Tensor

from zograd._errors import ArgumentError
from zograd._probes import Probes
from zograd.blackbox import BlackBox, FunctionBox
from zograd.evaluate._evaluator import Status
from zograd.evaluate._pool_worker import Answered


@final
class Box:
    """A black box as it travels: pickled once a wave, so that what the caller changes in between is seen.

    Args:
        blackbox: Any, closures and lambdas too.
    """

    def __init__(self, blackbox: BlackBox) -> None:
        self.blackbox = blackbox
        self._pickled: bytes | None = None

    def pickled(self) -> bytes:
        """All of it but what is known of its outputs.

        Raises:
            ArgumentError: When it cannot be pickled.
        """
        if self._pickled is None:
            box = self.blackbox
            known = box.outputs if isinstance(box, FunctionBox) else None
            try:
                if isinstance(box, FunctionBox):
                    box.outputs = None
                self._pickled = cloudpickle.dumps(box)
            except Exception as error:
                raise ArgumentError(
                    f"{box!r} must be something that can be sent to another process, found that it cannot be pickled "
                    f"({type(error).__name__}: {error}). Open files, locks and devices in the function itself.",
                    argument="fun",
                    found=box,
                ) from error
            finally:
                if isinstance(box, FunctionBox):
                    box.outputs = known
        return self._pickled

    @property
    def key(self) -> str:
        """Its digest."""
        return hashlib.blake2b(self.pickled(), digest_size=16).hexdigest()


@final
@dataclass(eq=False, slots=True)
class Task:
    """Rows of a wave that are sent out together.

    Args:
        wave: The probes, by call.
        parts: Which rows of which call.
        seeds: One a row where each is called by itself, else one.
        each: Whether each row is called by itself.
        whole: Whether the black box gets the `Probes` themselves; ``parts`` then has one entry.
        attempt: How often these rows have been lost before.

    Attributes:
        limit: The first row that has been taken back.
        places: Call and row of each row.
    """

    wave: "list[Probes]"
    parts: list[tuple[int, range]]
    seeds: list[int]
    each: bool
    whole: bool = False
    attempt: int = 0
    limit: int = field(init=False)
    places: list[tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.limit = 2**62
        self.places = [(call, row) for call, rows in self.parts for row in rows]

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.places)

    def points(self) -> Tensor | Probes:
        """What the black box gets."""
        pieces = [self.wave[call][rows.start : rows.stop] for call, rows in self.parts]
        return pieces[0] if self.whole else torch.cat([piece.points() for piece in pieces])

    def alone(self, row: int) -> "Task":
        """One of its rows, again."""
        call, place = self.places[row]
        return Task(self.wave, [(call, range(place, place + 1))], [self.seeds[row]], True, self.whole, self.attempt)


@final
@dataclass(frozen=True, slots=True)
class Lost:
    """A task that did not come back.

    Args:
        status: How it ended.
        row: Which of its rows was at fault; -1 where the task is lost as a whole.
        error: What is known.
    """

    status: Status
    row: int
    error: str


Returned: TypeAlias = "tuple[Task, Answered | Lost]"


class Backend(ABC):
    """Who does the work."""

    capacity: int
    """How many tasks may be out at a time."""

    @abstractmethod
    def send(self, box: Box, task: Task) -> None:
        """Begin a task; there are fewer than `capacity` out."""

    @abstractmethod
    def receive(self, patience: float | None) -> Iterator[Returned]:
        """What has ended within so many seconds; at least one task is out."""

    def reclaim(self) -> list[Task]:
        """Take back rows that wait behind a slow one, for those who have nothing to do."""
        return []

    @abstractmethod
    def cancel(self) -> None:
        """Stop all that is out; nothing of it is returned any more."""

    @abstractmethod
    def close(self) -> None:
        """Free what is held."""
