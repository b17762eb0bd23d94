"""A run's file, read while it is being written or afterwards: history, evaluations, tables for other tools."""

import contextlib
import csv
import importlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, final, overload

import torch

from zograd._checks import one_of
from zograd._errors import MissingExtraError
from zograd._typing import Vector
from zograd.evaluate import (
    NAME,
    Evaluation,
    connect_to_read,
    evaluation,
    loaded,
    parsed,
    read,
    reported,
    settings,
    unpacked,
)
from zograd.strategies import Step

Table = Literal["evaluations", "steps"]

AT_ONCE = 1000
"""Rows read in one go: a reader must not hold an old view of the file for long, or its WAL could not be folded in."""
EVALUATION = ("call", "row", "value", "seconds", "status", "error", "digest")
STEP = ("step", "evaluations", "value", "best_value", "lost")


@final
class Record:
    """A run's file, read: what `read_run` returns. It never writes, and never stands in the writer's way."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.path = self.directory / NAME
        texts = dict(self._select("SELECT key, value FROM meta"))
        self.configuration: dict[str, Any] = read(self.path, settings, texts.get("configuration"))

    def __len__(self) -> int:
        """The number of evaluations on record."""
        return int(self._select("SELECT count(*) FROM evaluations")[0][0])

    def __repr__(self) -> str:
        return f"Record({str(self.directory)!r}, evaluations={len(self)}, steps={len(self.history)})"

    @property
    def history(self) -> "History":
        """The steps, read when they are asked for."""
        return History(self)

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """When the run was worked on, for how long, why that ended (empty: it goes on, or was killed), and where."""
        rows = self._select("SELECT started, seconds, stopped, machine FROM sessions ORDER BY session")
        return [read(self.path, _session, *cells) for cells in rows]

    @property
    def best_value(self) -> float:
        """The lowest value on record; infinity where there is none."""
        found = self._select("SELECT min(value) FROM evaluations WHERE status = 'ok'")[0][0]
        number = read(self.path, loaded, found)
        return math.inf if number is None else number

    @property
    def best_point(self) -> Vector | None:
        """Where the best value was that a step or a session ended with, as a flat vector; ``None`` before that."""
        rows = self._select(
            "SELECT dtype, point FROM (SELECT p.dtype, p.point, s.best_value FROM points p JOIN steps s USING (step) "
            "UNION ALL SELECT dtype, best_point, best_value FROM sessions WHERE best_point IS NOT NULL) "
            "ORDER BY best_value LIMIT 1"
        )
        return read(self.path, unpacked, *rows[0]) if rows else None

    def lost(self) -> dict[str, int]:
        """Lost evaluations by how they ended."""
        counts = self._select("SELECT status, count(*) FROM evaluations WHERE status != 'ok' GROUP BY status")
        return {str(status): int(number) for status, number in counts}

    def evaluations(self) -> Iterator[Evaluation]:
        """Every evaluation, by call and row, a thousand at a time."""
        call, row = -1, -1
        while True:
            rows = self._select(
                "SELECT * FROM evaluations WHERE (call, row) > (?, ?) ORDER BY call, row LIMIT ?", (call, row, AT_ONCE)
            )
            for cells in rows:
                found = read(self.path, evaluation, cells)
                call, row = found.call, found.row
                yield found
            if len(rows) < AT_ONCE:
                return

    def rows(self, table: Table = "evaluations") -> Iterator[dict[str, Any]]:
        """The rows of a table as dicts.

        Args:
            table: ``"evaluations"``, or ``"steps"`` with one entry for each diagnostic.
        """
        one_of("table", table, ("evaluations", "steps"))
        if table == "evaluations":
            for each in self.evaluations():
                cells = (each.call, each.row, each.value, each.seconds, each.status, each.error, each.digest.hex())
                yield dict(zip(EVALUATION, cells, strict=True))
            return
        for step in self.history:
            told = (step.number, step.evaluations, step.value, step.best_value, step.lost)
            yield dict(zip(STEP, told, strict=True)) | step.diagnostics

    def to_frame(self, table: Table = "evaluations") -> Any:
        """The table as a ``pandas.DataFrame``.

        Raises:
            MissingExtraError: When pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ModuleNotFoundError as error:
            raise MissingExtraError("pandas", "frame") from error
        rows = list(self.rows(table))
        return pandas.DataFrame(rows, columns=None if rows else list(EVALUATION if table == "evaluations" else STEP))

    def to_csv(self, path: str | os.PathLike[str], table: Table = "evaluations") -> Path:
        """Write the table as CSV, row by row; an existing file is replaced. Empty is ``None``; returns the path."""
        one_of("table", table, ("evaluations", "steps"))
        columns: list[str] = list(EVALUATION)
        if table != "evaluations":
            columns = [*STEP, *sorted({name for step in self.history for name in step.diagnostics})]
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows([row.get(name, "") for name in columns] for row in self.rows(table))
        return Path(path)

    def to_jsonl(self, path: str | os.PathLike[str], table: Table = "evaluations") -> Path:
        """Write the table as JSON lines; an existing file is replaced. NaN and infinity become ``null``."""
        with Path(path).open("w", encoding="utf-8") as file:
            for row in self.rows(table):
                plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
                file.write(json.dumps(plain, allow_nan=False) + "\n")
        return Path(path)

    def _select(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        connection = connect_to_read(self.path)
        with contextlib.closing(connection), reported(self.path, "reading"):
            return connection.execute(statement, values).fetchall()


@final
class History(Sequence[Step]):
    """The steps on record, read from the file when they are asked for: memory stays as it is, however long the run.

    Of best points over 64 KiB only the newest is on record; where it is not, ``best_point`` holds NaN.

    Args:
        record: Whose.
    """

    def __init__(self, record: Record) -> None:
        self.record = record

    def __len__(self) -> int:
        return int(self.record._select("SELECT count(*) FROM steps")[0][0])

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> list[Step]: ...
    def __getitem__(self, index: int | slice) -> Step | list[Step]:
        length = len(self)
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(length))]
        place = index + length if index < 0 else index
        if not 0 <= place < length:
            raise IndexError(f"a history of {length} steps has no step {index}")
        return self._after(place, 1)[0][1]

    def __iter__(self) -> Iterator[Step]:
        last = 0
        while True:
            found = self._after(last, AT_ONCE)
            for last, step in found:  # noqa: B007
                yield step
            if len(found) < AT_ONCE:
                return

    def _after(self, last: int, count: int) -> list[tuple[int, Step]]:
        """The steps that follow step ``last``, numbered from 1 without gaps."""
        path = self.record.path
        rows = self.record._select(
            "SELECT s.*, p.dtype, p.point FROM steps s LEFT JOIN points p "
            "ON p.step = (SELECT max(step) FROM points WHERE step <= s.step) WHERE s.step > ? ORDER BY s.step LIMIT ?",
            (last, count),
        )
        steps: list[tuple[int, Step]] = []
        known: tuple[Any, Vector] | None = None
        for place, *cells, dtype, point in rows:
            if point is None:
                vector = self._unknown()
            elif known is not None and known[0] == point:
                vector = known[1]
            else:
                vector = read(path, unpacked, dtype, point)
                known = (point, vector)
            steps.append((place, read(path, _step, vector, *cells)))
        return steps

    def _unknown(self) -> Vector:
        size = int(self.record._select("SELECT coalesce(max(length(point)), 8) / 8 FROM points")[0][0])
        return torch.full((1,), math.nan, dtype=torch.float64).expand(size)


