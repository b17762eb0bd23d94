"""What the suite's figures say: the default against the best tuned, surrogates against plain, both against ZeroGrads.

It measures nothing: it reads what ``suite.py`` and ``zerograds.py`` have written. A ratio below 1 says that ours needed
fewer evaluations; ``inf`` that it missed a target that the other reached, 0 that only ours reached it, ``nan`` that
neither did.

    OMP_NUM_THREADS=1 python benchmarks/suite.py
    python benchmarks/suite_claims.py
"""

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _runner import GENERATED, RESULTS, Results, Row, table, write
from _suite import CASES, DEFAULT, METHODS, OUTPUTS
from suite import chosen_rows, evaluations_to, quartiles, reached_at

WITHIN, WORST = 1.5, 4.0
"""The aims for the default: so many times the evaluations of the best tuned method, and never more than that."""
NEVER, HALF = 1.25, 0.5
"""Those for surrogates against the best plain estimator: never more, and on some cases no more."""
SURROGATES = [name for name in METHODS if "Surrogate" in name or "Neighbour" in name]
PLAIN = [name for name, method in METHODS.items() if method.plain]

Found = dict[str, list[Row]]


def median(rows: Sequence[Row], target: float) -> float:
    """Median evaluations to a target; infinity where most runs missed it, or there are none."""
    return quartiles(evaluations_to(rows, target))[1] if rows else math.inf


def ratio(ours: float, theirs: float) -> float:
    """Ours over theirs; 0 where only ours is finite, NaN where neither is."""
    return math.nan if math.isinf(min(ours, theirs)) else 0.0 if math.isinf(theirs) else ours / theirs


def fastest(found: Found, names: Iterable[str], target: float) -> tuple[str, float]:
    """Which of the methods needs the fewest evaluations, and how many."""
    counts = {name: median(found.get(name, []), target) for name in names}
    best = min(counts, key=lambda name: counts[name])
    return ("nobody" if math.isinf(counts[best]) else best), counts[best]


def runs_of(rows: Sequence[Row], case: str) -> Found:
    """The reported runs of every method at the largest budget."""
    budgets = {int(row["budget"]) for row in rows if row["case"] == case}
    found = {name: chosen_rows(rows, case, name, max(budgets)) for name in METHODS} if budgets else {}
    return {name: runs for name, runs in found.items() if runs}


def default_lines(found: Found, case: str) -> list[list[Any]]:
    """One line a target that anybody reached: the best tuned method, its evaluations, those of the default."""
    lines: list[list[Any]] = []
    for target in CASES[case].targets:
        name, theirs = fastest(found, [name for name in METHODS if name not in (DEFAULT, OUTPUTS)], target)
        ours = median(found.get(DEFAULT, []), target)
        if math.isfinite(min(theirs, ours)):
            lines.append([case, f"{target:g}", name, f"{theirs:.0f}", f"{ours:.0f}", f"{ratio(ours, theirs):.2f}"])
    return lines


def surrogate_lines(found: Found, case: str) -> list[list[Any]]:
    """The best plain estimator, the best surrogate of the loss, and the model of all outputs, at each target."""
    lines: list[list[Any]] = []
    for target in CASES[case].targets:
        name, plain = fastest(found, PLAIN, target)
        own, count = fastest(found, SURROGATES, target)
        outputs = median(found.get(OUTPUTS, []), target)
        if math.isfinite(min(plain, count, outputs)):
            cells = [f"{ratio(number, plain):.2f}" for number in (count, outputs, min(count, outputs))]
            told = [f"{own}: {count:.0f}", f"{outputs:.0f}" if OUTPUTS in found else "none"]
            lines.append([case, f"{target:g}", f"{name}: {plain:.0f}", *told, *cells])
    return lines


