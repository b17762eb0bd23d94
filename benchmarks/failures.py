"""What happens when the function that is minimised fails: zograd and its peers under the same faults.

Each case is a process of its own with a time limit, so that one that hangs is a finding and not the end.

    OMP_NUM_THREADS=1 python benchmarks/failures.py
    OMP_NUM_THREADS=1 python benchmarks/failures.py --methods zograd --redo
"""

import argparse
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from _machine import installed, machine, package
from _runner import GENERATED, RESULTS, Results, Row, sweep, table, write

DIMENSION, EVALUATIONS, LIMIT_SECONDS = 3, 300, 60
LOW, HIGH = -5.0, 5.0
START, OPTIMUM = np.full(DIMENSION, 3.0), np.full(DIMENSION, 0.5)
RIGHT = 0.1
KEY = ["method", "fault"]
FIELDS = [*KEY, "outcome", "distance", "evaluations", "met", "success", "best", "error", "version", "machine"]

Fault = Callable[[int, np.ndarray, float], Any]


def once(answer: Callable[[float], Any], at: int = 7) -> Fault:
    """A fault at one call only."""
    return lambda call, x, value: answer(value) if call == at else value


def fail(error: BaseException) -> Any:
    """Raise, where an expression is due."""
    raise error


FAULTS: dict[str, tuple[str, Fault]] = {
    "none": ("no fault, for comparison", lambda call, x, value: value),
    "NaN, 10th calls": ("NaN at every 10th call", lambda call, x, value: np.nan if call % 10 == 0 else value),
    "NaN at start": (
        "NaN within a distance of 1 of the start",
        lambda call, x, value: np.nan if np.linalg.norm(x - START) < 1 else value,
    ),
    "NaN always": ("NaN at every call", lambda call, x, value: np.nan),
    "exception once": ("RuntimeError at call 7", once(lambda value: fail(RuntimeError("the solver did not converge")))),
    "None once": ("None at call 7", once(lambda value: None)),
    "vector once": ("two numbers at call 7", once(lambda value: np.full(2, value))),
    "vector always": ("two numbers at every call", lambda call, x, value: np.full(2, value)),
    "inf once": ("inf at call 7", once(lambda value: np.inf)),
    "inf region": ("inf where the first coordinate is below 0", lambda call, x, value: np.inf if x[0] < 0 else value),
    "Ctrl-C": ("KeyboardInterrupt at call 30", once(lambda value: fail(KeyboardInterrupt()), at=30)),
}


def sphere(x: np.ndarray) -> float:
    """The function, before its fault."""
    return float(np.square(x - OPTIMUM).sum())


class Faulty:
    """The sphere with a fault; it counts its calls and remembers the best value that it really gave.

    Args:
        fault: A name of `FAULTS`.
    """

    def __init__(self, fault: str) -> None:
        self.fault = FAULTS[fault][1]
        self.calls, self.met, self.best = 0, 0, np.inf

    def __call__(self, point: Any) -> Any:
        """The value at ``point``, or its fault."""
        x = np.asarray(point, dtype=float)
        self.calls += 1
        self.met += 1
        answer = self.fault(self.calls, x, sphere(x))
        if np.shape(answer) == () and answer is not None and np.isfinite(answer):
            self.met -= 1
            self.best = min(self.best, answer)
        return answer


@dataclass
class Held:
    """What the caller of a method holds besides the point it returns.

    Args:
        success: What the method says of its own success; ``None`` where it says nothing.
        rescue: After an exception: the best point so far, from what the caller still has; ``None`` when it is lost.
    """

    success: bool | None = None
    rescue: Callable[[BaseException], Any] = lambda error: None


def zograd(fun: Faulty, held: Held) -> Any:
    import zograd as zo

    held.rescue = lambda error: getattr(getattr(error, "result", None), "x", None)
    result = zo.minimize(fun, START, bounds=(LOW, HIGH), evaluations=EVALUATIONS)
    held.success = bool(result.success)
    return result.x


