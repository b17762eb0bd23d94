"""The default is compared with the best tuned method, target by target."""

import importlib
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("cmaes")
pytest.importorskip("matplotlib")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def default(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("default")
    for name in ("default", "suite", "_suite", "_runner", "_machine"):
        sys.modules.pop(name, None)


def row(method, seed, reached, settings=None):
    return {
        "case": "toy",
        "method": method,
        "settings": json.dumps(settings or {}),
        "budget": "4000",
        "seed": str(seed),
        "best": "0.5",
        "reached": json.dumps(reached),
    }


def test_the_ratio_is_to_the_fastest_tuned_method(default):
    rows = [
        *(row(default.DEFAULT, seed, {"1.5": 60}) for seed in (1000, 0, 1)),
        *(row("CMA-ES", seed, {"1.5": 40, "0.01": 100}, {"spread": 0.1}) for seed in (1000, 0, 1)),
        *(row("FD", seed, {"1.5": 50, "0.01": 80}, {"spread": 0.1, "rate": 0.1}) for seed in (1000, 0, 1)),
    ]
    assert default.ratios(rows, "toy") == [
        ["toy", "1.5", "CMA-ES", "40", "60", "1.50"],
        ["toy", "0.01", "FD", "80", "inf", "inf"],
    ]
    assert default.ratios(rows, "led") == []
    alone = default.ratios(rows[:3], "toy")
    assert [line[2:] for line in alone] == [["nobody", "inf", "60", "0.00"]]


def test_the_table_is_printed(default, tmp_path, capsys):
    suite = importlib.import_module("suite")
    results = suite.Results(tmp_path / "suite.csv", suite.FIELDS, suite.KEY)
    for seed in (1000, 0):
        for method, settings in ((default.DEFAULT, {}), ("CMA-ES", {"spread": 0.1})):
            results.append(dict.fromkeys(suite.FIELDS, "") | row(method, seed, {"1.5": 10}, settings))
    default.main(["--results", str(tmp_path / "suite.csv")])
    said = capsys.readouterr().out
    assert "within 1.5 times on 100% of 1 cases, worst 1.00" in said
