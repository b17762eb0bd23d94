"""What a pool hands out and gets back, and what it needs of those who do the work."""

import copy
import hashlib
import pickle
import weakref
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias, final

import cloudpickle
import torch
from torch import Tensor

from zograd._errors import ArgumentError
from zograd._parameters import Parameters
from zograd._probes import Probes
from zograd.blackbox import BlackBox, FunctionBox
from zograd.evaluate._evaluator import Status
from zograd.evaluate._parcel import Parcel
from zograd.evaluate._pool_messages import Answered, Asked, Missing, asked_of

KEPT_BYTES = 8 * 2**20
"""The points of one call that are made all at once, at most."""

_known: "weakref.WeakKeyDictionary[Parameters, bytes]" = weakref.WeakKeyDictionary()
"""What never changes is pickled once."""


@final
class Box(Parcel):
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
            box, parts = self.blackbox, b""
            try:
                if isinstance(box, FunctionBox):
                    parts = _parts(box)
                    box = copy.copy(box)
                    box.outputs = box.parameters = None
                self._pickled = pickle.dumps((cloudpickle.dumps(box), parts))
            except Exception as error:
                raise ArgumentError(
                    f"{self.blackbox!r} must be something that can be sent to another process, found that it cannot be "
                    f"pickled ({type(error).__name__}: {error}). Open files, locks and devices in the function itself.",
                    argument="fun",
                    found=self.blackbox,
                ) from error
        return self._pickled

    def message(self, known: Collection[str]) -> bytes:
        """All of it, whatever is known."""
        return self.pickled()

    @cached_property
    def key(self) -> str:  # type: ignore[override]
        """Its digest."""
        return hashlib.blake2b(self.pickled(), digest_size=16).hexdigest()


def _parts(box: FunctionBox) -> bytes:
    """Its parameters."""
    if box.parameters is None:
        return b""
    if any(leaf.options for leaf in box.parameters._leaves):  # objects of the caller's, which may change
        return bytes(cloudpickle.dumps(box.parameters))
    if box.parameters not in _known:
        _known[box.parameters] = cloudpickle.dumps(box.parameters)
    return _known[box.parameters]


@final
class Rows:
    """The points of a wave, made once where they are few.

    Args:
        probes: The wave.
    """

    def __init__(self, probes: Sequence[Probes]) -> None:
        self.probes = probes
        self._made: dict[int, Tensor] = {}

    def points(self, call: int, rows: range) -> Tensor:
        """Some points of one call."""
        wave = self.probes[call]
        if len(wave) * wave.dimension * wave.center.element_size() > KEPT_BYTES:
            return wave[rows.start : rows.stop].points()
        if call not in self._made:
            self._made[call] = wave.points()
        return self._made[call][rows.start : rows.stop]


@final
@dataclass(eq=False, slots=True)
class Task:
    """Rows of a wave that are sent out together.

    Args:
        wave: Where its points are.
        parts: Which rows of which call.
        seeds: One a row where each is called by itself, else one.
        each: Whether each row is called by itself.
        whole: Whether the black box gets the `Probes` themselves; ``parts`` then has one entry.
        attempt: How often these rows have been lost before.
        crashes: How often they have been lost with their worker, and given to another.

    Attributes:
        limit: The first row that has been taken back.
        places: Call and row of each row.
    """

    wave: Rows
    parts: list[tuple[int, range]]
    seeds: list[int]
    each: bool
    whole: bool = False
    attempt: int = 0
    crashes: int = 0
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
        if self.whole:
            ((call, rows),) = self.parts
            return self.wave.probes[call][rows.start : rows.stop]
        pieces = [self.wave.points(call, rows) for call, rows in self.parts]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def asked(self, parcel: Parcel) -> Asked:
        """What a worker is asked."""
        return asked_of(parcel.key, parcel.points(self.points()), self.seeds, self.each)

    def some(self, start: int, stop: int) -> "Task":
        """Some of its rows, again."""
        parts, before = [], 0
        for call, rows in self.parts:
            mine = rows[max(0, start - before) : max(0, stop - before)]
            before += len(rows)
            parts += [(call, mine)] if mine else []
        return Task(self.wave, parts, self.seeds[start:stop], True, self.whole, self.attempt, self.crashes)

    def alone(self, row: int) -> "Task":
        """One of its rows, again."""
        return self.some(row, row + 1)


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


Returned: TypeAlias = "tuple[Task, Answered | Missing | Lost]"


class Backend(ABC):
    """Who does the work."""

    capacity: int
    """How many tasks may be out at a time."""

    sent: int = 0
    """Bytes that have gone out."""

    @abstractmethod
    def send(self, box: Parcel, task: Task) -> None:
        """Begin a task; there are fewer than `capacity` out."""

    @abstractmethod
    def receive(self, patience: float | None) -> Iterator[Returned]:
        """What has ended within so many seconds; at least one task is out."""

    reclaims = False
    """Whether rows that wait in a worker can be taken back, so that tasks may be large."""

    def reclaim(self, seconds: float) -> list[Task]:
        """Take back rows that wait in a worker, for another that has nothing to do.

        Args:
            seconds: What a row takes; NaN where it is not known.
        """
        return []

    @abstractmethod
    def cancel(self) -> None:
        """Stop all that is out; nothing of it is returned any more."""

    @abstractmethod
    def close(self) -> None:
        """Free what is held."""
