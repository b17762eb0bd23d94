"""Steps in memory: all there, their best points bounded."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import zograd as zo
from zograd import _history
from zograd._history import Steps
from zograd.strategies import Step

DIMENSION = 4


def collected(improves: list[bool]) -> list[Step]:
    kept, point = Steps(), torch.full((DIMENSION,), -1.0)
    for number, better in enumerate(improves):
        point = torch.full((DIMENSION,), float(number)) if better else point
        kept.append(Step(number + 1, number + 1, None, -float(point[0]), point))
    return kept.steps


def distinct(steps: list[Step]) -> set[int]:
    return {step.best_point.data_ptr() for step in steps if not step.best_point.isnan().any()}


@given(st.lists(st.booleans(), min_size=1, max_size=120), st.integers(1, 40))
def test_best_points_are_right_or_unknown_and_never_more_than_the_limit(improves: list[bool], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_history, "MOST_BYTES", most * DIMENSION * 4)
        steps = collected(improves)
    assert [step.number for step in steps] == list(range(1, len(improves) + 1))
    for step in steps:
        assert bool((step.best_point == -step.best_value).all()) or bool(step.best_point.isnan().all())
        assert step.best_point.shape == (DIMENSION,)
    assert not steps[-1].best_point.isnan().any()
    assert not steps[0].best_point.isnan().any()
    assert len(distinct(steps)) <= max(2, most)
    count = 1 + sum(improves[1:])
    if count <= most:
        assert len(distinct(steps)) == count


def test_what_is_kept_is_spread_over_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_history, "MOST_BYTES", 16 * DIMENSION * 4)
    known = [place for place, step in enumerate(collected([True] * 200)) if not step.best_point.isnan().any()]
    assert known == [*range(0, 199, 16), 199]


def test_minimise_keeps_memory_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_history, "MOST_BYTES", 8 * 100 * 8)
    start = torch.ones(100, dtype=torch.float64)
    result = zo.minimize(
        zo.batched(lambda x: (x**2).sum(1)), start, evaluations=3000, estimator=zo.RandomGradient(samples=4)
    )
    assert len(result.history) == result.nit > 50
    assert 2 <= len(distinct(result.history)) <= 8
    assert math.isclose(float((result.history[-1].best_point ** 2).sum()), result.history[-1].best_value)
