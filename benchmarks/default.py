"""What `zo.minimize` needs with nothing tuned, as a multiple of what the best tuned method of the suite needs.

It measures nothing: it reads what ``suite.py`` has written. For each case and target, the fewest median evaluations
among all tuned methods, and those of the default over them. A ratio below 1 says that the default was faster; ``inf``
that it missed a target that a tuned method reached.

    OMP_NUM_THREADS=1 python benchmarks/suite.py
    python benchmarks/default.py
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _runner import RESULTS, Results, Row, table
from _suite import CASES, METHODS
from suite import chosen_rows, evaluations_to, quartiles

DEFAULT = "zo.minimize (nothing tuned)"
WITHIN, WORST = 1.5, 4.0


def median(rows: Sequence[Row], target: float) -> float:
    """Median evaluations to a target; infinity where most runs missed it, or there are none."""
    return quartiles(evaluations_to(rows, target))[1] if rows else math.inf


def ratios(rows: Sequence[Row], case: str) -> list[list[Any]]:
    """One line a target that anybody reached: case, target, the best tuned method, its evaluations, ours, the ratio."""
    lines: list[list[Any]] = []
    budgets = {int(row["budget"]) for row in rows if row["case"] == case}
    if not budgets:
        return lines
    budget = max(budgets)
    runs = {method: chosen_rows(rows, case, method, budget) for method in METHODS}
    for target in CASES[case].targets:
        counts = {method: median(found, target) for method, found in runs.items() if method != DEFAULT}
        best = min(counts, key=lambda method: counts[method])
        ours = median(runs[DEFAULT], target)
        if math.isfinite(min(counts[best], ours)):
            ratio = 0.0 if math.isinf(counts[best]) else ours / counts[best]
            name = "nobody" if math.isinf(counts[best]) else best
            lines.append([case, f"{target:g}", name, f"{counts[best]:.0f}", f"{ours:.0f}", f"{ratio:.2f}"])
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS / "suite.csv")
    given = parser.parse_args(arguments)
    rows = Results(given.results, [], []).rows
    lines = [line for case in CASES for line in ratios(rows, case)]
    print(table(["case", "target", "best tuned method", "its evaluations", "untuned", "ratio"], lines))
    last = np.array(
        [float([line for line in lines if line[0] == case][-1][-1]) for case in {line[0] for line in lines}]
    )
    if len(last):
        print(
            f"At the last target of each case: within {WITHIN} times on {np.mean(last <= WITHIN):.0%} of {len(last)} "
            f"cases, worst {last.max():.2f} (aim: 80 %, {WORST})."
        )


if __name__ == "__main__":
    main()
