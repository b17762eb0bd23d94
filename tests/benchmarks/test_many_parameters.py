"""The benchmark of many parameters runs at a tiny size, keeps to the budget and continues where it was."""

import csv
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "many_parameters.py"


def run(*arguments):
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_it_runs_small_and_goes_on(tmp_path):
    out, page = tmp_path / "m.csv", tmp_path / "m.md"
    small = ["--dimensions", "20", "--seeds", "1", "--functions", "sphere", "noisy sphere"]
    where = ["--methods", "BlockNewton, blocks of 8", "AnnealedAdam", "--out", str(out), "--report", str(page)]
    run(*small, *where)
    with out.open(newline="") as file:
        rows = {(row["function"], row["method"]): row for row in csv.DictReader(file)}
    assert len(rows) == 4
    assert all(350 < int(row["evaluations"]) <= 400 for row in rows.values())
    assert float(rows["sphere", "BlockNewton, blocks of 8"]["decades"]) < -10
    assert all(row["machine"] and row["version"] for row in rows.values())
    assert "### d = 20, 400 evaluations" in page.read_text()
    assert "0 of 4 to do" in run(*small, *where)
