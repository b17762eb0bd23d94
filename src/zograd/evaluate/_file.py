"""The file of a run: its tables, how it is made, opened, checked, and what is saved of a damaged one."""

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zograd._errors import RunError

NAME = "run.sqlite"
LOCK = "run.lock"
APPLICATION = 0x7A6F6772  # "zogr"
VERSION = 2
ADDED = "outputs"
"""The table that version 2 has and version 1 had not."""

TABLES = {
    "meta": "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "evaluations": (
        "CREATE TABLE evaluations (call INTEGER NOT NULL, row INTEGER NOT NULL, digest BLOB NOT NULL, value, "
        "seconds REAL NOT NULL, status TEXT NOT NULL, error TEXT, PRIMARY KEY (call, row)) WITHOUT ROWID"
    ),
    "outputs": (
        "CREATE TABLE outputs (call INTEGER NOT NULL, row INTEGER NOT NULL, dtype TEXT NOT NULL, shape TEXT NOT NULL, "
        "data BLOB NOT NULL, PRIMARY KEY (call, row))"
    ),
    "steps": (
        "CREATE TABLE steps (step INTEGER PRIMARY KEY, number INTEGER NOT NULL, evaluations INTEGER NOT NULL, value, "
        "best_value, lost INTEGER NOT NULL, diagnostics TEXT NOT NULL)"
    ),
    "points": "CREATE TABLE points (step INTEGER PRIMARY KEY, dtype TEXT NOT NULL, point BLOB NOT NULL)",
    "snapshots": (
        "CREATE TABLE snapshots (step INTEGER PRIMARY KEY, evaluations INTEGER NOT NULL, digest BLOB NOT NULL, "
        "state BLOB NOT NULL)"
    ),
    "sessions": (
        "CREATE TABLE sessions (session INTEGER PRIMARY KEY, started TEXT NOT NULL, seconds REAL NOT NULL, "
        "stopped TEXT NOT NULL, best_value, dtype TEXT, best_point BLOB, machine TEXT NOT NULL)"
    ),
}
"""A column without a type keeps a float as it is: a REAL column would turn -0.0 into 0.0."""


@contextlib.contextmanager
def reported(path: Path, doing: str) -> Iterator[None]:
    """Turn SQLite's errors into a `RunError` that says what to do."""
    try:
        yield
    except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:  # the last of a message that quotes damage
        said = str(error)
        if "full" in said or "disk I/O" in said:
            hint = "Make room and go on; nothing that was evaluated is lost while the process lives."
        elif "readonly" in said or "unable to open" in said:
            hint = "Make the directory writable, or pass another one."
        elif "locked" in said:
            hint = "Close what else writes to it."
        else:
            hint = "Open the run again to save what can be read, or move the file away to start anew."
        raise RunError(f"{path} must allow {doing}, found: {said}. {hint}", path=path) from error


def create(path: Path, configuration: dict[str, Any]) -> None:
    """Make an empty file that is there wholly or not at all.

    Raises:
        RunError: When it cannot be written.
    """
    new = path.with_name(path.name + ".new")
    for leftover in (new, new.with_name(new.name + "-journal")):
        leftover.unlink(missing_ok=True)
    with reported(path, "a new run"), contextlib.closing(_connected(new)) as connection:
        connection.execute("BEGIN")
        _lay_out(connection)
        connection.execute("INSERT INTO meta VALUES ('configuration', ?)", (json.dumps(configuration),))
        connection.execute("COMMIT")
    os.replace(new, path)
    _settle(path.parent)


