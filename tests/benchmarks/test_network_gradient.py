"""The benchmark of a network's gradient at a tiny size, and its page."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("network_gradient")
    for name in ("_machine", "_runner", "network_gradient"):
        sys.modules.pop(name, None)


def test_without_the_reference(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "METHODS", script.METHODS[:3] + script.METHODS[5:])
    arguments = ["--batch", "2", "--repeats", "1", "--sample", "1"]
    paths = ["--results", str(tmp_path / "r.csv"), "--page", str(tmp_path / "p.md")]
    monkeypatch.setattr(sys, "argv", ["network_gradient.py", *arguments, *paths])
    script.main()
    script.main()  # nothing left to do
    rows = (tmp_path / "r.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 3
    text = (tmp_path / "p.md").read_text()
    assert "zograd contraction" in text
    assert "GFLOP" in text


def test_a_sample_of_the_coordinates_is_multiplied(script):
    model, x, loss_fn = script.problem(2, "eval")
    assert sum(p.numel() for p in model.parameters()) == script.DENSE
    found = script._coordinates(model, x, loss_fn, 2, False)
    assert found["queries"] == script.DENSE
    assert found["seconds"] > 0
