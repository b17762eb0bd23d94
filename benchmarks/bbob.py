"""The 24 BBOB functions at equal budgets: zograd with nothing tuned, against its peers.

Every method starts at the same point, has the same 200 d evaluations, and is judged by the best value it saw.
Interrupt it and call it again: it goes on where it was. The report is made anew from whatever rows there are.

    OMP_NUM_THREADS=1 python benchmarks/bbob.py                             # all that is missing, then the report
    OMP_NUM_THREADS=1 python benchmarks/bbob.py --methods zograd --redo     # zograd again, after a change
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _machine import installed, machine, package
from _runner import GENERATED, RESULTS, STATIC, BudgetSpentError, Counted, Results, Row, sweep, table, write

LOW, HIGH = -5.0, 5.0
EVALUATIONS_PER_DIMENSION = 200
SOLVED = -8.0
SMALLEST_GAP = 1e-12
FUNCTIONS = range(1, 25)
KEY = ["method", "function", "instance", "dimension"]
FIELDS = [*KEY, "evaluations", "gap", "seconds", "error", "version", "machine"]

Method = Callable[[Counted, np.ndarray, np.random.Generator], None]


def zograd(fun: Counted, start: np.ndarray, rng: np.random.Generator) -> None:
    """Nothing is given but the function, the start, the bounds and the budget."""
    import zograd as zo

    zo.minimize(fun, start, bounds=(LOW, HIGH), evaluations=fun.budget)


def scipy_restarted(name: str) -> Method:
    """A SciPy method with its default options, again from a random point whenever it stops."""

    def method(fun: Counted, start: np.ndarray, rng: np.random.Generator) -> None:
        from scipy.optimize import minimize

        while fun.left:
            minimize(fun, start, method=name, bounds=[(LOW, HIGH)] * len(start))
            start = rng.uniform(LOW, HIGH, len(start))

    return method


def pycma(fun: Counted, start: np.ndarray, rng: np.random.Generator) -> None:
    """Defaults, sigma0 = 2 (a fifth of the box); restarts as cma.fmin makes them: twice the population each time."""
    import cma

    population = None
    while fun.left:
        options = {"bounds": [LOW, HIGH], "verbose": -9, "seed": int(rng.integers(1, 2**31))}
        if population:
            options["popsize"] = population
        search = cma.CMAEvolutionStrategy(start, 2.0, options)
        while fun.left and not search.stop():
            points = search.ask()
            search.tell(points, [fun(point) for point in points])
        population, start = 2 * search.popsize, rng.uniform(LOW, HIGH, len(start))


def ngopt(fun: Counted, start: np.ndarray, rng: np.random.Generator) -> None:
    """The method that nevergrad chooses by itself."""
    import nevergrad as ng

    space = ng.p.Array(init=start).set_bounds(LOW, HIGH)
    space.random_state.seed(int(rng.integers(2**31)))
    search = ng.optimizers.NGOpt(parametrization=space, budget=fun.budget, num_workers=1)
    while fun.left:
        candidate = search.ask()
        search.tell(candidate, fun(candidate.value))


METHODS: dict[str, tuple[Method, str]] = {
    "zograd": (zograd, "zograd"),
    "pycma": (pycma, "cma"),
    "NGOpt": (ngopt, "nevergrad"),
    "Powell": (scipy_restarted("Powell"), "scipy"),
    "Nelder-Mead": (scipy_restarted("Nelder-Mead"), "scipy"),
}


def run(task: Row) -> Row:
    """One method on one instance of one function."""
    import ioh

    dimension, seed = task["dimension"], [task["function"], task["instance"], task["dimension"]]
    problem = ioh.get_problem(task["function"], task["instance"], dimension, ioh.ProblemClass.BBOB)
    rng = np.random.default_rng(seed)
    start = rng.uniform(-4, 4, dimension)
    fun = Counted(problem, EVALUATIONS_PER_DIMENSION * dimension)
    method, distribution = METHODS[task["method"]]
    error = ""
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            method(fun, start, rng)
        except BudgetSpentError:
            pass
        except Exception as raised:
            # What it saw before still counts; the report says how many runs ended like this.
            error = type(raised).__name__
    seconds = time.perf_counter() - began
    if task["method"] == "zograd" and fun.refused:
        raise RuntimeError(f"zograd asked for {fun.refused} evaluations beyond its budget in {task}")
    return task | {
        "evaluations": fun.calls,
        "gap": f"{max(fun.best - problem.optimum.y, 0.0):.6e}",
        "seconds": f"{seconds:.3f}",
        "error": error,
        "version": f"{package(distribution)}, {package('numpy')}",
        "machine": machine(),
    }


def digits(rows: list[Row], **where: object) -> np.ndarray:
    """log10 of the gaps of the rows that match."""
    gaps = [float(row["gap"]) for row in rows if all(row[key] == str(value) for key, value in where.items())]
    return np.log10(np.maximum(gaps, SMALLEST_GAP)) if gaps else np.empty(0)


def interval(rows: list[Row], method: str, dimension: int) -> tuple[float, float]:
    """The 95 % interval of a median over all functions: each function's instances drawn anew, with replacement."""
    draws = np.random.default_rng(0)
    groups = [digits(rows, method=method, function=function, dimension=dimension) for function in FUNCTIONS]
    again = np.concatenate([draws.choice(group, (1000, len(group))) for group in groups if len(group)], axis=1)
    low, high = np.quantile(np.median(again, axis=1), [0.025, 0.975])
    return float(low), float(high)