def scipy(name: str, limit: str) -> Callable[[Faulty, Held], Any]:
    def method(fun: Faulty, held: Held) -> Any:
        from scipy.optimize import minimize

        bounds = [(LOW, HIGH)] * DIMENSION
        result = minimize(fun, START, method=name, bounds=bounds, options={limit: EVALUATIONS})
        held.success = bool(result.success)
        return result.x

    return method


def pycma(fun: Faulty, held: Held) -> Any:
    import cma

    options = {"bounds": [LOW, HIGH], "maxfevals": EVALUATIONS, "verbose": -9, "seed": 1}
    return cma.fmin2(fun, START, 2.0, options)[0]


def nevergrad(name: str) -> Callable[[Faulty, Held], Any]:
    def method(fun: Faulty, held: Held) -> Any:
        import nevergrad as ng

        space = ng.p.Array(init=START).set_bounds(LOW, HIGH)
        space.random_state.seed(0)
        search = ng.optimizers.registry[name](parametrization=space, budget=EVALUATIONS)
        held.rescue = lambda error: search.provide_recommendation().value
        return search.minimize(fun).value

    return method


def tpe(fun: Faulty, held: Held) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.enqueue_trial({f"x{i}": value for i, value in enumerate(START.tolist())})
    held.rescue = lambda error: list(study.best_params.values())
    study.optimize(lambda trial: fun([trial.suggest_float(f"x{i}", LOW, HIGH) for i in range(DIMENSION)]), EVALUATIONS)
    return list(study.best_params.values())


METHODS: dict[str, tuple[Callable[[Faulty, Held], Any], str]] = {
    "zograd": (zograd, "zograd"),
    "SciPy Nelder-Mead": (scipy("Nelder-Mead", "maxfev"), "scipy"),
    "SciPy Powell": (scipy("Powell", "maxfev"), "scipy"),
    "SciPy L-BFGS-B": (scipy("L-BFGS-B", "maxfun"), "scipy"),
    "pycma fmin2": (pycma, "cma"),
    "nevergrad NGOpt": (nevergrad("NGOpt"), "nevergrad"),
    "nevergrad OnePlusOne": (nevergrad("OnePlusOne"), "nevergrad"),
    "Optuna TPE": (tpe, "optuna"),
}


def attempt(method: str, fault: str) -> Row:
    """One method under one fault, in this process."""
    held, fun = Held(), Faulty(fault)
    error, point = "", None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            point = METHODS[method][0](fun, held)
            outcome = "returned"
        except BaseException as raised:
            outcome, error = "raised", f"{type(raised).__name__}: {raised}".strip(": ")
            try:
                point = held.rescue(raised)
            except Exception:
                point = None
    known = point is not None
    x = np.asarray(point if known else np.full(DIMENSION, np.nan), dtype=float)
    return {
        "outcome": outcome,
        "distance": float(np.linalg.norm(x - OPTIMUM)),
        "evaluations": fun.calls,
        "met": fun.met,
        "success": "" if held.success is None else held.success,
        "best": "none seen" if not np.isfinite(fun.best) else kept(x, fun.best),
        "error": error,
    }


def kept(x: np.ndarray, best: float) -> str:
    """Whether ``x`` is the best point seen, a worse one, or lost."""
    if not np.isfinite(x).all():
        return "lost"
    return "kept" if sphere(x) <= best * (1 + 1e-6) + 1e-12 else "worse"


def run(task: Row) -> Row:
    """One case in a process of its own."""
    command = [sys.executable, __file__, "--one", task["method"], task["fault"]]
    note = ""
    try:
        output = subprocess.run(command, capture_output=True, timeout=LIMIT_SECONDS, check=False).stdout
    except subprocess.TimeoutExpired as expired:
        output, note = expired.stdout or b"", "; its process then never ends"
    lines = output.decode().splitlines()
    if lines and lines[-1].startswith("{"):
        found = json.loads(lines[-1])
        found["error"] += note
    else:
        found = {"outcome": "hung" if note else "died", "distance": np.nan, "best": "", "error": ""}
    print(task["method"], "|", task["fault"], "|", found["outcome"], found["error"][:60], flush=True)
    versions = f"{package(METHODS[task['method']][1])}, {package('numpy')}"
    return dict.fromkeys(FIELDS, "") | task | found | {"version": versions, "machine": machine()}


