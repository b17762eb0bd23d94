"""What a run's file holds, as plain values: read with care, for a file may be damaged or hostile."""

import json
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final, get_args

import torch
from torch import Tensor

from zograd._errors import RunError
from zograd._typing import Vector
from zograd.evaluate._evaluator import Status

T = TypeVar("T")

STATUSES = frozenset(get_args(Status))
LEVEL = 1
"""Of compression: pixels pack well already, noise never does."""
DTYPES = {str(dtype): dtype for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}


@final
@dataclass(frozen=True, slots=True)
class Evaluation:
    """One recorded evaluation.

    Args:
        call: The number of the step that it was for, counted from 1.
        row: Its row in that step's probes.
        digest: Of its point; see `digests`.
        value: What came back: NaN where nothing did.
        seconds: How long it took.
        status: How it ended.
        error: What went wrong, for a person.
        outputs: All that came back, where that is more than the value; kept only while a resumed run may need it.
    """

    call: int
    row: int
    digest: bytes
    value: float
    seconds: float
    status: Status
    error: str = ""
    outputs: Tensor | None = None


def stored(number: float | None) -> float | str | None:
    """A float as SQLite keeps it bit for bit; it has no NaN of its own."""
    return "nan" if number is not None and math.isnan(number) else number


def loaded(cell: Any) -> float | None:
    """What `stored` was given.

    Raises:
        ValueError: When it was something else.
    """
    if cell is None or isinstance(cell, float | int):
        return None if cell is None else float(cell)
    if cell == "nan":
        return math.nan
    raise ValueError(f"{cell!r:.40} is no number")


def evaluation(row: tuple[Any, ...]) -> Evaluation:
    """A row of the table.

    Raises:
        ValueError: When it is none.
    """
    call, place, digest, value, seconds, status, error = row
    number = loaded(value)
    good = isinstance(call, int) and isinstance(place, int) and isinstance(digest, bytes) and status in STATUSES
    good = good and isinstance(seconds, float | int) and isinstance(error, str | None)
    if not good or number is None or place < 0:
        raise ValueError(f"row {place!r:.20} of call {call!r:.20} is no evaluation")
    return Evaluation(call, place, digest, number, float(seconds), status, error or "")


def packed(point: Vector) -> tuple[str, bytes]:
    """A vector's dtype and bytes."""
    return str(point.dtype), bytes(point.detach().cpu().contiguous().view(torch.uint8).numpy().data)


def unpacked(dtype: Any, data: Any) -> Vector:
    """The vector of what `packed` gave.

    Raises:
        ValueError: When it is none.
    """
    if dtype not in DTYPES or not isinstance(data, bytes) or len(data) == 0 or len(data) % DTYPES[dtype].itemsize:
        raise ValueError("a point is no vector")
    vector: Tensor = torch.frombuffer(bytearray(data), dtype=DTYPES[dtype])
    return vector


def deflated(outputs: Tensor) -> tuple[str, str, bytes]:
    """Dtype, shape and compressed bytes of outputs: in float32 where that holds them exactly."""
    narrow = outputs.detach().cpu().contiguous()
    if narrow.dtype == torch.float64 and torch.equal(narrow.float().double(), narrow):
        narrow = narrow.float()
    shape = json.dumps(list(narrow.shape))
    return str(narrow.dtype), shape, zlib.compress(narrow.reshape(-1).view(torch.uint8).numpy().data, LEVEL)


def inflated(dtype: Any, shape: Any, data: Any) -> Tensor:
    """What `deflated` was given, in float64 or the dtype it has.

    Raises:
        ValueError: When it is none.
    """
    sizes = parsed(shape)
    good = isinstance(sizes, list) and all(isinstance(size, int) and size >= 0 for size in sizes)
    if not good or dtype not in DTYPES or not isinstance(data, bytes):
        raise ValueError("outputs are none")
    due = math.prod(sizes) * DTYPES[dtype].itemsize
    unpacking = zlib.decompressobj()
    try:
        found = unpacking.decompress(data, due + 1)
    except zlib.error as error:
        raise ValueError(f"outputs cannot be unpacked ({error})") from None
    if len(found) != due or due == 0:
        raise ValueError("outputs have another size")
    values: Tensor = torch.frombuffer(bytearray(found), dtype=DTYPES[dtype])
    return values.reshape(sizes).double() if DTYPES[dtype] == torch.float32 else values.reshape(sizes)


def parsed(text: Any) -> Any:
    """JSON from the file.

    Raises:
        ValueError: When it is none, or nested too deep.
    """
    if not isinstance(text, str):
        raise ValueError("a text is missing")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("a text is nested too deep") from None


def settings(text: Any) -> dict[str, Any]:
    """A run's configuration.

    Raises:
        ValueError: When it is none.
    """
    found = parsed(text)
    budget = found.get("evaluations") if isinstance(found, dict) else None
    if not isinstance(budget, int) or not 1 <= budget < 2**63:
        raise ValueError("the configuration is none")
    return dict(found)


def read(path: Path, convert: Callable[..., T], *cells: Any) -> T:
    """``convert(*cells)``, with what is no such thing as a `RunError`.

    Raises:
        RunError: When the cells are not what they must be.
    """
    try:
        return convert(*cells)
    except (ValueError, TypeError, OverflowError) as error:
        raise RunError(
            f"{path} must hold what zograd wrote, found that {error}. It is damaged, or was changed by other hands: "
            f"restore it from a copy, or move it away to start anew.",
            path=path,
        ) from error