def present(rows: list[Row]) -> tuple[list[str], list[int]]:
    """The methods and dimensions that have rows, in the order in which they are shown."""
    methods = [name for name in METHODS if any(row["method"] == name for row in rows)]
    return methods, sorted({int(row["dimension"]) for row in rows})


def report(rows: list[Row]) -> str:
    """The tables, as Markdown."""
    methods, dimensions = present(rows)
    text = [
        "<!-- made by benchmarks/bbob.py -->\n",
        "Each cell is the median of log10(f - f*) over 24 functions and the instances, with the quartiles in brackets: "
        f"lower is better. Every method has {EVALUATIONS_PER_DIMENSION} d evaluations and starts at the same point, "
        "uniform in [-4, 4]^d.\n",
    ]
    overall = [["method", *(f"d = {d}" for d in dimensions)]]
    solved = [["method", *(f"d = {d}" for d in dimensions)]]
    seconds = [["method", *(f"d = {d}" for d in dimensions)]]
    certain = [["method", *(f"d = {d}" for d in dimensions)]]
    best = {
        d: min(np.median(digits(rows, method=m, dimension=d)) for m in methods if _has(rows, m, d)) for d in dimensions
    }
    for method in methods:
        overall.append([method])
        solved.append([method])
        seconds.append([method])
        certain.append([method])
        for d in dimensions:
            values = digits(rows, method=method, dimension=d)
            if not len(values):
                for part in (overall, solved, seconds, certain):
                    part[-1].append("")
                continue
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
            mark = "**" if middle == best[d] else ""
            overall[-1].append(f"{mark}{middle:.2f}{mark} ({low:.1f}, {high:.1f})")
            least, most = interval(rows, method, d)
            certain[-1].append(f"{least:.2f} to {most:.2f}" if least < most else "")
            solved[-1].append(f"{int((values <= SOLVED).sum())} of {len(values)}")
            times = [float(r["seconds"]) for r in rows if r["method"] == method and r["dimension"] == str(d)]
            seconds[-1].append(f"{np.median(times):.2f}")
    text += ["### Medians\n", table(overall[0], overall[1:])]
    text += [
        "### How certain the medians are\n",
        "95 % intervals, from drawing the instances of each function anew with replacement.\n",
        table(certain[0], certain[1:]),
    ]
    text += ["### Runs solved to 1e-8\n", table(solved[0], solved[1:])]
    text += ["### Seconds a run, the function's own time included (median)\n", table(seconds[0], seconds[1:])]
    text += ["### Where zograd loses\n", losses(rows, methods, dimensions)]
    for d in dimensions:
        text += [f"### Every function, d = {d}\n", by_function(rows, methods, d)]
    text += ["### Machine and versions\n", provenance(rows)]
    return "\n".join(text)


def losses(rows: list[Row], methods: list[str], dimensions: list[int]) -> str:
    """The functions on which some peer's median is ahead by half a digit or more."""
    if "zograd" not in methods or methods == ["zograd"]:
        return "There is nothing to compare yet.\n"
    lines = []
    for d in dimensions:
        behind = []
        for function in FUNCTIONS:
            ours = digits(rows, method="zograd", function=function, dimension=d)
            theirs = {
                m: np.median(values)
                for m in methods
                if m != "zograd" and len(values := digits(rows, method=m, function=function, dimension=d))
            }
            if len(ours) and theirs:
                ahead = min(theirs, key=lambda m: theirs[m])
                if (lost := np.median(ours) - theirs[ahead]) >= 0.5:
                    behind.append((lost, f"f{function} by {lost:.1f} to {ahead}"))
        named = "; ".join(line for _, line in sorted(behind, reverse=True)) or "none"
        lines.append(f"- d = {d}: half a digit or more behind the best peer on {len(behind)} of 24 functions: {named}.")
    return "\n".join(lines) + "\n"


