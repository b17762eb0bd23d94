r"""The line protocol of a persistent worker.

A worker is a process that reads one JSON line from stdin for each evaluation and writes one JSON line to stdout::

    {"id": 7, "parameters": {"width": 2e-05}, "seed": 0, "scratch": "/tmp/zograd-x1y2"}
    {"id": 7, "result": 0.25}

`parameters` is what the program takes, `seed` a number for its random numbers, `scratch` a directory of its own that is
removed after the answer. The answer repeats `id`, or leaves it out, and holds one of

- ``result``: a number, nested lists of numbers, or an object of these;
- ``error``: why there is none, for a person; the evaluation counts as failed, and the worker goes on;
- ``arrays``: a list of objects ``{"name": "image", "dtype": "<f4", "shape": [64, 64, 3]}``. The arrays follow the line
  as raw bytes, row-major, one after the other. One array without a name is the result itself;
- nothing more, where the result is in a file of the scratch directory.

dtypes are little-endian: ``<f4 <f8 |u1 |i1 <u2 <i2 <u4 <i4 <u8 <i8``. Nothing else may be written to stdout. At the end
of stdin the worker ends.
"""

import math
from pathlib import Path
from typing import Any, final

import numpy as np

from zograd._errors import EvaluationError
from zograd.blackbox._program_results import array_of, numbers, parsed

LONGEST_LINE = 16 * 2**20
DTYPES = ("<f4", "<f8", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8")


@final
class Answer:
    """One answer of a worker, as its bytes come in.

    Args:
        number: The `id` of what was asked.
        limit: The bytes of arrays that are too many.

    Attributes:
        line: The JSON object, once its line is there.
    """

    def __init__(self, number: int, limit: int) -> None:
        self.number, self.limit = number, limit
        self.line: dict[str, Any] | None = None
        self._start = self._size = 0
        self._seen = 0
        self._layout: list[tuple[str, np.dtype, tuple[int, ...]]] = []

    def complete(self, data: bytearray) -> bool:
        """Whether ``data`` is the whole answer.

        Raises:
            EvaluationError: With status ``"invalid"``, when it is none.
        """
        if self.line is None:
            end = data.find(b"\n", self._seen)
            self._seen = len(data)
            if max(end, len(data) if end < 0 else end) > LONGEST_LINE:
                raise _invalid(f"its line has more than {LONGEST_LINE:,} bytes")
            if end < 0:
                return False
            self._start = end + 1
            self.line = self._parsed(bytes(data[:end]))
        have = len(data) - self._start
        if have > self._size:
            raise _invalid(f"{have - self._size:,} bytes follow its answer")
        return have == self._size

    def result(self, data: bytearray) -> Any:
        """The numbers in a complete answer.

        Raises:
            EvaluationError: With status ``"failed"`` when the worker says that it has none, else ``"invalid"``.
        """
        if self.line is None:
            raise _invalid("there is no line")
        if "error" in self.line:
            said = self.line["error"]
            reason = said[:2000] if isinstance(said, str) else "(no text)"
            raise EvaluationError(f"the worker says: {reason}", status="failed")
        if not self._layout:
            if "result" not in self.line:
                raise _invalid('there is no "result" in its line')
            return numbers(self.line["result"])
        found, start = {}, self._start
        for name, dtype, shape in self._layout:
            end = start + math.prod(shape) * dtype.itemsize
            found[name] = array_of(bytes(data[start:end]), dtype, shape)
            start = end
        return found[""] if set(found) == {""} else found

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            found = parsed(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise _invalid(f"a JSON object was due, found {line[:80]!r}; everything else belongs on stderr")
        if found.get("id", self.number) != self.number:
            raise _invalid(f"its id must be {self.number}, as asked")
        self._layout = _layout(found.get("arrays", []))
        self._size = sum(math.prod(shape) * dtype.itemsize for _, dtype, shape in self._layout)
        if self._size > self.limit:
            raise _invalid(f"its arrays have {self._size:,} bytes, more than {self.limit:,}")
        return found


def request(number: int, told: Any, seed: int, scratch: Path) -> dict[str, Any]:
    """What a worker is asked."""
    return {"id": number, "parameters": told, "seed": seed, "scratch": str(scratch)}


def _layout(said: Any) -> list[tuple[str, np.dtype, tuple[int, ...]]]:
    """Name, dtype and shape of each array that follows a line."""
    layout = []
    for entry in said if isinstance(said, list) else [None]:
        found = entry if isinstance(entry, dict) else {}
        dtype, shape, name = found.get("dtype"), found.get("shape"), found.get("name", "")
        sides = shape if isinstance(shape, list) else [None]
        whole = all(type(side) is int and 0 <= side < 2**48 for side in sides)
        if dtype not in DTYPES or not whole or not isinstance(name, str):
            raise _invalid(
                f"an array must say its dtype ({' '.join(DTYPES)}), its shape in whole numbers, and its name"
            )
        layout.append((name, np.dtype(dtype), tuple(sides)))
    names = [name for name, _, _ in layout]
    if len(set(names)) < len(names) or (len(names) > 1 and "" in names):
        raise _invalid(f"its arrays must have different names, found {str(names)[:80]}")
    return layout


def _invalid(reason: str) -> EvaluationError:
    return EvaluationError(f"the worker broke the line protocol: {reason}.", status="invalid")
