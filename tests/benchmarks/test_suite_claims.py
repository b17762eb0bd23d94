"""What the suite's figures say: ratios target by target, and what is made of misses."""

import importlib
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def claims(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("suite_claims")
    for name in ("suite_claims", "suite", "_suite", "_runner", "_machine"):
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


def test_the_ratio_is_to_the_fastest_tuned_method(claims):
    rows = [
        *(row(claims.DEFAULT, seed, {"1.5": 60}) for seed in (1000, 0, 1)),
        *(row("CMA-ES", seed, {"1.5": 40, "0.01": 100}, {"spread": 0.1}) for seed in (1000, 0, 1)),
        *(row("FD", seed, {"1.5": 50, "0.01": 80}, {"spread": 0.1, "rate": 0.1}) for seed in (1000, 0, 1)),
    ]
    found = claims.runs_of(rows, "toy")
    assert claims.default_lines(found, "toy") == [
        ["toy", "1.5", "CMA-ES", "40", "60", "1.50"],
        ["toy", "0.01", "FD", "80", "inf", "inf"],
    ]
    assert claims.runs_of(rows, "led") == {}
    alone = claims.default_lines(claims.runs_of(rows[:3], "toy"), "toy")
    assert [line[2:] for line in alone] == [["nobody", "inf", "60", "0.00"]]


def test_surrogates_are_compared_with_plain_estimators_alone(claims):
    rows = [
        *(row("CMA-ES", seed, {"1.5": 4}, {"spread": 0.1}) for seed in (1000, 0)),
        *(row("SPSA", seed, {"1.5": 50}, {"spread": 0.1, "rate": 0.1}) for seed in (1000, 0)),
        *(row("PolynomialSurrogate", seed, {"1.5": 20, "0.01": 30}, {"spread": 0.1}) for seed in (1000, 0)),
    ]
    (first, second) = claims.surrogate_lines(claims.runs_of(rows, "toy"), "toy")
    assert first[2:] == ["SPSA: 50", "PolynomialSurrogate: 20", "none", "0.40", "inf", "0.40"]
    assert second[5:] == ["0.00", "nan", "0.00"]  # the outputs and the plain one both missed it: no ratio
    assert claims.last_of([first, second], 6).tolist() == [float("inf")]


def test_ours_are_compared_with_when_zerograds_was_first_where_it_ended(claims):
    found = {claims.DEFAULT: [{"curve": "1:9;5:2;30:0.5"}]}
    reference = [
        {
            "case": "toy",
            "settings": "as released",
            "last": "1.0",
            "evaluations": "900",
            "centers": "0:9;300:0.9;400:0.1",
        },
        {"case": "toy", "settings": "sigma 1 rate 10", "last": "20.0", "evaluations": "900", "centers": "0:9;400:0.1"},
    ]
    first, second = claims.reference_lines(found, "toy", reference)
    assert first[1:] == ["as released", 1, "1", "900", "300", "30", "inf", "inf", "10"]
    assert second[-1] == "nan"  # it ended above its start


def test_the_tables_are_written(claims, tmp_path, capsys):
    suite = importlib.import_module("suite")
    results = suite.Results(tmp_path / "suite.csv", suite.FIELDS, suite.KEY)
    for seed in (1000, 0):
        for method, settings in ((claims.DEFAULT, {}), ("FD", {"spread": 0.1})):
            results.append(dict.fromkeys(suite.FIELDS, "") | row(method, seed, {"1.5": 10}, settings))
    paths = ["--results", str(tmp_path / "suite.csv"), "--reference", str(tmp_path / "no.csv")]
    claims.main([*paths, "--report", str(tmp_path / "claims.md")])
    assert "within 1.5 times on 1 of 1 cases, worst 1.00" in capsys.readouterr().out
    assert "FD: 10" in (tmp_path / "claims.md").read_text()
