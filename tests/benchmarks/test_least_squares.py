"""The benchmark of outputs against losses runs at a tiny size, keeps to the budget and continues where it was."""

import csv
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "least_squares.py"


def run(*arguments):
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_it_runs_small_and_goes_on(tmp_path):
    out, page = tmp_path / "l.csv", tmp_path / "l.md"
    small = ["--seeds", "1", "--problems", "Rosenbrock", "two decays, noise", "--out", str(out), "--report", str(page)]
    run(*small)
    with out.open(newline="") as file:
        rows = {(row["problem"], row["method"]): row for row in csv.DictReader(file)}
    assert len(rows) == 6
    assert all(0 < int(row["evaluations"]) <= int(row["budget"]) for row in rows.values())
    assert int(rows["Rosenbrock", "outputs"]["reached"]) < int(rows["Rosenbrock", "SciPy"]["reached"])
    assert all(row["machine"] and row["version"] for row in rows.values())
    assert "| Rosenbrock | 2 | 2 | 200 |" in page.read_text()
    assert "0 of 6 to do" in run(*small)