def verdict(row: Row) -> str:
    """A case in two or three words."""
    if row["outcome"] != "returned":
        ends = "hangs" if "never ends" in row["error"] or row["outcome"] == "hung" else row["outcome"]
        name = row["error"].partition(":")[0].partition(";")[0]
        best = "" if row["best"] in {"", "none seen"} else f", best {row['best']}"
        return f"{ends.replace('raised', 'raises')} {name}".strip() + best
    distance = float(row["distance"])
    if np.isnan(distance):
        return "NaN"
    answer = "right" if distance <= RIGHT * np.linalg.norm(START - OPTIMUM) else "wrong"
    claim = ", says success" if answer == "wrong" and row["success"] == "True" else ""
    if row["met"] == "0" and row["fault"] != "none":
        return f"{answer}, fault not met"
    return answer + claim + (", not its best" if row["best"] == "worse" else "")


def report(rows: list[Row]) -> str:
    """The tables, as Markdown."""
    named = {(row["method"], row["fault"]): row for row in rows}
    methods = [name for name in METHODS if any(row["method"] == name for row in rows)]
    faults = [name for name in FAULTS if any(row["fault"] == name for row in rows)]
    cells = [[fault, *(verdict(named[m, fault]) if (m, fault) in named else "" for m in methods)] for fault in faults]
    details = [
        [
            fault,
            method,
            row["evaluations"],
            "" if row["distance"] in {"nan", ""} else f"{float(row['distance']):.2g}",
            shorten(row["error"].replace("|", "/").replace("<", "&lt;"), 120),
        ]
        for fault in faults
        for method in methods
        if (row := named.get((method, fault)))
    ]
    start = np.linalg.norm(START - OPTIMUM)
    return "\n".join(
        [
            "<!-- made by benchmarks/failures.py -->\n",
            f"A sphere in {DIMENSION} dimensions, {EVALUATIONS} evaluations, bounds [{LOW:g}, {HIGH:g}], default "
            f"settings.\n\n- **right**: the point returned is within {RIGHT:.0%} of the start's distance ({start:.1f}) "
            "of the optimum; **wrong**: it is not; **NaN**: it is not a number.\n"
            "- **says success**: its result claims it, although it is wrong; **fault not met**: it ended without "
            "meeting the fault.\n"
            "- **raises**: an exception leaves the method. The best point so far is then **kept** (the caller can "
            "still get it from the exception or the optimiser), there but **worse** than the best one seen, or "
            "**lost**.\n"
            f"- **hangs**: its process had not ended after {LIMIT_SECONDS} s.\n",
            table(["fault", *methods], cells),
            "### The faults\n",
            "".join(f"- **{name}**: {FAULTS[name][0]}\n" for name in faults),
            "### Every case\n",
            table(["fault", "method", "evaluations", "distance to the optimum", "error"], details),
            "### Machine and versions\n",
            "".join(f"- {n}\n" for n in [*sorted({r["machine"] for r in rows}), *sorted({r["version"] for r in rows})]),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--out", type=Path, default=RESULTS / "failures.csv", help="continued where it is")
    parser.add_argument("--report", type=Path, default=GENERATED / "failures.md")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--redo", action="store_true", help="forget the rows of these methods first")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "FAULT"), help="one case, here and now, as JSON")
    given = parser.parse_args(arguments)

    if given.one:
        print(json.dumps(attempt(*given.one)), flush=True)
        return
    results = Results(given.out, FIELDS, KEY)
    if given.redo:
        results.rewrite(row for row in results.rows if row["method"] not in given.methods)
    methods = installed(METHODS, given.methods)
    tasks = [{"method": method, "fault": fault} for method in methods for fault in given.faults]
    sweep(tasks, run, results, given.jobs)
    results.rewrite(results.rows)
    write(given.report, report(results.rows))


if __name__ == "__main__":
    main()