def by_function(rows: list[Row], methods: list[str], dimension: int) -> str:
    """The medians of every function: one row a function, one column a method, the best in bold."""
    lines = []
    for function in FUNCTIONS:
        medians = {m: digits(rows, method=m, function=function, dimension=dimension) for m in methods}
        cells = {m: f"{np.median(v):.2f}" if len(v) else "" for m, v in medians.items()}
        least = min((float(cell) for cell in cells.values() if cell != ""), default=np.nan)
        bold = [f"**{cell}**" if cell != "" and float(cell) == least else cell for cell in cells.values()]
        lines.append([f"f{function} {NAMES[function - 1]}", *bold])
    return table(["function", *methods], lines)


def provenance(rows: list[Row]) -> str:
    """Which machines and versions the rows come from."""
    names = [*sorted({row["machine"] for row in rows}), *sorted({row["version"] for row in rows})]
    methods, dimensions = present(rows)
    instances = {row["instance"] for row in rows}
    for d in dimensions:
        for method in methods:
            made = len(digits(rows, method=method, dimension=d))
            if made < len(FUNCTIONS) * len(instances):
                names.append(f"{method}, d = {d}: {made} of {len(FUNCTIONS) * len(instances)} runs made")
    for method in METHODS:
        raised = [row["error"] for row in rows if row["method"] == method and row["error"]]
        if raised:
            kinds = ", ".join(sorted(set(raised)))
            names.append(
                f"{len(raised)} runs of {method} ended with an exception ({kinds}); what they saw before counts"
            )
    return "\n".join(f"- {name}" for name in names) + "\n"


def plot(rows: list[Row], path: Path) -> None:
    """For each dimension, the share of the runs that came at least that close to the optimum."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    methods, dimensions = present(rows)
    figure, axes = pyplot.subplots(1, len(dimensions), figsize=(3.0 * len(dimensions), 3.4), sharey=True, squeeze=False)
    for axis, d in zip(axes[0], dimensions, strict=True):
        for number, method in enumerate(methods):
            values = np.sort(digits(rows, method=method, dimension=d))
            share = np.arange(1, len(values) + 1) / max(len(values), 1)
            ours = method == "zograd"
            axis.step(values, share, where="post", label=method, color=f"C{number}", lw=2.4 if ours else 1.3)
        axis.axvline(SOLVED, color="0.8", lw=1, zorder=0)
        axis.set(title=f"d = {d}\n{EVALUATIONS_PER_DIMENSION * d} evaluations", xlabel="log10(f - f*)", xlim=(-9, 5))
        axis.invert_xaxis()
    axes[0][0].set(ylabel="share of runs that close or closer", ylim=(0, 1))
    axes[0][-1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    pyplot.close(figure)


def _has(rows: list[Row], method: str, dimension: int) -> bool:
    return len(digits(rows, method=method, dimension=dimension)) > 0


NAMES = (
    *("sphere", "ellipsoid", "Rastrigin", "Büche-Rastrigin", "linear slope"),
    *("attractive sector", "step ellipsoid", "Rosenbrock", "rotated Rosenbrock"),
    *("rotated ellipsoid", "discus", "bent cigar", "sharp ridge", "different powers"),
    *("rotated Rastrigin", "Weierstrass", "Schaffer F7", "ill-conditioned Schaffer F7", "Griewank-Rosenbrock"),
    *("Schwefel", "Gallagher 101", "Gallagher 21", "Katsuura", "Lunacek"),
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--dimensions", nargs="+", type=int, default=[2, 5, 10, 20])
    parser.add_argument("--functions", nargs="+", type=int, default=list(FUNCTIONS))
    parser.add_argument("--instances", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=RESULTS / "bbob.csv", help="the results, continued where they are")
    parser.add_argument("--report", type=Path, default=GENERATED / "bbob.md")
    parser.add_argument("--plot", type=Path, default=STATIC / "bbob.png")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--redo", action="store_true", help="forget the rows of these methods first")
    given = parser.parse_args(arguments)

    results = Results(given.out, FIELDS, KEY)
    if given.redo:
        results.rewrite(row for row in results.rows if row["method"] not in given.methods)
    methods = installed(METHODS, given.methods)
    tasks = [
        {"method": method, "function": function, "instance": instance, "dimension": dimension}
        for dimension in given.dimensions
        for method in methods
        for function in given.functions
        for instance in given.instances
    ]
    sweep(tasks, run, results, given.jobs)
    results.rewrite(results.rows)
    text = report(results.rows)
    print(text.partition("### Every function")[0])
    write(given.report, text)
    plot(results.rows, given.plot)


if __name__ == "__main__":
    main()