def reference_lines(found: Found, case: str, reference: Sequence[Row]) -> list[list[Any]]:
    """The loss at its centre when ZeroGrads ended, when it first was there, and when ours were."""
    lines: list[list[Any]] = []
    for name in sorted({row["settings"] for row in reference if row["case"] == case}):
        runs = [row for row in reference if (row["case"], row["settings"]) == (case, name)]
        loss = float(np.median([float(row["last"]) for row in runs]))
        theirs = quartiles(np.array([reached_at({**row, "curve": row["centers"]}, loss) for row in runs]))[1]
        spent = max(int(row["evaluations"]) for row in runs)
        theirs = min(theirs, float(spent))  # the curve is thinned
        default, outputs = (_to(found.get(method, []), loss) for method in (DEFAULT, OUTPUTS))
        own = min((_to(found[method], loss) for method in SURROGATES if method in found), default=math.inf)
        counts = [f"{count:.0f}" for count in (spent, theirs, default, outputs, own)]
        fewer = theirs / min(default, outputs, own) if theirs else math.nan  # it ended above its start
        lines.append([case, name, len(runs), f"{loss:.3g}", *counts, fewer])
    best = min((float(line[3]) for line in lines if line[1] != "as released"), default=0.0)
    kept = [line for line in lines if line[1] == "as released" or float(line[3]) == best]
    return [[*line[:-1], f"{line[-1]:.3g}"] for line in kept]


def _to(rows: Sequence[Row], loss: float) -> float:
    """Median evaluations to any loss, by the curves, which are thinned: never too few."""
    return quartiles(np.array([reached_at(row, loss) for row in rows]))[1] if rows else math.inf


def last_of(lines: Sequence[Sequence[Any]], column: int) -> np.ndarray:
    """A column at the furthest target of every case that one of the two reached."""
    last = {line[0]: float(line[column]) for line in lines if line[column] != "nan"}
    return np.array(list(last.values()))


def report(rows: Sequence[Row], reference: Sequence[Row]) -> str:
    """Three tables and what they say, as Markdown."""
    found = {case: runs_of(rows, case) for case in CASES}
    found = {case: runs for case, runs in found.items() if runs}
    default = [line for case, runs in found.items() for line in default_lines(runs, case)]
    models = [line for case, runs in found.items() for line in surrogate_lines(runs, case)]
    released = [line for case, runs in found.items() for line in reference_lines(runs, case, reference)]
    last, scalar, any_model = last_of(default, -1), last_of(models, -3), last_of(models, -1)
    return "\n".join([
        "<!-- made by benchmarks/suite_claims.py -->\n",
        "### The default against the best tuned method\n",
        table(["case", "target", "best tuned method", "its evaluations", "nothing tuned", "ratio"], default),
        f"At the last target of each case: within {WITHIN} times on {int((last <= WITHIN).sum())} of {len(last)} "
        f"cases, worst {last.max():.2f} (aim: 80 % of them, {WORST}).\n",
        "### Surrogates against the best tuned plain estimator\n",
        table(
            ["case", "target", "plain", "surrogate of the loss", "by its outputs", "ratio", "by outputs", "better"],
            models,
        ),
        f"At the last target of each case, surrogates of the loss: no more than {NEVER} times on "
        f"{int((scalar <= NEVER).sum())} of {len(scalar)} cases, half or less on {int((scalar <= HALF).sum())}. With "
        f"the outputs where a program has them: {int((any_model <= NEVER).sum())} and "
        f"{int((any_model <= HALF).sum())}.\n",
        "### Against ZeroGrads\n",
        table(
            ["case", "settings", "seeds", "its loss", "it spent", "first there", "zo.minimize", "by outputs",
             "surrogate", "times fewer"],
            released,
        ),
        "Its loss is that at its centre when it ended (the median of its seeds), `first there` the evaluations after "
        "which its centre first was that low, with which ours are compared. Of its tuned settings the best is shown.\n",
    ])  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS / "suite.csv")
    parser.add_argument("--reference", type=Path, default=RESULTS / "zerograds.csv")
    parser.add_argument("--report", type=Path, default=GENERATED / "suite_claims.md")
    given = parser.parse_args(arguments)
    text = report(Results(given.results, [], []).rows, Results(given.reference, [], []).rows)
    write(given.report, text)
    print(text)


if __name__ == "__main__":
    main()
