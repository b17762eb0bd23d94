"""What a pool and its workers say to each other."""

from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from zograd._probes import Probes
from zograd.blackbox import Outputs
from zograd.evaluate._evaluator import Status
from zograd.evaluate._replica import Around


@final
class Asked(NamedTuple):
    """What a worker is asked: the black box by its key, and points row by row, at once, or as `Probes`.

    Args:
        key: Of the black box.
        points: Shape (n, d) as an array, `Probes`, or probes `Around` a replica's own centre.
        dtype: Of the points.
        seeds: One for each row that is called by itself, or one for all.
        each: Whether each row is called by itself.
    """

    key: str
    points: Any
    dtype: torch.dtype
    seeds: list[int]
    each: bool


@final
class Outcome(NamedTuple):
    """How one call ended.

    Args:
        status: As in `Finished`, or ``"argument"`` for a mistake of the caller's.
        seconds: Wall time.
        values: An array of shape (rows, *out), a float for one number of one row, or ``None``.
        error: What went wrong.
        exception: The exception, pickled where it could be.
        outputs: How one output is laid out, where that is known and is not one number.
    """

    status: Status | str
    seconds: float
    values: Any = None
    error: str = ""
    exception: bytes = b""
    outputs: Outputs | None = None


@final
class Missing(NamedTuple):
    """What a worker answers that does not know what it is asked about.

    Args:
        known: The keys that it knows.
    """

    known: tuple[str, ...]


@final
class Answered(NamedTuple):
    """What a worker answers: one outcome a call."""

    outcomes: list[Outcome]


def asked_of(key: str, points: Tensor | Probes | Around, seeds: list[int], each: bool) -> Asked:
    """A task as it travels: by value, whatever device it comes from."""
    if not isinstance(points, Tensor):
        return Asked(key, points, torch.float64, seeds, each)
    narrow = points.dtype in (torch.float32, torch.float64)
    return Asked(key, (points if narrow else points.double()).cpu().numpy(), points.dtype, seeds, each)
