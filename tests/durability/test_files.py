"""Files that are damaged, foreign or hostile: what can be saved is saved, all else is an error and never a crash."""

import contextlib
import io
import json
import sqlite3
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

import zograd as zo
from zograd._snapshot import pack, unpack
from zograd.evaluate import Journal
from zograd.evaluate._file import APPLICATION, TABLES


def bowl(x):
    return float((np.asarray(x) ** 2).sum())


def minimize(folder):
    return zo.minimize(
        bowl, np.full(3, -0.5), run=folder, evaluations=200, bounds=(-1.0, 2.0), estimator=zo.RandomGradient(samples=2)
    )


class Whole(tuple):
    """The bytes of a run's file, and its result; not to be printed."""

    def __repr__(self):
        return "whole"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a run's file, and its result."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    result = minimize(folder)
    with sqlite3.connect(folder / "run.sqlite") as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.close()
    return Whole(((folder / "run.sqlite").read_bytes(), result))


def put(folder: Path, data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for suffix in ("-wal", "-shm"):
        (folder / f"run.sqlite{suffix}").unlink(missing_ok=True)
    (folder / "run.sqlite").write_bytes(data)
    return folder


def explored(folder: Path) -> None:
    """Read everything there is to read, and open it to write."""
    record = zo.read_run(folder)
    list(record.rows("evaluations"))
    list(record.rows("steps"))
    _ = record.best_point, record.best_value, record.sessions, record.lost(), repr(record)


def survives(folder: Path) -> None:
    for attempt in (lambda: explored(folder), lambda: minimize(folder)):
        with contextlib.suppress(zo.RunError):
            attempt()


@pytest.mark.parametrize("share", [0.55, 0.8, 0.95])
def test_what_a_truncated_file_still_holds_is_saved_and_the_rest_evaluated_again(whole, share, tmp_path):
    data, plain = whole
    pages = len(data) // 4096
    folder = put(tmp_path / "run", data[: 4096 * int(pages * share)])
    result = minimize(folder)
    assert result.fun == plain.fun
    assert [s.best_value for s in result.history] == [s.best_value for s in plain.history]
    assert "Its file was damaged" in result.message
    assert (folder / "run.damaged-1.sqlite").stat().st_size == 4096 * int(pages * share)
    assert len(zo.read_run(folder)) == plain.nfev


@pytest.mark.parametrize("size", [1, 100, 512, 4096])
def test_a_stump_is_an_error(whole, size, tmp_path):
    folder = put(tmp_path / "run", whole[0][:size])
    with pytest.raises(zo.RunError):
        minimize(folder)
    with pytest.raises(zo.RunError):
        explored(folder)


def test_an_empty_file_is_an_error_that_says_so(tmp_path):
    with pytest.raises(zo.RunError, match="truncated"):
        minimize(put(tmp_path / "run", b""))


# Type checks would read a step of a lazy history, and report its RunError as their own.
@pytest.mark.usefixtures("unchecked")
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=64)), max_size=8))
@example(places=[(0.046875, b"\x80")])  # within a table's name: SQLite quotes it in what it says
def test_random_bytes_in_the_file_give_an_answer_or_an_error(whole, places, tmp_path):
    data = bytearray(whole[0])
    for share, patch in places:
        start = int(share * len(data))
        data[start : start + len(patch)] = patch
    survives(put(tmp_path / "run", bytes(data)))


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=5000))
def test_anything_else_in_its_place_is_an_error(data, tmp_path):
    folder = put(tmp_path / "run", data)
    with pytest.raises(zo.RunError):
        minimize(folder)
    with pytest.raises(zo.RunError):
        zo.read_run(folder)


DEEP = "stands for JSON that is nested too deep"
cells = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.binary(max_size=40),
    st.just(DEEP),
    st.just(b"\x80\x04\x95"),
)
COLUMNS = {"meta": 2, "evaluations": 7, "steps": 7, "points": 3, "snapshots": 4, "sessions": 8}


