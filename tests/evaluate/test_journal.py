"""The journal and the evaluator that goes through it: bit for bit, once each, whatever was lost."""

import math
import struct

import pytest
import torch

import zograd as zo
from zograd._probes import Coordinates, Dense, Probes, Seeded
from zograd.evaluate import Evaluation, Evaluator, Finished, InProcess, Journal, Journaled
from zograd.evaluate._digests import digests


def bits(value: float) -> bytes:
    return struct.pack("d", value)


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "run", {"evaluations": 10})
    yield journal
    journal.close()


def probes(rows: int = 5) -> Probes:
    offsets = torch.arange(rows * 2, dtype=torch.float64).reshape(rows, 2)
    return Probes(torch.tensor([0.5, 0.25], dtype=torch.float64), Dense(offsets))


class Counting(zo.BlackBox):
    """Counts its rows; some are lost."""

    rows_per_call = 1

    def __init__(self):
        self.rows = []

    def __call__(self, points):
        self.rows.append(float(points[0, 0]))
        if points[0, 0] == 2.5:
            raise ValueError("lost")
        return points.sum(1) * (float("nan") if points[0, 0] == 4.5 else 1.0)


@pytest.mark.parametrize("value", [0.1, -0.0, 5e-324, math.inf, -math.inf, math.nan, 1e308, 3.0])
def test_a_value_comes_back_bit_for_bit(journal, value):
    told = Evaluation(1, 0, b"0" * 16, value, 0.5, "ok")
    journal.append([told])
    assert bits(journal.recall(1)[0].value) == bits(value)
    journal.close()
    again = Journal(journal.path.parent)
    assert bits(again.recall(1)[0].value) == bits(value)
    again.close()


def test_long_evaluations_are_written_at_once_and_short_ones_in_groups(journal):
    committed = zo.read_run(journal.path.parent)
    journal.flush()
    journal.append([Evaluation(1, 0, b"", 1.0, 0.001, "ok")])
    before = len(committed)
    journal.append([Evaluation(1, 1, b"", 1.0, 0.06, "ok")])
    assert before <= 1
    assert len(committed) == 2
    assert [each.row for each in journal.recall(1)] == [0, 1]


def test_what_is_known_is_not_evaluated_again(journal):
    box, first = Counting(), Journaled(InProcess(), journal)
    first.places = ((3, 0),)
    came = list(first.stream(box, [probes()]))
    assert box.rows == [0.5, 2.5, 4.5, 6.5, 8.5]
    assert [piece.status for piece in came for _ in piece.rows] == ["ok", "failed", "ok", "ok", "ok"]
    assert isinstance(came[1].exception, ValueError)
    again = list(first.stream(box, [probes()]))
    assert len(box.rows) == 5
    assert [(piece.rows, piece.status, piece.error) for piece in again] == [
        (range(1), "ok", ""),
        (range(1, 2), "failed", "ValueError: lost"),
        (range(2, 3), "invalid", ""),
        (range(3, 5), "ok", ""),
    ]
    assert again[3].values.tolist() == [6.5 + 7.25, 8.5 + 9.25]
    first.again = 3
    assert [piece.status for piece in first.stream(box, [probes()])] == ["ok", "ok", "failed", "ok"]
    assert box.rows[5:] == [2.5, 4.5]


def test_only_the_missing_rows_are_asked_for_and_each_knows_its_place(journal):
    class Watched(Evaluator):
        def stream(self, blackbox, probes):
            self.asked = self.places, [len(piece) for piece in probes]
            yield from InProcess().stream(blackbox, probes)

    box, inner = Counting(), Watched()
    marks = digests(probes())
    journal.append([Evaluation(1, row, marks[row], float(row), 0.0, "ok") for row in (1, 2, 4)])
    stream = Journaled(inner, journal).stream(box, [probes()])
    rows = sorted(row for piece in stream for row in piece.rows)
    assert rows == [0, 1, 2, 3, 4]
    assert inner.asked == (((1, 0), (1, 3)), [1, 1])
    assert box.rows == [0.5, 6.5]


def test_several_probes_of_a_wave_are_calls_of_their_own(journal):
    box, evaluator = Counting(), Journaled(InProcess(), journal)
    evaluator.places = ((7, 0), (9, 0))
    assert {(piece.call, row) for piece in evaluator.stream(box, [probes(1), probes(2)]) for row in piece.rows} == {
        (0, 0),
        (1, 0),
        (1, 1),
    }
    assert [len(journal.recall(call)) for call in (7, 8, 9)] == [1, 0, 2]


@pytest.mark.parametrize(
    ("values", "error"),
    [(torch.zeros(5, 2), "found shape (2,)"), (torch.zeros(4), "found shape ()"), (None, "one number a point")],
)
def test_what_is_no_number_is_recorded_as_invalid(journal, values, error):
    class Odd(Evaluator):
        def stream(self, blackbox, probes):
            yield Finished(0, range(5), "ok", 1.0, values)

    list(Journaled(Odd(), journal).stream(Counting(), [probes()]))
    known = journal.recall(1)
    assert {each.status for each in known} == {"invalid"}
    assert error in known[0].error


@pytest.mark.parametrize("quantity", ["value", "derivative"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_point_has_a_digest_of_its_own(quantity, dtype):
    center = torch.tensor([1.0, 2.0], dtype=dtype)
    index, step = torch.tensor([0, 1, 0]), torch.tensor([0.5, 0.5, -0.5], dtype=dtype)
    waves = [
        Probes(center, Dense(torch.eye(2, dtype=dtype)), quantity),
        Probes(center, Coordinates(index, step), quantity),
        Probes(center + 1, Coordinates(index, step), quantity),
        Probes(center, Seeded(index, step), quantity),
        Probes(center, Seeded(index, step, "sphere"), quantity),
    ]
    marks = [mark for wave in waves for mark in digests(wave)]
    assert len(set(marks)) == len(marks) == 14
    assert digests(waves[1]) == digests(Probes(center.clone(), Coordinates(index, step), quantity))
    assert digests(waves[0][1:]) == digests(waves[0])[1:]


def test_a_value_is_another_one_than_a_derivative():
    offsets = Dense(torch.eye(2))
    center = torch.zeros(2)
    assert not set(digests(Probes(center, offsets))) & set(digests(Probes(center, offsets, "derivative")))


def test_a_lock_needs_no_text(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.ftruncate", full)
    journal = Journal(tmp_path, {"evaluations": 1})
    with pytest.raises(zo.RunError, match="being written by another process"):
        Journal(tmp_path)
    journal.close()
    journal.close()
