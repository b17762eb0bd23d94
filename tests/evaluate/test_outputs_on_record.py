"""Outputs in a run's file: exact, checked when they are read, and files from before there were any."""

import math
import sqlite3

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import zograd as zo
from zograd.evaluate import Evaluation, Journal
from zograd.evaluate._records import deflated, inflated

numbers = st.floats(width=64, allow_nan=True, allow_infinity=True)


@given(st.lists(st.one_of(numbers, st.floats(width=32)), min_size=1, max_size=30), st.booleans())
def test_outputs_come_back_bit_for_bit(entries, flat):
    outputs = torch.tensor(entries, dtype=torch.float64)
    outputs = outputs if flat else outputs[:, None]
    back = inflated(*deflated(outputs))
    assert back.shape == outputs.shape
    assert back.dtype == torch.float64
    known = ~outputs.isnan()
    assert torch.equal(back[known].view(torch.int64), outputs[known].view(torch.int64))
    assert torch.equal(back.isnan(), outputs.isnan())


def test_pixels_take_a_fraction_of_their_size():
    pixels = (torch.arange(10_000) % 7).double() / 256
    assert len(deflated(pixels)[2]) < 10_000


@pytest.mark.parametrize(
    "cells",
    [
        ("torch.float64", "[3]", b"no zlib"),
        ("torch.float64", "[4]", deflated(torch.ones(3, dtype=torch.float64) / 3)[2]),
        ("torch.float64", "[2]", deflated(torch.ones(3, dtype=torch.float64) / 3)[2]),
        ("torch.float64", "[0]", deflated(torch.ones(3, dtype=torch.float64) / 3)[2]),
        ("torch.float64", "[-3]", b""),
        ("torch.float64", "3", b""),
        ("torch.float64", '["a"]', b""),
        ("torch.int32", "[3]", b""),
        ("torch.float64", "[3]", "text"),
        ("torch.float64", None, b""),
    ],
)
def test_what_is_none_is_refused(cells):
    with pytest.raises(ValueError, match=r"outputs|missing"):
        inflated(*cells)


def test_damaged_outputs_are_said(tmp_path):
    journal = Journal(tmp_path / "run", {"evaluations": 3})
    journal.append([Evaluation(1, 0, b"0" * 16, 0.5, 0.1, "ok", "", torch.ones(3, dtype=torch.float64))])
    assert torch.equal(journal.recall(1)[0].outputs, torch.ones(3, dtype=torch.float64))
    journal._connection.execute("UPDATE outputs SET data = ?", (b"garbage",))
    with pytest.raises(zo.RunError, match="unpacked"):
        journal.recall(1)
    journal.close()


def test_a_file_from_before_there_were_outputs_is_read_and_goes_on(tmp_path):
    def program(x):
        return float(((np.asarray(x) - 0.3) ** 2).sum())

    whole = zo.minimize(program, [1.0, 2.0], evaluations=60)
    zo.minimize(program, [1.0, 2.0], evaluations=30, run=tmp_path / "run")
    connection = sqlite3.connect(tmp_path / "run" / "run.sqlite")
    connection.execute("DROP TABLE outputs")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    assert math.isfinite(zo.read_run(tmp_path / "run").best_value)
    on = zo.minimize(program, [1.0, 2.0], evaluations=60, run=tmp_path / "run")
    assert on.fun == whole.fun
    assert zo.read_run(tmp_path / "run")._select("PRAGMA user_version")[0][0] == 2
