"""The journal: every evaluation of a run as it finishes, in one SQLite file that survives what kills the process."""

import json
import platform
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from zograd._errors import RunError
from zograd._typing import Vector
from zograd.evaluate._file import LOCK, NAME, connect, create, reported
from zograd.evaluate._lock import WriterLock
from zograd.evaluate._records import Evaluation, deflated, evaluation, inflated, packed, read, settings, stored

GROUP_SECONDS = 0.05
"""Evaluations shorter than this are written in groups, one a time of this length; longer ones at once."""
SNAPSHOTS = 2
"""So many are kept: the one before the newest stands in for it if it cannot be read."""
LARGEST_POINT = 2**16
"""Of best points longer than so many bytes only the newest is kept: a run of a million parameters must fit a disk."""


@final
class Journal:
    """The file of a run, in the hands of its one writer.

    An evaluation that took 50 ms or more is on the disk before the next one is looked at; shorter ones are written in
    groups, so that a power cut costs at most 50 ms of them. What could not be written stays in memory and is tried
    again. Readers are never in the way (WAL), and every commit is synchronised.

    Args:
        folder: The run's directory.
        configuration: What a new run is; ``None`` opens one that is there.

    Attributes:
        configuration: What was recorded when the run began.
        salvaged: What was wrong with the file, where it was damaged and what is left was saved; else empty.
        sessions: How many there were before this one.
        closed: Whether `close` was called.

    Raises:
        RunError: When there is a run already, or none to open, or another writer, or the file is not to be read.
    """

    def __init__(self, folder: Path, configuration: dict[str, Any] | None = None) -> None:
        self.path = folder / NAME
        if configuration is not None:
            _made(folder)
        elif not self.path.exists():
            raise RunError(f"there must be a run at {folder}, found no {NAME}. Check the path.", path=folder)
        self._lock = WriterLock(folder / LOCK)
        try:
            if configuration is not None:
                self._refuse_another(folder)
                create(self.path, configuration)
            self._connection = connect(self.path)
        except BaseException:
            self._lock.close()
            raise
        self._evaluations: dict[tuple[int, int], tuple[Any, ...]] = {}
        self._outputs: dict[tuple[int, int], Tensor] = {}
        self._others: list[tuple[str, tuple[Any, ...]]] = []
        self._committed = time.monotonic()
        self.closed = False
        try:
            meta = dict(self._select("SELECT key, value FROM meta"))
            self.configuration: dict[str, Any] = read(self.path, settings, meta.get("configuration"))
            self.salvaged = str(meta.get("salvaged", ""))
            self.sessions = int(self._select("SELECT coalesce(max(session), 0) FROM sessions")[0][0])
            self._new_session()
        except BaseException:
            self._connection.close()
            self._lock.close()
            raise

    @property
    def last_stop(self) -> tuple[str, float]:
        """Why the session before this one ended, empty where it was killed, and the seconds of all before this one."""
        row = self._select(
            "SELECT coalesce((SELECT stopped FROM sessions WHERE session = ?), ''), "
            "coalesce(sum(seconds), 0.0) FROM sessions WHERE session <= ?",
            (self.sessions, self.sessions),
        )[0]
        return str(row[0]), float(row[1])

    def append(self, finished: Iterable[Evaluation]) -> None:
        """Take evaluations that have ended; write them now or with the next ones.

        Raises:
            RunError: When they cannot be written; they are kept, and tried again with the next ones.
        """
        long = False
        for each in finished:
            long = long or each.seconds >= GROUP_SECONDS
            if each.outputs is not None:
                self._outputs[each.call, each.row] = each.outputs
            self._evaluations[each.call, each.row] = (
                each.call,
                each.row,
                each.digest,
                stored(each.value),
                each.seconds,
                each.status,
                each.error or None,
            )
        if long or time.monotonic() - self._committed >= GROUP_SECONDS:
            self.flush()

    def recall(self, call: int) -> list[Evaluation]:
        """What is known of a call, in the order of its rows.

        Raises:
            RunError: When it cannot be read.
        """
        rows = self._select("SELECT * FROM evaluations WHERE call = ? ORDER BY row", (call,))
        known = {row[1]: row for row in rows}
        packs = self._select("SELECT row, dtype, shape, data FROM outputs WHERE call = ?", (call,))
        outputs = {row: read(self.path, inflated, *cells) for row, *cells in packs}
        outputs |= {place: rows for (number, place), rows in self._outputs.items() if number == call}
        known |= {place: row for (number, place), row in self._evaluations.items() if number == call}
        found = sorted((read(self.path, evaluation, row) for row in known.values()), key=lambda each: each.row)
        return [replace(each, outputs=outputs.get(each.row)) for each in found] if outputs else found

    def add_step(
        self,
        step: int,
        told: tuple[int, int, float | None, float, int],
        diagnostics: dict[str, float],
        point: Vector | None,
    ) -> None:
        """Take a step that was made.

        Args:
            step: Which one, counted from 1.
            told: Number, evaluations, value, best value, lost rows.
            diagnostics: Named numbers.
            point: The best point, where it is a new one.
        """
        number, evaluations, value, best_value, lost = told
        text = json.dumps(diagnostics)
        row = (step, number, evaluations, stored(value), stored(best_value), lost, text)
        self._others.append(("INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?, ?, ?)", row))
        if point is not None:
            if point.nbytes > LARGEST_POINT:
                self._others.append(("DELETE FROM points", ()))
            self._others.append(("INSERT OR REPLACE INTO points VALUES (?, ?, ?)", (step, *packed(point))))
        if time.monotonic() - self._committed >= GROUP_SECONDS:
            self.flush()

    def add_snapshot(self, step: int, evaluations: int, state: bytes) -> None:
        """Write the state between two steps; forget all but the newest ones."""
        row = (step, evaluations, blake2b(state, digest_size=16).digest(), state)
        self._others.append(("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)", row))
        keep = "DELETE FROM snapshots WHERE step NOT IN (SELECT step FROM snapshots ORDER BY step DESC LIMIT ?)"
        self._others.append((keep, (SNAPSHOTS,)))
        # What both snapshots already hold is never replayed.
        spent = "DELETE FROM outputs WHERE call <= (SELECT min(step) FROM snapshots HAVING count(*) = ?)"
        self._others.append((spent, (SNAPSHOTS,)))
        self.flush()

    def snapshots(self) -> list[tuple[int, int, bytes]]:
        """Step, evaluations and state of each that is whole, newest first.

        Raises:
            RunError: When they cannot be read.
        """
        rows = self._select("SELECT step, evaluations, digest, state FROM snapshots ORDER BY step DESC")
        return [
            (step, evaluations, state)
            for step, evaluations, digest, state in rows
            if isinstance(state, bytes)
            and isinstance(evaluations, int)
            and blake2b(state, digest_size=16).digest() == digest
        ]

    def recorded_step(self, step: int) -> tuple[Any, ...] | None:
        """Evaluations, value and best value of a step; ``None`` where it is not on record."""
        rows = self._select("SELECT evaluations, value, best_value FROM steps WHERE step = ?", (step,))
        return rows[0] if rows else None

    def end(self, stopped: str, seconds: float, best: tuple[Vector, float] | None) -> None:
        """Say how the session stands, and write everything.

        Args:
            stopped: Why it ended, empty while it goes on.
            seconds: Wall time of this session.
            best: The point to return and its value.
        """
        point = packed(best[0]) if best is not None else (None, None)
        value = stored(best[1]) if best is not None else None
        statement = (
            "UPDATE sessions SET seconds = ?, stopped = ?, best_value = ?, dtype = ?, best_point = ? WHERE session = ?"
        )
        self._others.append((statement, (seconds, stopped, value, *point, self.sessions + 1)))
        self.flush()

    def flush(self) -> None:
        """Write what waits, synchronised.

        Raises:
            RunError: When that fails; it waits on.
        """
        if not self._evaluations and not self._others:
            return
        with reported(self.path, "writing"):
            if self._connection.in_transaction:  # a signal or a full disk cut the last attempt short
                self._connection.execute("ROLLBACK")
            self._connection.execute("BEGIN IMMEDIATE")
            if self._evaluations:
                self._connection.executemany(
                    "INSERT OR REPLACE INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?)", self._evaluations.values()
                )
            for place, outputs in self._outputs.items():
                row = (*place, *deflated(outputs))
                self._connection.execute("INSERT OR REPLACE INTO outputs VALUES (?, ?, ?, ?, ?)", row)
            for statement, row in self._others:
                self._connection.execute(statement, row)
            self._connection.execute("COMMIT")
        # Interrupted just here, all of it is written once more, which changes nothing.
        self._evaluations.clear()
        self._outputs.clear()
        self._others.clear()
        self._committed = time.monotonic()

    def close(self) -> None:
        """Write what waits, and let another writer in.

        Raises:
            RunError: When the writing fails; the file is closed all the same.
        """
        if self.closed:
            return
        self.closed = True
        try:
            self.flush()
        finally:
            self._connection.close()
            self._lock.close()

    def _select(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with reported(self.path, "reading"):
            return self._connection.execute(statement, values).fetchall()

    def _refuse_another(self, folder: Path) -> None:
        if self.path.exists():
            raise RunError(
                f"a new run must not overwrite another, found one in {folder}. Pass another directory, or resume it "
                f"with zograd.Run.resume or zograd.minimize(run=...).",
                path=folder,
            )

    def _new_session(self) -> None:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        row = (self.sessions + 1, started, 0.0, "", None, None, None, json.dumps(machine()))
        self._others.append(("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row))
        self.flush()


def machine() -> dict[str, Any]:
    """What the last bits of a result may depend on."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "sqlite": sqlite3.sqlite_version,
        "system": platform.platform(),
        "host": platform.node(),
    }


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"a run must be able to make its directory {folder}, found: {error}. Pass another run=.", path=folder
        ) from error
