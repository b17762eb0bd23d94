"""Evaluation here and now."""

import math

import numpy as np
import pytest
import torch

import zograd as zo
from zograd.blackbox import BlackBox
from zograd.evaluate import FailurePolicy, InProcess, evaluate

DROP = FailurePolicy()


def wave_of(*sizes: int) -> list[zo.Probes]:
    """Probes whose points count up from 1 in their first entry, through the wave."""
    total, wave = 1.0, []
    for size in sizes:
        first = torch.arange(total, total + size, dtype=torch.float64)
        wave.append(zo.Probes(torch.zeros(2).double(), zo.Dense(torch.stack([first, first * 0], 1))))
        total += size
    return wave


def firsts(wave: list[zo.Probes]) -> list[list[float]]:
    return [probes.points()[:, 0].tolist() for probes in wave]


def recording(calls: list[int]):
    def program(points: torch.Tensor) -> torch.Tensor:
        calls.append(len(points))
        return points[:, 0]

    return program


def test_a_batched_program_gets_the_whole_wave_in_one_call() -> None:
    calls: list[int] = []
    wave = wave_of(4, 1, 3)
    finished = list(InProcess().stream(zo.batched(recording(calls)), wave))
    assert calls == [8]
    assert [(piece.call, piece.rows) for piece in finished] == [(0, range(4)), (1, range(1)), (2, range(3))]
    assert [piece.values.tolist() for piece in finished] == firsts(wave)
    assert all(piece.status == "ok" and piece.seconds > 0 for piece in finished)


def test_calls_are_cut_to_memory_across_the_wave(monkeypatch) -> None:
    monkeypatch.setattr("zograd.evaluate._inprocess.ROWS_AT_ONCE_BYTES", 3 * 16)
    calls: list[int] = []
    wave = wave_of(4, 1, 3)
    values = evaluate(InProcess(), zo.batched(recording(calls)), wave, DROP)
    assert calls == [3, 3, 2]
    assert [piece.tolist() for piece in values] == firsts(wave)


class Pairs(BlackBox):
    """A program that takes two points a call, or what is left."""

    rows_per_call = 2

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(points))
        return points[:, 0]


class Structured(Pairs):
    """One that looks at how its points were made."""

    def probe(self, probes: zo.Probes) -> torch.Tensor:
        assert isinstance(probes.offsets, zo.Dense)
        return self(probes.points())


def test_rows_per_call_holds() -> None:
    box, wave = Pairs(), wave_of(3, 2)
    values = evaluate(InProcess(), box, wave, DROP)
    assert box.calls == [2, 2, 1]
    assert [piece.tolist() for piece in values] == firsts(wave)


def test_a_box_with_a_probe_of_its_own_gets_probes() -> None:
    box, wave = Structured(), wave_of(3, 2)
    values = evaluate(InProcess(), box, wave, DROP)
    assert box.calls == [2, 1, 2]
    assert [piece.tolist() for piece in values] == firsts(wave)


def test_a_pointwise_program_fails_row_by_row() -> None:
    def program(x: torch.Tensor) -> float:
        if x[0] == 2:
            raise ZeroDivisionError("no")
        if x[0] == 3:
            return None
        return float(x[0])

    finished = list(InProcess().stream(zo.pointwise(program), wave_of(3, 1)))
    assert [piece.status for piece in finished] == ["ok", "failed", "invalid", "ok"]
    assert [(piece.call, piece.rows.start, len(piece.rows)) for piece in finished] == [
        (0, 0, 1),
        (0, 1, 1),
        (0, 2, 1),
        (1, 0, 1),
    ]
    assert finished[1].error == "ZeroDivisionError: no"
    assert isinstance(finished[1].exception, ZeroDivisionError)
    assert "must return numbers, found None" in finished[2].error


def test_an_exception_loses_every_row_of_a_batched_call() -> None:
    def program(points: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no licence")

    finished = list(InProcess().stream(zo.batched(program), wave_of(2, 3)))
    assert [(piece.status, piece.call, len(piece.rows)) for piece in finished] == [("failed", 0, 2), ("failed", 1, 3)]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("kind", [zo.pointwise, zo.batched])
def test_an_interrupt_passes_through(interrupt, kind) -> None:
    def program(x: torch.Tensor) -> float:
        raise interrupt

    with pytest.raises(interrupt):
        list(InProcess().stream(kind(program), wave_of(2)))


def test_a_mistake_of_the_caller_passes_through() -> None:
    derivative = zo.Probes(torch.zeros(2), zo.Dense(torch.ones(1, 2)), "derivative")
    with pytest.raises(zo.ArgumentError, match="torch_function"):
        list(InProcess().stream(zo.pointwise(float), [derivative]))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_derivatives_come_from_probe() -> None:
    box = zo.torch_function(lambda x: x.square().sum())
    offsets = zo.Dense(torch.eye(2).double())
    wave = [zo.Probes(torch.tensor([1.0, 2.0]).double() * k, offsets, "derivative") for k in (1, 2)]
    assert [v.tolist() for v in evaluate(InProcess(), box, wave, DROP)] == [[2.0, 4.0], [4.0, 8.0]]


@pytest.mark.parametrize(("returned", "found"), [(lambda x: x[:1, 0], r"\(1,\)"), (lambda x: x.sum(), r"\(\)")])
def test_a_box_must_return_one_row_a_point(returned, found) -> None:
    class Wrong(BlackBox):
        def __call__(self, points: torch.Tensor) -> torch.Tensor:
            return returned(points)

    (finished,) = InProcess().stream(Wrong(), wave_of(3))
    assert finished.status == "invalid"
    with pytest.raises(zo.EvaluationError, match=f"one row a point, shape \\(3, ...\\), found shape {found}"):
        raise finished.exception


def test_a_box_must_return_a_tensor() -> None:
    class Wrong(BlackBox):
        def __call__(self, points: torch.Tensor) -> torch.Tensor:
            return [0.0] * len(points)

    (finished,) = InProcess().stream(Wrong(), wave_of(3))
    assert "found list" in finished.error


@pytest.mark.parametrize("box", [zo.batched(lambda x: x[:, 0]), zo.pointwise(lambda x: x[0]), Structured()])
def test_nothing_to_do(box) -> None:
    assert list(InProcess().stream(box, [])) == []
    assert list(InProcess().stream(box, wave_of(0))) == []


def test_a_lost_call_is_tried_again() -> None:
    seen: list[float] = []

    def fickle(x: torch.Tensor) -> float:
        seen.append(float(x[0]))
        return [math.nan, 0.0][seen.count(1.0) - 1] if x[0] == 1 else 2.0

    wave = [zo.Probes(torch.zeros(1), zo.Dense(torch.tensor([[0.0], [1.0]])))]
    pieces = list(InProcess(retries=2, wait=0.001).stream(zo.pointwise(fickle), wave))
    assert torch.cat([piece.values for piece in pieces]).tolist() == [2.0, 0.0]
    assert seen == [0.0, 1.0, 1.0]
    (piece,) = InProcess(retries=2, wait=0.001).stream(zo.pointwise(lambda x: 1 / 0), [wave[0][:1]])
    assert piece.error == "ZeroDivisionError: division by zero It was tried 3 times."


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.array])
def test_numbers_of_numpy_are_numbers(kind) -> None:
    box = zo.pointwise(lambda x: kind(float(x[0]) / 4))
    wave = [zo.Probes(torch.zeros(1), zo.Dense(torch.arange(5.0)[:, None]))]
    (values,) = evaluate(InProcess(), box, wave, FailurePolicy())
    assert values.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
