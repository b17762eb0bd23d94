"""What zograd costs beside the function: processor time per evaluation, against its peers in the same process.

Time inside the function is measured and taken off; processor time is used because it does not count what other
programs do on the machine. The batched function sleeps, so the share of overhead is against a known batch time.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py
"""

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _machine import installed, machine, package
from _runner import GENERATED, RESULTS, Results, Row, sweep, table, write

DIMENSION = 10
KEY = ["case", "method", "batch_ms", "repeat"]
FIELDS = [*KEY, "dimension", "evaluations", "rows_a_batch", "microseconds", "share", "version", "machine"]


class Timed:
    """A function that takes the processor time spent in it off the account.

    Args:
        fun: The function.
        seconds: How long each call sleeps besides.
    """

    def __init__(self, fun: Callable[[Any], Any], seconds: float = 0.0) -> None:
        self.fun, self.sleep = fun, seconds
        self.calls, self.rows, self.inside = 0, 0, 0.0

    def __call__(self, points: Any) -> Any:
        """The value or the values."""
        began = time.process_time()
        self.calls += 1
        self.rows += 1 if np.ndim(points) == 1 else len(points)
        if self.sleep:
            time.sleep(self.sleep)
        answer = self.fun(points)
        self.inside += time.process_time() - began
        return answer


def sphere(x: Any) -> float:
    """A pointwise Python function: as short as they get."""
    return float((x * x).sum())


def spheres(points: Any) -> Any:
    """The same of a batch."""
    return (points * points).sum(-1)


def zograd(fun: Timed, start: np.ndarray, budget: int, estimator: str = "") -> None:
    import zograd as zo

    if not estimator:
        zo.minimize(fun, start, bounds=(-5, 5), evaluations=budget)
        return
    zo.minimize(fun, start, bounds=(-5, 5), evaluations=budget, estimator=ESTIMATORS[estimator]())


def zograd_batched(fun: Timed, start: np.ndarray, budget: int, estimator: str = "") -> None:
    import zograd as zo

    given = {"estimator": ESTIMATORS[estimator]()} if estimator else {}
    zo.minimize(zo.batched(fun), start, bounds=(-5, 5), evaluations=budget, **given)


def _random() -> Any:
    import zograd as zo

    return zo.RandomGradient(samples=DIMENSION)


def _coordinates() -> Any:
    import zograd as zo

    return zo.CoordinateGradient()


ESTIMATORS = {"RandomGradient": _random, "CoordinateGradient": _coordinates}


def scipy(fun: Timed, start: np.ndarray, budget: int) -> None:
    from scipy.optimize import minimize

    options = {"maxfev": budget, "xatol": 0, "fatol": 0}
    minimize(fun, start, method="Nelder-Mead", bounds=[(-5, 5)] * len(start), options=options)


def pycma(fun: Timed, start: np.ndarray, budget: int) -> None:
    import cma

    search = cma.CMAEvolutionStrategy(start, 2.0, {"bounds": [-5, 5], "verbose": -9, "seed": 1})
    while fun.rows < budget:
        points = search.ask()
        search.tell(points, [fun(point) for point in points])


def pycma_batched(fun: Timed, start: np.ndarray, budget: int) -> None:
    import cma

    search = cma.CMAEvolutionStrategy(start, 2.0, {"bounds": [-5, 5], "verbose": -9, "seed": 1})
    while fun.rows < budget:
        points = search.ask()
        search.tell(points, fun(np.asarray(points)).tolist())


def nevergrad(fun: Timed, start: np.ndarray, budget: int) -> None:
    import nevergrad as ng

    space = ng.p.Array(init=start).set_bounds(-5, 5)
    ng.optimizers.OnePlusOne(parametrization=space, budget=budget).minimize(fun)


def optuna_random(fun: Timed, start: np.ndarray, budget: int) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(
        lambda trial: fun(np.array([trial.suggest_float(f"x{i}", -5, 5) for i in range(len(start))])), budget
    )


def joblib(fun: Timed, start: np.ndarray, budget: int) -> None:
    from joblib import Parallel, delayed

    Parallel(n_jobs=1)(delayed(fun)(start) for _ in range(budget))


METHODS: dict[str, tuple[Callable[..., None], str]] = {
    "zograd": (zograd, "zograd"),
    "zograd RandomGradient": (partial(zograd, estimator="RandomGradient"), "zograd"),
    "zograd CoordinateGradient": (partial(zograd, estimator="CoordinateGradient"), "zograd"),
    "SciPy Nelder-Mead": (scipy, "scipy"),
    "pycma": (pycma, "cma"),
    "nevergrad OnePlusOne": (nevergrad, "nevergrad"),
    "Optuna random": (optuna_random, "optuna"),
    "joblib, no optimiser": (joblib, "joblib"),
}
BATCHED: dict[str, tuple[Callable[..., None], str]] = {
    "zograd": (zograd_batched, "zograd"),
    "zograd RandomGradient": (partial(zograd_batched, estimator="RandomGradient"), "zograd"),
    "zograd CoordinateGradient": (partial(zograd_batched, estimator="CoordinateGradient"), "zograd"),
    "pycma": (pycma_batched, "cma"),
}


