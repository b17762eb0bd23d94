"""From finished pieces, in any order, to values in ask order."""

import math
import random
from collections.abc import Iterator, Sequence

import pytest
import torch

import zograd as zo
from zograd.blackbox import BlackBox
from zograd.evaluate import Collector, Evaluator, FailurePolicy, Finished, InProcess, evaluate, failure_policy

CENTER = torch.zeros(2, dtype=torch.float64)


class Shuffled(Evaluator):
    """Finishes in an order that nobody asked for."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def stream(self, blackbox: BlackBox, probes: Sequence[zo.Probes]) -> Iterator[Finished]:
        finished = list(InProcess().stream(blackbox, probes))
        self.random.shuffle(finished)
        yield from finished


def wave_of(*sizes: int) -> list[zo.Probes]:
    total, wave = 1.0, []
    for size in sizes:
        first = torch.arange(total, total + size, dtype=torch.float64)
        wave.append(zo.Probes(CENTER, zo.Dense(torch.stack([first, first * 0], 1))))
        total += size
    return wave


@pytest.mark.parametrize("seed", range(5))
def test_values_are_in_ask_order_whatever_finishes_first(seed) -> None:
    wave = wave_of(7, 1, 4)
    box = zo.pointwise(lambda x: math.nan if x[0] == 3 else [float(x[0]), -float(x[0])])
    values = evaluate(Shuffled(seed), box, wave, FailurePolicy(fill=-1.0))
    expected = [[[x, -x] if x != 3 else [-1.0, -1.0] for x in p.points()[:, 0].tolist()] for p in wave]
    assert [v.tolist() for v in values] == expected


def lossy(x: torch.Tensor) -> object:
    match int(x[0]):
        case 2:
            return math.inf
        case 3:
            return None
        case 4:
            raise ValueError("four")
        case 5:
            return [1.0, 2.0]
        case 6:
            return "six"
    return float(x[0])


def test_every_way_of_being_lost_is_dropped_and_counted() -> None:
    wave = wave_of(7)
    collector = Collector(wave, failure_policy("drop"), shape=())
    for finished in InProcess().stream(zo.pointwise(lossy), wave):
        collector.add(finished)
    (values,) = collector.values()
    assert values.isnan().tolist() == [False, True, True, True, True, True, False]
    assert values[[0, 6]].tolist() == [1.0, 7.0]
    assert collector.tally.counts == {"invalid": 4, "failed": 1}


def test_a_penalty_stands_in() -> None:
    (values,) = evaluate(InProcess(), zo.pointwise(lossy), wave_of(7), failure_policy(zo.value(9.0)), shape=())
    assert values.tolist() == [1.0, 9.0, 9.0, 9.0, 9.0, 9.0, 7.0]


@pytest.mark.parametrize(("row", "status"), [(2, "invalid"), (3, "invalid"), (4, "failed"), (5, "invalid")])
def test_the_first_loss_stops_where_the_policy_says_so(row, status) -> None:
    wave = [wave_of(7)[0][row - 1 : row + 1]]
    with pytest.raises(zo.EvaluationError, match=r"Row 0 of call 0.*on_failure") as caught:
        evaluate(InProcess(), zo.pointwise(lossy), wave, failure_policy("raise"), shape=())
    assert (caught.value.status, caught.value.call, caught.value.row) == (status, 0, 0)
    assert (caught.value.__cause__ is not None) == (row != 5)


def test_the_row_that_was_lost_is_named_in_a_batched_piece() -> None:
    box = zo.batched(lambda x: torch.where(x[:, 0] == 6, torch.nan, x[:, 0]))
    with pytest.raises(zo.EvaluationError, match="Row 2 of call 1") as caught:
        evaluate(InProcess(), box, wave_of(3, 4), failure_policy("raise"))
    assert (caught.value.call, caught.value.row) == (1, 2)


def test_one_entry_of_any_shape_is_a_number_where_a_number_is_due() -> None:
    box = zo.batched(lambda x: x[:, :1, None])
    (values,) = evaluate(InProcess(), box, wave_of(3), FailurePolicy(), shape=())
    assert values.tolist() == [1.0, 2.0, 3.0]


def test_a_vector_where_a_number_is_due_is_invalid() -> None:
    with pytest.raises(zo.EvaluationError, match=r"must return one number, found shape \(2,\)"):
        evaluate(InProcess(), zo.batched(lambda x: x), wave_of(3), failure_policy("raise"), shape=())


def test_all_outputs_have_the_shape_of_the_first() -> None:
    class Fickle(BlackBox):
        rows_per_call = 1

        def __call__(self, points: torch.Tensor) -> torch.Tensor:
            return points.new_zeros(1, 2 if points[0, 0] == 2 else 3)

    (values,) = evaluate(InProcess(), Fickle(), wave_of(3), FailurePolicy())
    assert values.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_a_piece_must_have_one_value_a_row(rows) -> None:
    wave = wave_of(3)
    collector = Collector(wave, FailurePolicy(), shape=())
    collector.add(Finished(0, range(3), "ok", 0.0, torch.zeros(rows, dtype=torch.float64)))
    assert collector.values()[0].isnan().all()
    assert collector.tally.counts == {"invalid": 3}


def test_values_that_came_back_survive_what_did_not() -> None:
    collector = Collector(wave_of(3), FailurePolicy(), shape=())
    collector.add(Finished(0, range(2), "ok", 0.0, torch.ones(2, dtype=torch.float64)))
    assert collector.values()[0].tolist()[:2] == [1.0, 1.0]
    assert collector.values()[0][2].isnan()


def test_nothing_came_back_and_the_shape_is_not_known() -> None:
    box = zo.pointwise(lambda x: 1 / 0)
    with pytest.raises(zo.EvaluationError, match=r"every evaluation was lost \(3 failed\).*division by zero"):
        evaluate(InProcess(), box, wave_of(3), FailurePolicy())


def test_a_wave_is_evaluated_without_a_graph() -> None:
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    seen: list[bool] = []

    def program(x: torch.Tensor) -> torch.Tensor:
        seen.append((x * weight).requires_grad)
        return x[:, 0]

    evaluate(InProcess(), zo.batched(program), wave_of(2), FailurePolicy())
    assert seen == [False]
    assert torch.is_grad_enabled()
