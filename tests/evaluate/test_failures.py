"""What becomes of lost evaluations."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import zograd as zo
from zograd.evaluate import (
    FailurePolicy,
    Finished,
    InProcess,
    Tally,
    evaluate,
    evaluator_for,
    failure_policy,
    last_words,
)


def test_policies_by_name() -> None:
    drop, stop, penalty = failure_policy("drop"), failure_policy("raise"), failure_policy(zo.value(3.0))
    assert math.isnan(drop.fill)
    assert not drop.stop
    assert stop.stop
    assert penalty == FailurePolicy(fill=3.0, max_lost=1.0)


@pytest.mark.parametrize("wrong", ["ignore", "", "DROP"])
def test_an_unknown_policy(wrong) -> None:
    with pytest.raises(zo.ArgumentError, match=r"`on_failure` must be .*zo\.value") as caught:
        failure_policy(wrong)
    assert caught.value.argument == "on_failure"
    assert caught.value.found == wrong


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_penalty_is_a_finite_number(wrong) -> None:
    with pytest.raises(zo.ArgumentError, match="`number` must be a finite number"):
        zo.value(wrong)


def test_a_tally_counts_rows_by_how_they_ended() -> None:
    tally = Tally()
    assert str(tally) == "none"
    assert last_words(tally) == ""
    tally.add(Finished(0, range(3), "failed", 0.1, error="ZeroDivisionError: x"), 3)
    assert last_words(tally) == " The last one: ZeroDivisionError: x."
    tally.add(Finished(0, range(5), "ok", 0.1, torch.zeros(5)), 2)
    assert str(tally) == "3 failed, 2 invalid"
    assert tally.total == 5
    assert last_words(tally) == " The last one: it returned NaN or inf."


def lost_of(*pieces: tuple[int, int], policy: FailurePolicy) -> Tally:
    """A tally that has seen pieces of so many rows, so many of which were lost."""
    tally = Tally()
    for rows, lost in pieces:
        finished = Finished(0, range(rows), "failed", 0.1, error="no licence")
        if lost:
            tally.add(finished, lost)
        tally.look(rows, lost, policy)
    return tally


@given(
    pieces=st.lists(st.integers(1, 150).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), max_size=30),
    share=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
)
def test_the_share_of_losses_is_that_of_the_last_hundred(pieces, share) -> None:
    def passed(seen: list[tuple[int, int]]) -> bool:
        """Whether the newest pieces that have 100 rows together lost more than the share, and the newest lost any."""
        rows = lost = 0
        for piece in reversed(seen):
            rows, lost = rows + piece[0], lost + piece[1]
            if rows >= 100:
                return seen[-1][1] > 0 and lost > share * rows
        return False

    expected = any(passed(pieces[: end + 1]) for end in range(len(pieces)))
    try:
        lost_of(*pieces, policy=FailurePolicy(max_lost=share))
    except zo.EvaluationError:
        assert expected
    else:
        assert not expected


def test_the_error_says_what_was_lost_and_the_count_begins_anew() -> None:
    policy = FailurePolicy(max_lost=0.5)
    with pytest.raises(
        zo.EvaluationError, match=r"51 of the last 100 .* max_lost=0\.5 .*51 failed.*no licence.*mend"
    ) as e:
        lost_of((49, 0), *[(1, 1)] * 51, policy=policy)
    assert e.value.status == "failed"
    tally = lost_of((49, 0), *[(1, 1)] * 50, policy=policy)
    with pytest.raises(zo.EvaluationError):
        tally.look(1, 1, policy)
    for _ in range(99):
        tally.look(1, 1, policy)
    with pytest.raises(zo.EvaluationError):
        tally.look(1, 1, policy)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", [0, -0.1, 1.1, math.nan, True, "half"])
def test_a_share_that_is_none(wrong) -> None:
    with pytest.raises(zo.ArgumentError, match="`max_lost` must be above 0 and at most 1"):
        failure_policy("drop", wrong)


def test_the_share_is_of_any_policy() -> None:
    assert failure_policy("drop").max_lost == 0.9
    assert failure_policy(zo.value(2.0)).max_lost == 1.0
    assert failure_policy(zo.retry(2, then=zo.value(2.0)), 0.3) == FailurePolicy(2.0, retries=2, max_lost=0.3)


@pytest.mark.parametrize("workers", [None, 2])
def test_whoever_evaluates_too_many_losses_stop_the_work(workers) -> None:
    rows = torch.arange(200, dtype=torch.float64)[:, None]
    wave = [zo.Probes(torch.zeros(1, dtype=torch.float64), zo.Dense(rows))]
    box = zo.pointwise(lambda x: 1.0 if x[0] < 30 else math.nan)
    policy = failure_policy("drop", 0.8)
    evaluator = evaluator_for(policy, workers=workers)
    with pytest.raises(zo.EvaluationError, match=r"of the last .* max_lost=0\.8"):
        evaluate(evaluator, box, wave, policy)
    (values,) = evaluate(evaluator, box, wave, failure_policy("drop", 1.0))
    assert values.isfinite().sum() == 30
    if isinstance(evaluator, zo.Pool):
        evaluator.close()


def test_a_retry_is_any_policy_with_attempts() -> None:
    assert zo.retry(3) == FailurePolicy(retries=3)
    assert zo.retry(2, wait=0.5, then="raise") == FailurePolicy(stop=True, retries=2, wait=0.5)
    assert failure_policy(zo.retry(1, then=zo.value(4.0))) == FailurePolicy(fill=4.0, retries=1, max_lost=1.0)
    with pytest.raises(zo.ArgumentError, match="`times` must be"):
        zo.retry(0)
    with pytest.raises(zo.ArgumentError, match="`wait` must be"):
        zo.retry(1, wait=0.0)


def test_who_evaluates_follows_from_what_was_said() -> None:
    assert isinstance(evaluator_for(FailurePolicy()), InProcess)
    assert evaluator_for(zo.retry(3, wait=0.5)).retries == 3
    with ThreadPoolExecutor(1) as executor:
        for said in ({"workers": 2}, {"timeout": 1.0}, {"executor": executor}):
            pool = evaluator_for(zo.retry(2, wait=0.5), seed=4, **said)
            assert isinstance(pool, zo.Pool)
            assert (pool.retries, pool.pause, pool.seeds.seed, pool.timeout) == (2, 0.5, 4, said.get("timeout"))
            assert pool.workers == said.get("workers", 1 if "timeout" in said else None)