def run(task: Row) -> Row:
    """One run of one method; the first call of each is warmed up on a tenth of the budget."""
    pointwise = task["case"] == "pointwise"
    method, distribution = (METHODS if pointwise else BATCHED)[task["method"]]
    milliseconds = float(task["batch_ms"] or 0)
    budget = task["evaluations"]
    start = np.full(DIMENSION, 3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method(Timed(sphere if pointwise else spheres), start, max(budget // 10, 50))
        fun = Timed(sphere if pointwise else spheres, milliseconds / 1000)
        began = time.process_time()
        method(fun, start, budget)
        overhead = time.process_time() - began - fun.inside
    print(task["case"], task["method"], task["batch_ms"], f"{1e6 * overhead / fun.rows:.1f} us", flush=True)
    asleep = fun.calls * milliseconds / 1000
    return task | {
        "dimension": DIMENSION,
        "evaluations": fun.rows,
        "rows_a_batch": "" if pointwise else f"{fun.rows / fun.calls:.1f}",
        "microseconds": f"{1e6 * overhead / fun.rows:.2f}",
        "share": "" if pointwise else f"{overhead / (asleep + overhead):.5f}",
        "version": f"{package(distribution)}, {package('numpy')}",
        "machine": machine(),
    }


def median(rows: list[Row], column: str, **where: str) -> float:
    """The median over the repeats; NaN where there is no row."""
    values = [float(row[column]) for row in rows if all(row[key] == value for key, value in where.items())]
    return float(np.median(values)) if values else np.nan


def report(rows: list[Row]) -> str:
    """The tables, as Markdown."""
    pointwise = sorted(
        (median(rows, "microseconds", case="pointwise", method=name), name)
        for name in METHODS
        if any(row["method"] == name and row["case"] == "pointwise" for row in rows)
    )
    lengths = sorted({row["batch_ms"] for row in rows if row["case"] == "batched"}, key=float)
    batched = [
        [
            name,
            *(f"{100 * median(rows, 'share', case='batched', method=name, batch_ms=length):.2f}" for length in lengths),
            f"{median(rows, 'rows_a_batch', case='batched', method=name):.1f}",
        ]
        for name in BATCHED
        if any(row["method"] == name and row["case"] == "batched" for row in rows)
    ]
    names = [*sorted({row["machine"] for row in rows}), *sorted({row["version"] for row in rows})]
    return "\n".join(
        [
            "<!-- made by benchmarks/overhead.py -->\n",
            f"Processor time beside the function, d = {DIMENSION}, medians of the repeats. For an optimiser it is the "
            "whole step: proposing, checking, estimating, moving.\n",
            "### A function of one point: microseconds an evaluation\n",
            table(["method", "µs an evaluation"], [[name, f"{value:.1f}"] for value, name in pointwise]),
            "### A function of a batch: overhead in percent of the run, by how long one batch takes\n",
            table(["method", *(f"{length} ms" for length in lengths), "evaluations a batch"], batched),
            "### Machine and versions\n",
            "".join(f"- {name}\n" for name in names),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--evaluations", type=int, default=3000, help="of a function of one point")
    parser.add_argument("--batches", nargs="+", type=int, default=[3, 10, 30, 100], help="milliseconds of one batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "overhead.csv", help="continued where it is")
    parser.add_argument("--report", type=Path, default=GENERATED / "overhead.md")
    parser.add_argument("--redo", action="store_true", help="forget the rows of these methods first")
    given = parser.parse_args(arguments)

    results = Results(given.out, FIELDS, KEY)
    if given.redo:
        results.rewrite(row for row in results.rows if row["method"] not in given.methods)
    cases = [("pointwise", "", given.evaluations), *(("batched", length, 600) for length in given.batches)]
    tasks = [
        {"case": case, "method": method, "batch_ms": length, "repeat": repeat, "evaluations": evaluations}
        for repeat in range(given.repeats)
        for method in installed(METHODS, given.methods)
        for case, length, evaluations in cases
        if case == "pointwise" or method in BATCHED
    ]
    sweep(tasks, run, results)
    results.rewrite(results.rows)
    write(given.report, report(results.rows))


if __name__ == "__main__":
    main()
