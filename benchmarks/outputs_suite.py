"""`zo.minimize_least_squares` on the suite's problems, nothing tuned: how far it gets in how many evaluations.

Every run ends at the last target, at the budget, or after --seconds of processor time; which of them is in the
table. One row a run in a CSV file, continued where it is.

    OMP_NUM_THREADS=1 python benchmarks/outputs_suite.py --cases texture caustic --seeds 3
"""

import argparse
import math
import resource
import time
from pathlib import Path

import numpy as np
import torch
from _machine import machine, package
from _runner import GENERATED, RESULTS, Results, Row, sweep, table, write
from _suite import CASES

import zograd as zo
from zograd.problems import cornell, house, mesh

KEY = ["case", "seed"]
FIELDS = [*KEY, "parameters", "outputs", "budget", "evaluations", "ended", "start", "best", "reached", "seconds"]
FIELDS += ["peak_gigabytes", "version", "machine"]
MORE = {"cornell": (cornell, 3_000, 1e-4), "house": (house, 4_000, 1e-3), "mesh": (mesh, 20_000, 1e-3)}
"""Problems that are not in the suite: how they are made, a budget, a target."""
LEFT_OUT = {"toy", "plateau", "rosenbrock", "rocket", "picture", *MORE}
NAMES = [*(name for name in CASES if name not in LEFT_OUT), "picture", *MORE]
SECONDS = 120.0


def run(task: Row) -> Row:
    """One problem from one seed."""
    torch.set_num_threads(1)
    name, seed = task["case"], int(task["seed"])
    if name in MORE:
        make, budget, target = MORE[name]
        problem = make()
    else:
        case = CASES[name]
        problem, budget, target = case.make(seed), case.budget, case.targets[-1]
    start, reached = problem.value(problem.x0), 0
    began = time.process_time()

    def enough(result: zo.Result) -> bool:
        return time.process_time() - began > float(task["limit"])

    result = problem.fit(budget, seed=seed, target=target, callback=enough, progress=False)
    reached = result.nfev if result.fun <= target else 0
    print(name, seed, f"{start:.4g} -> {result.fun:.4g} in {result.nfev}", flush=True)
    return {key: task[key] for key in KEY} | {
        "parameters": len(problem.parameters()),
        "outputs": problem.residual(problem.x0).numel(),
        "budget": budget,
        "evaluations": result.nfev,
        "ended": {0: "budget", 1: "target", 3: "time"}.get(result.status, "interrupted"),
        "start": f"{start:.6g}",
        "best": f"{result.fun:.6g}",
        "reached": reached or "",
        "seconds": f"{time.process_time() - began:.1f}",
        "peak_gigabytes": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f}",
        "version": f"{package('zograd')}, {package('torch')}",
        "machine": machine(),
    }


def report(rows: list[Row]) -> str:
    """One table, as Markdown."""
    lines = []
    for name in NAMES:
        own = [row for row in rows if row["case"] == name]
        if own:
            target = MORE[name][2] if name in MORE else CASES[name].targets[-1]
            reached = [float(row["reached"] or math.inf) for row in own]
            median = float(np.median(reached))
            lines.append([
                name, own[0]["parameters"], own[0]["outputs"], own[0]["budget"], len(own), f"{target:g}",
                f"{median:.0f}" if math.isfinite(median) else "-",
                ", ".join(f"{float(row['best']):.3g}" for row in own),
                ", ".join(f"{row['evaluations']} ({row['ended']})" for row in own),
                f"{np.median([float(row['seconds']) for row in own]):.0f}",
            ])  # fmt: skip
    header = ["problem", "d", "m", "budget", "seeds", "target", "evaluations to it", "best", "ended after", "s"]
    names = [*sorted({row["machine"] for row in rows}), *sorted({row["version"] for row in rows})]
    said = "`zo.minimize_least_squares`, nothing tuned; medians, and the best and the end of each seed's run.\n"
    parts = ["<!-- made by benchmarks/outputs_suite.py -->\n", said, table(header, lines)]
    return "\n".join([*parts, "".join(f"- {name}\n" for name in names)])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of processor time, a run")
    parser.add_argument("--out", type=Path, default=RESULTS / "outputs_suite.csv", help="continued where it is")
    parser.add_argument("--report", type=Path, default=GENERATED / "outputs_suite.md")
    given = parser.parse_args(arguments)
    results = Results(given.out, FIELDS, KEY)
    tasks = [
        {"case": name, "seed": seed, "limit": given.seconds}
        for name in given.cases
        for seed in range(1 if name in MORE else given.seeds)
    ]
    sweep(tasks, run, results)
    results.rewrite(results.rows)
    text = report(results.rows)
    write(given.report, text)
    print(text)


if __name__ == "__main__":
    main()
