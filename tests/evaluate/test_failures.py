"""What becomes of lost evaluations."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import zograd as zo
from zograd.evaluate import FailurePolicy, Finished, InProcess, Tally, evaluator_for, failure_policy, last_words


def test_policies_by_name() -> None:
    drop, stop, penalty = failure_policy("drop"), failure_policy("raise"), failure_policy(zo.value(3.0))
    assert math.isnan(drop.fill)
    assert not drop.stop
    assert stop.stop
    assert penalty == FailurePolicy(fill=3.0)


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


def test_a_retry_is_any_policy_with_attempts() -> None:
    assert zo.retry(3) == FailurePolicy(retries=3)
    assert zo.retry(2, wait=0.5, then="raise") == FailurePolicy(stop=True, retries=2, wait=0.5)
    assert failure_policy(zo.retry(1, then=zo.value(4.0))) == FailurePolicy(fill=4.0, retries=1)
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
            assert (pool.retries, pool.pause, pool.seed, pool.timeout) == (2, 0.5, 4, said.get("timeout"))
            assert pool.workers == said.get("workers", 1 if "timeout" in said else None)