def read_run(directory: str | os.PathLike[str]) -> Record:
    """Read a run's file, also while the run is going on: history, evaluations, and tables for other tools.

    Args:
        directory: What ``run=`` was.

    Raises:
        RunError: When there is no run, or its file is damaged or was made by other hands.

    Example:
        >>> import tempfile, zograd as zo
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = zo.minimize(lambda x: x**2, 3.0, evaluations=40, run=folder + "/a")
        ...     record = zo.read_run(folder + "/a")
        ...     path = record.to_csv(folder + "/evaluations.csv")
        ...     print(len(record.history) == result.nit, record.best_value == result.fun)
        ...     len(path.read_text().splitlines()) == 1 + result.nfev
        True True
        True
    """
    return Record(directory)


def _session(started: Any, seconds: Any, stopped: Any, machine: Any) -> dict[str, Any]:
    told = parsed(machine)
    return {"started": str(started), "seconds": float(seconds), "stopped": str(stopped), "machine": told}


def _step(vector: Vector, number: Any, evaluations: Any, value: Any, best: Any, lost: Any, diagnostics: Any) -> Step:
    told = parsed(diagnostics)
    best_value = loaded(best)
    if not all(isinstance(cell, int) for cell in (number, evaluations, lost)) or not isinstance(told, dict):
        raise ValueError("a step is none")
    if best_value is None or not all(isinstance(entry, float | int) for entry in told.values()):
        raise ValueError("a step has entries that are no numbers")
    return Step(number, evaluations, loaded(value), best_value, vector, lost, told)
