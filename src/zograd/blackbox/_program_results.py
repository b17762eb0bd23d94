"""What a command says: from JSON, text, an array or an image to numbers. Nothing here trusts a byte of it."""

import io
import json
import math
import os
import re
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

from zograd._checks import one_of, require
from zograd._errors import EvaluationError, MissingExtraError

Form = Literal["json", "npy", "image"]

DEEPEST = 32
"""Levels of nesting that are taken for a result."""

IMAGES = ("PNG", "JPEG", "PPM", "BMP", "TIFF")


@final
class Results:
    """How a command's result is read.

    Args:
        form: ``"json"``, ``"npy"``, ``"image"``, a regular expression, or regular expressions by name.
        file: The file in the scratch directory that it is in; ``None`` for stdout.
        limit: The bytes that are too many.
    """

    def __init__(
        self, form: Form | re.Pattern[str] | Mapping[str, str | re.Pattern[str]], file: str | None, limit: int
    ) -> None:
        self.file, self.limit = file, limit
        self.patterns: dict[str, re.Pattern[str]] | None = None
        if isinstance(form, re.Pattern):
            self.patterns = {"": form}
        elif isinstance(form, Mapping):
            require(len(form) > 0, "result", "name at least one pattern", form)
            self.patterns = {name: re.compile(pattern) for name, pattern in form.items()}
        else:
            hint = "Or pass a compiled regular expression, or a dict of them."
            one_of("result", form, ("json", "npy", "image"), hint)
            require(form == "json" or file is not None, "file", f"be given where the result is {form!r}", file)
        for pattern in (self.patterns or {}).values():
            text = isinstance(pattern.pattern, str) and pattern.groups > 0
            hint = r"Put round brackets around the number, as in r'gain = (\S+)'."
            require(text, "result", "have a group in each regular expression", pattern.pattern, hint)
        self.form = form
        if file is not None:
            parts = Path(file).parts
            safe = bool(parts) and not Path(file).is_absolute() and ".." not in parts and "\0" not in file
            require(safe, "file", "be a name within the scratch directory", file)

    @property
    def from_answer(self) -> bool:
        """Whether a persistent worker's line holds the result itself."""
        return self.form == "json" and self.file is None

    def read(self, stdout: bytes | bytearray, scratch: Path) -> Any:
        """The numbers in what the command wrote.

        Raises:
            EvaluationError: With status ``"invalid"``, when there is no such file, it cannot be read, or it holds
                what is no finite number.
        """
        data = bytes(stdout) if self.file is None else read_within(scratch, self.file, self.limit)
        if self.patterns is not None:
            return finite(_matches(self.patterns, data.decode(errors="replace")))
        if self.form == "json":
            return finite(numbers(from_json(data)))
        return finite(from_npy(data) if self.form == "npy" else from_image(data, self.limit))


def from_json(data: bytes) -> Any:
    """The JSON value that ``data`` is, or that its last line is."""
    lines = data.strip().splitlines()
    for text in (data, lines[-1] if lines else b""):
        try:
            return parsed(text)
        except (ValueError, RecursionError):
            continue
    raise _invalid(f"JSON was due, found {_start(data)}.")


def parsed(text: bytes) -> Any:
    """A JSON value, none of whose objects says the same name twice.

    Raises:
        ValueError: When it is none.
        RecursionError: When it is nested too deep.
    """
    return json.loads(text, object_pairs_hook=_without_repeats)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def from_npy(data: bytes) -> np.ndarray:
    """The array in a ``.npy`` file, never an object."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, columns_first, dtype = reader(stream)
    except Exception as error:  # a parser of foreign bytes raises anything
        raise _invalid(f"a .npy file was due, found {_start(data)} ({type(error).__name__}).") from error
    return array_of(data[stream.tell() :], dtype, shape, "F" if columns_first else "C")


def array_of(data: bytes, dtype: np.dtype, shape: tuple[int, ...], order: Literal["C", "F"] = "C") -> np.ndarray:
    """Raw bytes as a floating array; there must be just as many as the shape says."""
    if dtype.kind not in "biuf" or dtype.itemsize == 0:
        raise _invalid(f"an array of numbers was due, found dtype {dtype}.")
    if len(shape) > DEEPEST or any(side < 0 for side in shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise _invalid(f"an array of shape {shape} and dtype {dtype} cannot be made of {len(data):,} bytes.")
    if not data:
        raise _invalid(f"numbers were due, found an empty array of shape {shape}.")
    kept = np.float32 if dtype.kind == "f" and dtype.itemsize <= 4 else np.float64  # which every torch takes
    return np.frombuffer(data, dtype).reshape(shape, order=order).astype(kept, order="C")


def from_image(data: bytes, limit: int) -> np.ndarray:
    """An image as numbers from 0 to 1: shape (height, width), or (height, width, channels).

    Args:
        data: The file.
        limit: The unpacked bytes that are too many: a small file may unfold to any size.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pillow", "report") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(data), formats=IMAGES) as image:
                deep = image.mode.startswith("I")
                unpacked = image.width * image.height * max(3, len(image.getbands()))
                if unpacked > limit:
                    raise ValueError(f"{image.width} x {image.height} pixels are more than {limit:,} bytes")
                kept = image if image.mode in ("L", "RGB", "RGBA") or deep else image.convert("RGB")
                pixels = np.asarray(kept)
    except Exception as error:  # a decoder of foreign bytes raises anything
        raise _invalid(f"an image was due, found {_start(data)} ({type(error).__name__}: {error}).") from error
    return pixels.astype(np.float64) / (65535 if deep else 255)


