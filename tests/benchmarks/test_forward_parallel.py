"""The benchmark of parallel gradients at a tiny size, and its page."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    found = importlib.import_module("forward_parallel")
    for name, value in {"BATCH": 2, "COORDINATES": 6, "STEPS": 1, "WAYS": (0, 1)}.items():
        monkeypatch.setattr(found, name, value)
    monkeypatch.setattr(found, "RESULTS", tmp_path)
    monkeypatch.setattr(found, "GENERATED", tmp_path)
    yield found
    for name in ("_machine", "_runner", "network_gradient", "forward_parallel"):
        sys.modules.pop(name, None)


def test_a_worker_finds_the_same_and_the_page_is_written(script, tmp_path):
    script.main()
    script.main()  # nothing left to do
    rows = (tmp_path / "forward_parallel.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2
    shares = script.Results(tmp_path / "forward_parallel_shares.csv", script.SHARE_FIELDS, script.SHARE_KEY).rows
    assert sum(int(row["rows"]) for row in shares) == 12
    text = (tmp_path / "forward_parallel.md").read_text()
    assert "1 in a pool" in text
    assert "NO" not in text
