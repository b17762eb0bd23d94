"""Reading a run's file: history, tables, while a writer is at work."""

import csv
import importlib
import json
import math
import sqlite3
import time

import numpy as np
import pandas
import pytest
import torch

import zograd as zo


def bowl(x):
    """A bowl, one part of which cannot be evaluated."""
    return float("nan") if x[1] > 0.5 else float((np.asarray(x) ** 2).sum())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("record") / "run"
    result = zo.minimize(
        bowl, np.full(3, -0.5), run=folder, evaluations=100, estimator=zo.RandomGradient(samples=4, step=0.6)
    )
    return folder, result


def test_a_record_is_what_the_result_was(run):
    folder, result = run
    record = zo.read_run(folder)
    assert len(record) == result.nfev == sum(1 for _ in record.evaluations())
    assert record.best_value == result.fun
    assert torch.equal(record.best_point, torch.as_tensor(result.x))
    assert sum(record.lost().values()) == result.lost > 0
    assert len(record.history) == result.nit
    assert record.sessions[0]["stopped"] == "budget"
    assert record.sessions[0]["machine"]["torch"] == str(torch.__version__)
    assert f"evaluations={result.nfev}" in repr(record)


def test_the_history_is_a_sequence(run):
    folder, result = run
    history = zo.read_run(folder).history
    assert history[0].number == 1
    assert history[-1].number == len(history) == result.nit
    assert [s.number for s in history[1:4]] == [2, 3, 4]
    assert [s.number for s in reversed(history)] == list(range(len(history), 0, -1))
    with pytest.raises(IndexError):
        history[len(history)]


def test_long_tables_are_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("zograd._record.AT_ONCE", 20)
    descent = zo.Descent([1.0], estimator=zo.CoordinateGradient(), optimizer=torch.optim.Adam)
    with zo.Run.create(tmp_path, descent, zo.batched(lambda x: (x**2).sum(1)), evaluations=200) as run:
        for _ in run:
            pass
    record = zo.read_run(tmp_path)
    places = [(e.call, e.row) for e in record.evaluations()]
    assert places == sorted(set(places))
    assert len(places) == run.evaluations
    assert [s.number for s in record.history] == list(range(1, run.steps + 1))
    assert run.steps > 3 * 20


def test_of_large_points_only_the_newest_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("zograd.evaluate._journal.LARGEST_POINT", 8)
    descent = zo.Descent([1.0, 1.0], estimator=zo.CoordinateGradient(), optimizer=torch.optim.Adam)
    with zo.Run.create(tmp_path, descent, zo.batched(lambda x: (x**2).sum(1)), evaluations=20) as run:
        steps = list(run)
    history = run.record.history
    assert torch.equal(history[-1].best_point, steps[-1].best_point)
    assert history[0].best_point.shape == (2,)
    assert bool(history[0].best_point.isnan().all())


def test_tables_for_other_tools(run, tmp_path):
    folder, result = run
    record = zo.read_run(folder)
    frame = record.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == result.nfev
    assert frame.value.min() == result.fun
    steps = record.to_frame("steps")
    assert steps.best_value.tolist() == [s.best_value for s in result.history]
    assert steps.step_length.tolist() == [s.diagnostics["step_length"] for s in result.history]
    with record.to_csv(tmp_path / "e.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert min(float(row["value"]) for row in rows if row["status"] == "ok") == result.fun
    assert [row["status"] for row in rows].count("invalid") == result.lost
    with record.to_csv(tmp_path / "s.csv", "steps").open(newline="") as file:
        assert [float(row["best_value"]) for row in csv.DictReader(file)] == [s.best_value for s in result.history]
    lines = [json.loads(line) for line in record.to_jsonl(tmp_path / "e.jsonl").read_text().splitlines()]
    assert len(lines) == result.nfev
    assert [line["value"] for line in lines].count(None) == result.lost
    assert len(record.to_jsonl(tmp_path / "s.jsonl", "steps").read_text().splitlines()) == result.nit


def test_an_empty_run_has_empty_tables(tmp_path):
    descent = zo.Descent([1.0], estimator=zo.CoordinateGradient(), optimizer=torch.optim.Adam)
    with zo.Run.create(tmp_path / "run", descent, zo.batched(lambda x: (x**2).sum(1)), evaluations=20) as run:
        record = run.record
        assert len(record) == 0
        assert record.best_value == math.inf
        assert record.best_point is None
        assert list(record.to_frame("steps").columns[:2]) == ["step", "evaluations"]
        assert record.to_csv(tmp_path / "e.csv").read_text().count("\n") == 1


@pytest.mark.usefixtures("unchecked")
def test_another_table_is_refused(run):
    with pytest.raises(zo.ArgumentError, match="table"):
        zo.read_run(run[0]).to_frame("points")


def test_pandas_is_needed_for_a_frame_only(run, monkeypatch):
    def gone(name, *arguments):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", gone)
    with pytest.raises(zo.MissingExtraError, match="pandas"):
        zo.read_run(run[0]).to_frame()


def test_readers_and_the_writer_are_never_in_each_others_way(tmp_path, monkeypatch):
    monkeypatch.setattr("zograd.evaluate._journal.GROUP_SECONDS", 0.0)
    descent = zo.Descent([1.0], estimator=zo.CoordinateGradient(), optimizer=torch.optim.Adam)
    with zo.Run.create(tmp_path, descent, zo.batched(lambda x: (x**2).sum(1)), evaluations=100) as run:
        next(run)
        record = zo.read_run(tmp_path)
        reading = record.evaluations()
        next(reading)
        begun = time.perf_counter()
        seen = [(step.number, len(record.history)) for step in run]
        assert time.perf_counter() - begun < 20
    assert all(number - 1 <= steps <= number for number, steps in seen)
    assert len(record.history) == run.steps


def test_a_read_only_medium_can_be_read(run, tmp_path, monkeypatch):
    connect = sqlite3.connect

    def strict(database, **options):
        if "immutable" not in str(database):
            raise sqlite3.OperationalError("unable to open database file")
        return connect(database, **options)

    monkeypatch.setattr("sqlite3.connect", strict)
    assert len(zo.read_run(run[0])) == run[1].nfev


def test_there_must_be_a_run(tmp_path):
    with pytest.raises(zo.RunError, match="there must be a run at"):
        zo.read_run(tmp_path)