def read_within(scratch: Path, name: str, limit: int) -> bytes:
    """A regular file in the scratch directory, whatever links the command made."""
    root = scratch.parent.resolve() / scratch.name  # the directory itself may have become a link
    try:
        path = (scratch / name).resolve(strict=True)
        if not path.is_relative_to(root):
            raise _invalid(f"the result {name!r} must lie in the scratch directory, found a link out of it.")
        # Never waits, as it would at a pipe that nobody writes.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, RuntimeError) as error:
        if isinstance(error, EvaluationError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _invalid(f"the result must be in the file {name!r}, found none ({reason}).") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _invalid(f"the result {name!r} must be a regular file.")
    with os.fdopen(handle, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise _invalid(f"the result {name!r} has more than {limit:,} bytes.")
    return data


def numbers(value: Any, depth: int = 0) -> Any:
    """A JSON value as a number, an array, or dicts of them."""
    if depth > DEEPEST:
        raise _invalid(f"the result is nested more than {DEEPEST} levels deep.")
    if isinstance(value, dict):
        if not value:
            raise _invalid("a number was due, found {}.")
        return {name: numbers(entry, depth + 1) for name, entry in value.items()}
    if isinstance(value, bool) or not isinstance(value, int | float | list):
        raise _invalid(f"numbers were due, found {_short(value)}.")
    try:
        # Before NumPy sees them: it makes every entry as long as the longest text.
        if isinstance(value, list) and not _is_numeric(value, depth):
            raise ValueError
        array = np.array(value)
        if array.dtype.kind not in "iuf" or array.size == 0:
            raise ValueError
        return array if array.ndim else float(array)
    except (ValueError, OverflowError) as error:
        raise _invalid(f"an array of numbers was due, found {_short(value)}.") from error


def _is_numeric(entries: list[Any], depth: int) -> bool:
    """Whether it is a list of numbers, or of such lists."""
    kinds = set(map(type, entries))
    if kinds == {list} and depth < DEEPEST:
        return all(_is_numeric(entry, depth + 1) for entry in entries)
    return kinds <= {int, float}


def finite(structure: Any) -> Any:
    """``structure``, in which every number must be finite."""
    if isinstance(structure, dict):
        return {name: finite(entry) for name, entry in structure.items()}
    if not np.isfinite(structure).all():
        raise _invalid("it returned NaN or inf.")
    return structure


def _matches(patterns: Mapping[str, re.Pattern[str]], text: str) -> Any:
    """The last match of each: what a program prints last is its answer."""
    found = {name: _match(pattern, text) for name, pattern in patterns.items()}
    return found[""] if set(found) == {""} else found


def _match(pattern: re.Pattern[str], text: str) -> Any:
    last = None
    for match in pattern.finditer(text):
        last = match
    if last is None:
        raise _invalid(f"{pattern.pattern!r} was due in the output, found {_start(text.encode())}.")
    if last.groupdict():
        return {name: _number(value, pattern) for name, value in last.groupdict().items()}
    values = [_number(value, pattern) for value in last.groups()]
    return values[0] if len(values) == 1 else np.array(values)


def _number(text: str | None, pattern: re.Pattern[str]) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise _invalid(f"a number was due for {pattern.pattern!r}, found {_short(text)}.") from None


def _invalid(message: str) -> EvaluationError:
    return EvaluationError(message, status="invalid")


def _start(data: bytes) -> str:
    return _short(data[:200].decode(errors="replace")) if data.strip() else "nothing"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        return type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."
