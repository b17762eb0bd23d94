"""The benchmarks run at tiny sizes, continue where they were, and cannot overspend."""

import csv
import importlib
import sys
from pathlib import Path

import pytest

pytest.importorskip("cma")
pytest.importorskip("ioh")
pytest.importorskip("matplotlib")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def load(monkeypatch):
    """The scripts find each other by their folder, as they do when they are run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in ("_machine", "_runner", "bbob", "failures", "overhead", "step_overhead", "surrogates_ablation"):
        sys.modules.pop(name, None)


@pytest.fixture
def runner(load):
    return load("_runner")


def test_budget_is_exact(runner):
    fun = runner.Counted(lambda x: float(x[0]), 2)
    assert [fun([3.0]), fun([1.0])] == [3.0, 1.0]
    with pytest.raises(runner.BudgetSpentError):
        fun([-1.0])
    assert (fun.calls, fun.refused, fun.best) == (2, 1, 1.0)


def test_results_continue_and_sort(runner, tmp_path):
    results = runner.Results(tmp_path / "r.csv", ["name", "size", "value"], ["name", "size"])
    done: list[int] = []

    def work(task):
        done.append(task["size"])
        return task | {"value": task["size"] ** 2}

    tasks = [{"name": "a", "size": size} for size in (10, 2)]
    runner.sweep(tasks[:1], work, results)
    again = runner.Results(tmp_path / "r.csv", ["name", "size", "value"], ["name", "size"])
    runner.sweep(tasks, work, again)
    assert done == [10, 2]
    again.rewrite(again.rows)
    assert [row["size"] for row in rows(tmp_path / "r.csv")] == ["2", "10"]


def test_table_aligns_numbers(runner):
    assert runner.table(["a", "b"], [["x", "**1.0**"], ["y", ""]]).splitlines()[1] == "| --- | ---: |"


def test_bbob(load, tmp_path, capsys):
    bbob, out, report, plot = load("bbob"), tmp_path / "b.csv", tmp_path / "b.md", tmp_path / "b.png"
    command = [
        "--methods",
        "zograd",
        "pycma",
        "Nelder-Mead",
        "--dimensions",
        "2",
        "--instances",
        "1",
        "--functions",
        "1",
        "8",
    ]
    command += ["--out", str(out), "--report", str(report), "--plot", str(plot)]
    bbob.main(command)
    found = {(row["method"], row["function"]): row for row in rows(out)}
    assert len(found) == 6
    assert {row["error"] for row in found.values()} == {""}
    assert max(int(row["evaluations"]) for row in found.values()) <= 400
    assert max(float(found[method, "1"]["gap"]) for method in ("zograd", "pycma", "Nelder-Mead")) < 1e-6
    assert "f8 Rosenbrock" in report.read_text()
    assert plot.stat().st_size > 1000
    bbob.main(command)
    assert "0 of 6 to do" in capsys.readouterr().out


def test_failures(load, tmp_path):
    failures, out, report = load("failures"), tmp_path / "f.csv", tmp_path / "f.md"
    failures.main(
        ["--methods", "SciPy Nelder-Mead", "--faults", "exception once", "--out", str(out), "--report", str(report)]
    )
    assert [row["best"] for row in rows(out)] == ["lost"]
    assert "raises RuntimeError, best lost" in report.read_text()


@pytest.mark.parametrize(
    ("method", "fault", "outcome", "best"),
    [
        ("zograd", "exception once", "returned", "kept"),
        ("zograd", "Ctrl-C", "returned", "kept"),
        ("zograd", "NaN always", "raised", "none seen"),
        ("SciPy Nelder-Mead", "Ctrl-C", "raised", "lost"),
    ],
)
def test_one_failure(load, method, fault, outcome, best):
    found = load("failures").attempt(method, fault)
    assert (found["outcome"], found["best"]) == (outcome, best)


def test_overhead(load, tmp_path):
    overhead, out, report = load("overhead"), tmp_path / "o.csv", tmp_path / "o.md"
    command = ["--methods", "zograd", "pycma", "--evaluations", "100", "--batches", "1", "--repeats", "1"]
    overhead.main([*command, "--out", str(out), "--report", str(report)])
    found = rows(out)
    assert len(found) == 4
    assert min(float(row["microseconds"]) for row in found) > 0
    assert all(0 < float(row["share"]) < 1 for row in found if row["case"] == "batched")
    assert "microseconds an evaluation" in report.read_text()


def test_step_overhead(load, tmp_path, monkeypatch):
    steps, out, report = load("step_overhead"), tmp_path / "o.csv", tmp_path / "o.md"
    monkeypatch.setattr(steps, "LIMITS", {2: 1e-9, 1_024: 1e6})
    monkeypatch.setattr(steps, "RUNS", {2: 3, 1_024: 2})
    methods = [steps.FLOOR, "PolynomialSurrogate", "PolynomialSurrogate, TrustRegion"]
    steps.main(
        ["--methods", *methods, "--dimensions", "2", "--repeats", "1", "--out", str(out), "--report", str(report)]
    )
    found = rows(out)
    assert {row["method"] for row in found} == set(methods)
    assert "Over the limit at their least: " in report.read_text()
    assert "none." not in report.read_text()  # nothing takes no time at all


def test_surrogates(load, tmp_path, monkeypatch):
    ablation = load("surrogates_ablation")
    monkeypatch.setattr(ablation, "GENERATED", tmp_path)
    results = ablation.Results(tmp_path / "s.csv", ablation.FIELDS, ablation.KEY)
    tasks = [{"problem": "bowl_10", "method": name, "rate": 1.0, "seed": 0} for name in ("plain ES", "trust region")]
    ablation.sweep(tasks, ablation.work, results)
    plain, region = (int(row["evaluations"]) for row in results.rows)
    assert region < plain < 4000
    ablation.report(results)
    assert f"| trust region | {region} |" in (tmp_path / "surrogates_ablation.md").read_text()
