"""The benchmark of measured steps at a tiny size, and its page."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("layer_steps")
    for name in ("_machine", "_runner", "layer_steps"):
        sys.modules.pop(name, None)


def test_one_network(script, tmp_path, monkeypatch):
    paths = ["--results", str(tmp_path / "r.csv"), "--page", str(tmp_path / "p.md")]
    arguments = ["--seeds", "1", "--devices", "noise 0.01", *paths]
    monkeypatch.setattr(sys, "argv", ["layer_steps.py", *arguments])
    script.main()
    script.main()  # nothing left to do
    (row,) = script.Results(tmp_path / "r.csv", script.FIELDS, script.KEY).rows
    assert float(row["measured"]) > 0.9 > 0.5 > abs(float(row["default"]))
    assert "noise 0.01" in (tmp_path / "p.md").read_text()