# Type checks would read a step of a lazy history, and report its RunError as their own.
@pytest.mark.usefixtures("unchecked")
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking would take minutes
)
@given(table=st.sampled_from(sorted(COLUMNS)), key=st.integers(0, 300), row=st.lists(cells, min_size=7, max_size=7))
def test_cells_of_any_kind_give_an_answer_or_an_error(whole, table, key, row, tmp_path):
    folder = put(tmp_path / "run", whole[0])
    row = ["[" * 100_000 if cell == DEEP else cell for cell in row]
    found = ["configuration" if table == "meta" else key, *row][: COLUMNS[table]]
    marks = ", ".join("?" * len(found))
    with contextlib.closing(sqlite3.connect(folder / "run.sqlite")) as file:
        with contextlib.suppress(sqlite3.IntegrityError):  # a column that must not be empty
            file.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", found)
        file.commit()
    survives(folder)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON evaluations BEGIN DELETE FROM evaluations; END",
        "CREATE VIEW v AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT x FROM c",
        "CREATE TABLE more (x)",
        "DROP TABLE points",
        "PRAGMA application_id = 7",
        "PRAGMA user_version = 0",
    ],
)
def test_foreign_tables_views_and_triggers_are_refused(whole, statement, tmp_path):
    folder = put(tmp_path / "run", whole[0])
    file = sqlite3.connect(folder / "run.sqlite")
    file.execute(statement)
    file.commit()
    file.close()
    with pytest.raises(zo.RunError, match="another kind of database"):
        zo.read_run(folder)
    with pytest.raises(zo.RunError, match="another kind of database"):
        minimize(folder)


def test_a_newer_format_is_named(whole, tmp_path):
    folder = put(tmp_path / "run", whole[0])
    file = sqlite3.connect(folder / "run.sqlite")
    file.execute("PRAGMA user_version = 99")
    file.commit()
    file.close()
    with pytest.raises(zo.RunError, match="Install a newer zograd"):
        zo.read_run(folder)


def test_a_view_in_the_place_of_a_table_never_runs(tmp_path):
    file = sqlite3.connect(put(tmp_path / "run", b"") / "run.sqlite")
    file.execute(f"PRAGMA application_id = {APPLICATION}")
    file.execute("PRAGMA user_version = 1")
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x, x FROM c"
    for name, statement in TABLES.items():
        file.execute(f"CREATE VIEW {name} AS {endless}" if name == "meta" else statement)
    file.commit()
    file.close()
    with pytest.raises(zo.RunError, match="another kind of database"):
        zo.read_run(tmp_path / "run")


class Evil:
    def __reduce__(self):
        return (print, ("this must never be run",))


def test_a_budget_that_no_run_has_is_an_error(whole, tmp_path):
    folder = put(tmp_path / "run", whole[0])
    with contextlib.closing(sqlite3.connect(folder / "run.sqlite")) as file:
        file.execute("UPDATE meta SET value = ? WHERE key = 'configuration'", (json.dumps({"evaluations": 10**400}),))
        file.commit()
    with pytest.raises(zo.RunError, match="the configuration is none"):
        minimize(folder)


def test_a_snapshot_runs_nothing(capsys):
    buffer = io.BytesIO()
    torch.save({"strategy": Evil()}, buffer)
    with pytest.raises(zo.RunError, match="a snapshot must hold"):
        unpack(buffer.getvalue())
    assert "never" not in capsys.readouterr().out


def test_a_snapshot_does_not_unfold():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    with pytest.raises(zo.RunError, match="larger than itself"):
        unpack(buffer.getvalue())


def test_a_tensor_in_a_snapshot_does_not_unfold():
    with pytest.raises(zo.RunError, match="larger than the bytes"):
        unpack(pack({"strategy": {"a": [torch.ones(1).expand(10**10)]}}))
    assert unpack(pack({"a": torch.ones(1).expand(1000)}))["a"].shape == (1000,)


@given(data=st.binary(max_size=300))
@settings(max_examples=50, deadline=None)
def test_a_snapshot_of_random_bytes_is_an_error(data):
    with pytest.raises(zo.RunError):
        unpack(data)


def test_a_snapshot_comes_back_as_it_was():
    state = {"a": torch.arange(3), "b": [1, 2.5, None, {"c": float("inf")}]}
    back = unpack(pack(state))
    assert torch.equal(back["a"], state["a"])
    assert back["b"] == state["b"]
    buffer = io.BytesIO()
    torch.save([1], buffer)
    with pytest.raises(zo.RunError, match="it is no dict"):
        unpack(buffer.getvalue())


def test_a_creation_that_was_cut_short_leaves_no_run_behind(tmp_path):
    (tmp_path / "run.sqlite.new").write_bytes(b"half of a file")
    (tmp_path / "run.sqlite.new-journal").write_bytes(b"and its journal")
    Journal(tmp_path, {"evaluations": 1}).close()
    assert json.loads(json.dumps(zo.read_run(tmp_path).configuration)) == {"evaluations": 1}
    assert not (tmp_path / "run.sqlite.new").exists()
