"""What becomes of lost evaluations."""

import math

import pytest
import torch

import zograd as zo
from zograd.evaluate import FailurePolicy, Finished, Tally, failure_policy, last_words


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
