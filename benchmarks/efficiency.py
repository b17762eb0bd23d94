"""How much of two cores two workers use: zograd and its peers, against two processes that need not talk to anybody.

One evaluation takes 10 ms or 1 ms, of the processor (busy) or of nothing (asleep). A method's efficiency is the time
of the ideal over its own, for as many evaluations: two plain processes that count down one number in shared memory.
The ideal is measured right before and right after each method, so that the ratio holds on a machine that has other
things to do. The processor time of all processes is compared in the same way: it depends less on the neighbours. What
it takes to have the workers is apart.

    OMP_NUM_THREADS=1 python benchmarks/efficiency.py
"""

import argparse
import functools
import warnings
from pathlib import Path

import numpy as np
from _efficiency_methods import DIMENSION, METHODS, Work, ideal, plain_pool
from _machine import installed, machine, package
from _runner import GENERATED, RESULTS, Results, Row, sweep, table, write

EVALUATIONS = {10: 80, 1: 600}
TARGETS = {10: 95, 1: 85}
KEY = ["kind", "milliseconds", "method", "repeat"]
FIELDS = [
    *KEY, "evaluations", "seconds", "ideal_seconds", "efficiency", "processor", "start_seconds", "version", "machine",
]  # fmt: skip


@functools.cache
def started(method: str) -> float:
    """Seconds until the workers are there; the first time only, for some are kept. The 0.2 s of the work are off."""
    seconds = METHODS[method][2]()
    return seconds if method.startswith("zograd minimize") else seconds - 0.2


def run(task: Row) -> Row:
    """One method between two measurements of the ideal."""
    apart = task["method"].startswith("zograd")
    plain_pool(apart=False), plain_pool(apart=True)
    first = started(task["method"])
    work, evaluations = Work(task["kind"], task["milliseconds"] / 1000), EVALUATIONS[task["milliseconds"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = ideal(work, evaluations, apart=apart)
        done, seconds, processor = METHODS[task["method"]][0](work, evaluations)
        after = ideal(work, evaluations, apart=apart)
    due, least = (np.array(before) + after) / 2 * done / evaluations
    useful = 100 * least / processor if task["kind"] == "busy" else np.nan
    print(*(task[column] for column in KEY), f"{100 * due / seconds:.1f} %, {useful:.1f} %", flush=True)
    return task | {
        "evaluations": done,
        "seconds": f"{seconds:.4f}",
        "ideal_seconds": f"{due:.4f}",
        "efficiency": f"{100 * due / seconds:.2f}",
        "processor": "" if np.isnan(useful) else f"{useful:.2f}",
        "start_seconds": "" if np.isnan(first) else f"{first:.2f}",
        "version": f"{package(METHODS[task['method']][1])}, {package('numpy')}",
        "machine": machine(),
    }


def quartiles(rows: list[Row], column: str, **where: str) -> str:
    """Median and quartiles over the repeats."""
    values = [float(r[column]) for r in rows if r[column] and all(r[key] == value for key, value in where.items())]
    if not values:
        return ""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def report(rows: list[Row]) -> str:
    """The tables, as Markdown."""
    cases = [(kind, str(length)) for kind in ("busy", "asleep") for length in EVALUATIONS]
    body = [
        [
            name,
            *(quartiles(rows, "efficiency", method=name, kind=kind, milliseconds=length) for kind, length in cases),
            *(quartiles(rows, "processor", method=name, kind="busy", milliseconds=str(each)) for each in EVALUATIONS),
            quartiles(rows, "start_seconds", method=name),
        ]
        for name in METHODS
        if any(row["method"] == name for row in rows)
    ]
    repeats = 1 + max(int(row["repeat"]) for row in rows)
    aims = " and ".join(f"{aim} % at {length} ms" for length, aim in TARGETS.items())
    names = [*sorted({row["machine"] for row in rows}), *sorted({row["version"] for row in rows})]
    return "\n".join(
        [
            "<!-- made by benchmarks/efficiency.py -->\n",
            "Percent of the ideal: two processes that count down one number in shared memory and tell nobody anything. "
            f"Medians and quartiles of {repeats} repeats in one process, each between two measurements of the ideal. "
            f"The aim is {aims}. Busy evaluations compute, the others sleep; d = {DIMENSION} where there is an "
            "optimiser, and `minimize` has waves of one row among its own, which no second worker can help with.\n\n"
            "The quartiles say how much else the machine had to do. The processor's columns depend less on that: the "
            "processor time of all processes of the ideal over that of the method's, for busy ones.\n",
            table(
                [
                    "",
                    *(f"{kind}, {length} ms" for kind, length in cases),
                    *(f"processor, {each} ms" for each in EVALUATIONS),
                    "start of the workers, s",
                ],
                body,
            ),
            "### Machine and versions\n",
            "".join(f"- {name}\n" for name in names),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "efficiency.csv", help="continued where it is")
    parser.add_argument("--report", type=Path, default=GENERATED / "efficiency.md")
    parser.add_argument("--redo", action="store_true", help="forget the rows of these methods first")
    given = parser.parse_args(arguments)

    results = Results(given.out, FIELDS, KEY)
    if given.redo:
        results.rewrite(row for row in results.rows if row["method"] not in given.methods)
    methods = installed(METHODS, given.methods)
    tasks = [
        {"kind": kind, "milliseconds": length, "method": method, "repeat": repeat}
        for repeat in range(given.repeats)
        for kind in ("busy", "asleep")
        for length in EVALUATIONS
        for method in methods
    ]
    sweep(tasks, run, results)
    results.rewrite(results.rows)
    write(given.report, report(results.rows))


if __name__ == "__main__":
    main()