def connect(path: Path) -> sqlite3.Connection:
    """Open for writing, checked from end to end; what a damaged file still holds is saved into a new one.

    Raises:
        RunError: When it is not the file of a run, or nothing can be read.
    """
    _present(path)
    connection = _connected(path)
    try:
        with reported(path, "reading"):
            try:
                identify(connection, path)
                damaged = _damage(connection)
            except sqlite3.DatabaseError as error:
                damaged = str(error)
                # Without it SQLite reads nothing at all of a file that is shorter than its header says.
                connection.execute("PRAGMA writable_schema = ON")
                identify(connection, path)
        if damaged:
            connection = _salvaged(connection, path, damaged)
        with reported(path, "writing"):
            _bring_up(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open for reading only, while a writer may be at work.

    Raises:
        RunError: When it is not the file of a run.
    """
    _present(path)
    where = path.absolute().as_uri()
    with reported(path, "reading"):
        try:
            connection = _connected(where + "?mode=ro", uri=True)
            identify(connection, path)
        except sqlite3.OperationalError as error:
            if "unable to open" not in str(error) and "readonly" not in str(error):
                raise
            # On read-only media SQLite cannot make the shared memory of a WAL, and needs none.
            connection = _connected(where + "?mode=ro&immutable=1", uri=True)
            identify(connection, path)
    return connection


def identify(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a file whose marks or tables are not those of a run: no foreign view or trigger is ever run.

    Raises:
        RunError: When they are not.
    """
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application == APPLICATION and version > VERSION:
        raise RunError(
            f"{path} must be a run of format {VERSION} or older, found {version}. Install a newer zograd.", path=path
        )
    found = dict(connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall())
    tables = {name: sql for name, sql in TABLES.items() if version >= VERSION or name != ADDED}
    if application != APPLICATION or version < 1 or found != tables:
        raise RunError(
            f"{path} must be the file of a zograd run, found another kind of database or damaged tables. Pass another "
            f"run=, or move the file away.",
            path=path,
        )


def _present(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise RunError(f"there must be a run at {path.parent}, found: {error}. Check the path.", path=path) from error
    if size == 0:
        raise RunError(
            f"{path} must hold a run, found an empty file: it was truncated. Restore it from a copy, or delete it to "
            f"start anew.",
            path=path,
        )


def _connected(path: Path | str, uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=30.0, isolation_level=None, uri=uri, check_same_thread=False)


def _lay_out(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    for statement in TABLES.values():
        connection.execute(statement)


def _bring_up(connection: sqlite3.Connection) -> None:
    """Give a file of version 1 what it lacks."""
    if connection.execute("PRAGMA user_version").fetchone()[0] < VERSION:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(TABLES[ADDED])
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")


def _settle(folder: Path) -> None:
    """Make a rename last through a power cut, where the system lets a directory be synchronised."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _damage(connection: sqlite3.Connection) -> str:
    """What is wrong with the file, in SQLite's words; empty where all is well."""
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(1)")]
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found == ["ok"] else "; ".join(found)


def _salvaged(damaged: sqlite3.Connection, path: Path, why: str) -> sqlite3.Connection:
    """Save every evaluation that can be read into a new file, keep the damaged one beside it.

    Steps and snapshots are left behind: replaying the evaluations makes them again, and evaluates what is missing.
    """
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with reported(path, f"saving what is left ({why})"), contextlib.closing(_connected(new)) as fresh:
        fresh.execute("BEGIN")
        _lay_out(fresh)
        fresh.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", damaged.execute("SELECT * FROM meta"))
        for order in ("ASC", "DESC"):
            fresh.executemany("INSERT OR IGNORE INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?)", _rows(damaged, order))
        fresh.execute("INSERT OR REPLACE INTO meta VALUES ('salvaged', ?)", (why,))
        fresh.execute("COMMIT")
    with contextlib.suppress(sqlite3.Error):
        damaged.close()
    number = 1
    while (kept := path.with_name(f"run.damaged-{number}.sqlite")).exists():
        number += 1
    shutil.copy2(path, kept)
    for suffix in ("-wal", "-shm"):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            shutil.copy2(beside, kept.with_name(kept.name + suffix))
            beside.unlink()  # a WAL of the old file would be taken for one of the new
    os.replace(new, path)
    _settle(path.parent)
    return _connected(path)


def _rows(connection: sqlite3.Connection, order: str) -> Iterator[tuple[Any, ...]]:
    """Evaluations from one end up to the first page that cannot be read."""
    with contextlib.suppress(sqlite3.DatabaseError):
        yield from connection.execute(f"SELECT * FROM evaluations ORDER BY call {order}, row {order}")
