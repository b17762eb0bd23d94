"""What a run is, as text: the same in every process, another where a setting is another."""

import functools

import numpy as np
import pytest
import torch

import zograd as zo
from zograd._configuration import configuration_of, described, differences
from zograd.evaluate import FailurePolicy


def descent(x0=(1.0, 2.0), **options):
    settings = {"estimator": zo.RandomGradient(), "optimizer": torch.optim.Adam} | options
    return zo.Descent(x0 if isinstance(x0, zo.Parameters) else list(x0), **settings)


def configuration(**options):
    return configuration_of(descent(**options), FailurePolicy(), {"given": 1})


def test_the_same_settings_make_the_same_configuration():
    assert differences(configuration(), configuration()) == ()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"estimator": zo.RandomGradient(samples=3)}, "estimator.samples"),
        ({"estimator": zo.CoordinateGradient()}, "estimator.type"),
        ({"optimizer": functools.partial(torch.optim.Adam, lr=0.5)}, "optimizer.lr"),
        ({"optimizer": torch.optim.SGD}, "optimizer.type"),
        ({"scheduler": functools.partial(torch.optim.lr_scheduler.StepLR, step_size=2)}, "scheduler"),
        ({"seed": 4}, "start"),
        ({"x0": (1.0, 2.5)}, "parameters.table"),
        ({"x0": zo.Parameters([1.0, 2.0], scale=1.0000000001)}, "parameters.digest"),
        ({"x0": zo.Parameters([1.0, 2.0], scale="log")}, "parameters.table"),
        ({"x0": zo.Parameters([1.0, 2.0], bounds=(0.5, 3))}, "parameters.table"),
    ],
)
def test_every_setting_counts(options, named):
    lines = differences(configuration(), configuration(**options))
    assert any(line.startswith(named) for line in lines), lines


def test_a_budget_is_free_and_the_readable_lines_come_first():
    before = {"evaluations": 1, "start": "digest a", "a": {"digest": "x"}, "z": [1, 2]}
    after = {"evaluations": 2, "start": "digest b", "a": {"digest": "y"}, "z": [1, 3], "new": None}
    assert differences(before, after) == (
        "z[1]: 2 -> 3",
        "new: not there -> null",
        'a.digest: "x" -> "y"',
        'start: "digest a" -> "digest b"',
    )


def test_deep_and_long_settings_are_compared():
    deep: object = []
    for _ in range(5000):
        deep = [deep]
    assert differences({"a": deep}, {"a": 1}) != ()
    assert differences({"a": [deep] * 60}, {"a": [1] * 60})[0].startswith("a: 60 entries, digest")
    assert differences({"a": [1] * 60}, {"a": [1] * 60}) == ()


def nothing():
    """A function."""


class Thing:
    """An object without a repr of its own."""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (True, True),
        (2.5, 2.5),
        (float("inf"), "inf"),
        (np.float32(0.5), 0.5),
        (torch.tensor([1.0]), "float32 (1,) [1.0]"),
        (np.zeros(2), "float64 (2,) [0.0, 0.0]"),
        (torch.Generator().manual_seed(3), "generator seeded with 3"),
        ((1, [2]), [1, [2]]),
        ({"b", "a"}, ["a", "b"]),
        ({1: 2}, {"1": 2}),
        (nothing, f"{__name__}.nothing"),
        (functools.partial(nothing, 1, x=2), {"type": f"{__name__}.nothing", "args": [1], "x": 2}),
    ],
)
def test_what_is_described(value, text):
    assert described(value) == text


def test_no_address_is_in_a_description():
    assert "0x" not in described(Thing())
    assert described(Thing()) == described(Thing())
    assert described(torch.arange(100)) == described(torch.arange(100)) != described(torch.arange(100) + 1)
