"""What each part of the surrogates is worth: evaluations to a target, at equal evaluations, every step size on a grid.

    python benchmarks/surrogates_ablation.py            # minutes; goes on where it was interrupted
    python benchmarks/surrogates_ablation.py --only toy rosenbrock --seeds 5
    python benchmarks/surrogates_ablation.py --overhead # milliseconds a gradient, one thread
    python benchmarks/surrogates_ablation.py --released # the released settings to their end, and who is there sooner

Rows go to results/surrogates_ablation.csv, the table to docs/_generated/surrogates_ablation.md: medians over the seeds,
for each method at the step size of the grid with the lowest median.
"""

import argparse
import functools
import importlib
import math
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from _machine import machine
from _runner import GENERATED, RESULTS, Results, Row, sweep, table, write
from torch import Tensor

import zograd as zo
from zograd.estimators import _quadratic

FIELDS = ["problem", "method", "rate", "seed", "evaluations", "best", "budget", "machine"]
KEY = ["problem", "method", "rate", "seed"]
RATES = (0.1, 0.3, 1.0, 3.0)
"""Adam's rate, in spreads."""
Function = Callable[[Tensor], Tensor]


def toy(seed: int) -> tuple[Function, Tensor]:
    """The released toy: a curve through points, squared (here a piecewise cubic without overshoot), from 1.1."""
    problem = importlib.import_module("scipy.interpolate").Akima1DInterpolator(
        [-100, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 100], [9, 7.5, 7.0, 6.5, 6, 4, 3.5, 0, 2, 1, 6, 8, 9]
    )
    return lambda x: torch.from_numpy(problem(x[:, 0].clamp(-99, 99).numpy()) ** 2), torch.tensor([1.1]).double()


def rosenbrock(seed: int) -> tuple[Function, Tensor]:
    """The released one: squared, from a uniformly random start."""
    start = torch.rand(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    start = torch.tensor([-1.5, -0.5]) + 3.5 * start
    return lambda x: ((1 - x[:, 0]) ** 2 + 100 * (x[:, 1] - x[:, 0] ** 2) ** 2) ** 2, start


def bowl(seed: int, dimension: int, noise: float = 0.0) -> tuple[Function, Tensor]:
    """A quadratic with condition number 100, in directions that are no axes; 1 at the start."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator).double())[0]
    bends = torch.logspace(0, -2, dimension).double()
    start = torch.randn(dimension, generator=generator).double()
    first = float((bends * (axes.T @ start) ** 2).sum())

    def value(x: Tensor) -> Tensor:
        exact = ((x @ axes) ** 2 * bends).sum(1) / first
        return exact + noise * torch.randn(len(x), generator=generator).double()

    return value, start


def ready(name: str, seed: int) -> tuple[Function, Tensor]:
    """One of zograd.problems."""
    problem = getattr(importlib.import_module(f"zograd.problems.{name}"), name)(seed=seed)
    return lambda x: problem.fun(x.float()).double(), torch.as_tensor(problem.x0).double()


# problem: (function and start, target, budget, spread, pairs)
PROBLEMS: dict[str, tuple[Callable[[int], tuple[Function, Tensor]], float, int, float, int]] = {
    "toy": (toy, 1e-2, 6000, 0.33, 2),
    "rosenbrock": (rosenbrock, 1e-2, 8000, 0.1, 2),
    "bowl_10": (functools.partial(bowl, dimension=10), 1e-2, 4000, 0.05, 5),
    "bowl_10_noise": (functools.partial(bowl, dimension=10, noise=1e-3), 1e-2, 6000, 0.2, 5),
    "bowl_50": (functools.partial(bowl, dimension=50), 3e-2, 6000, 0.05, 5),
    "bowl_336": (functools.partial(bowl, dimension=336), 3e-2, 12000, 0.05, 10),
    "led": (functools.partial(ready, "led"), 2e-2, 8000, 0.5, 10),
    "caustic": (functools.partial(ready, "caustic"), 1.1e-1, 10000, 0.06, 10),
}
SLOW = ("led", "caustic")


def released(problem: str, spread: float) -> tuple[zo.GradientEstimator, Any]:
    """The released settings of the two small tasks; None elsewhere."""
    if problem == "toy":
        estimator = zo.PublishedSurrogate(spread=0.33, samples=10, smoothing=0.0)
        return estimator, functools.partial(zo.optim.SurrogateAdam, lr=5e-4, steps=3)
    return zo.PublishedSurrogate(spread=0.33, samples=4, unit=4.0), functools.partial(torch.optim.Adam, lr=5e-4)


def method(name: str, problem: str, spread: float, pairs: int, rate: float) -> tuple[zo.GradientEstimator, Any]:
    """An estimator and an optimiser."""
    adam = functools.partial(torch.optim.Adam, lr=rate * spread)
    bare = functools.partial(torch.optim.Adam, lr=rate * spread, betas=(0.0, 0.999))
    polynomial = functools.partial(zo.PolynomialSurrogate, spread=spread, samples=pairs)
    if name == "released":
        return released(problem, spread)
    return {
        "plain ES": lambda: (zo.RandomGradient(samples=pairs, step=spread), adam),
        "plain ES, no momentum": lambda: (zo.RandomGradient(samples=pairs, step=spread), bare),
        "published, tuned": lambda: (zo.PublishedSurrogate(spread=spread, samples=pairs, rate=5e-3), adam),
        "linear": lambda: (polynomial(degree="linear"), bare),
        "linear, momentum too": lambda: (polynomial(degree="linear"), adam),
        "linear, no memory": lambda: (polynomial(degree="linear", window=pairs), bare),
        "polynomial": lambda: (polynomial(), bare),
        "neural": lambda: (zo.NeuralSurrogate(spread=spread, samples=pairs), adam),
        "neighbours": lambda: (zo.NearestNeighbourGradient(spread=spread, samples=pairs), bare),
        "trust region": lambda: (polynomial(), zo.optim.TrustRegion),
        "trust region, one pair": lambda: (polynomial(samples=1), zo.optim.TrustRegion),
        "quasi-Newton (default)": lambda: (zo.FrameGradient(), zo.optim.QuasiNewton),
        "trust region, values alike": lambda: (polynomial(), zo.optim.TrustRegion),
        "trust region, no memory": lambda: (
            polynomial(window=2 * pairs + 1),
            zo.optim.TrustRegion,
        ),
    }[name]()


METHODS = [
    "plain ES", "plain ES, no momentum", "released", "published, tuned", "linear", "linear, momentum too",
    "linear, no memory", "polynomial", "neural", "neighbours", "trust region", "trust region, values alike",
    "trust region, no memory", "trust region, one pair", "quasi-Newton (default)",
]  # fmt: skip
UNTUNED = ("released", *METHODS[-5:])
LOW = _quadratic.LOW


def fits(name: str, problem: str, dimension: int) -> bool:
    """Whether a method is for a problem."""
    if name == "released":
        return problem in ("toy", "rosenbrock")
    if name.startswith(("trust", "quasi")):
        return dimension <= 16
    if name == "polynomial":
        return dimension <= 48
    return not (name.startswith("published") and problem in SLOW) and not (name == "neighbours" and dimension > 48)


def work(task: Row) -> Row:
    """One descent to the target or the end of the budget."""
    torch.set_num_threads(1)
    # So large that high values count as much as low ones.
    _quadratic.LOW = 1e9 if str(task["method"]).endswith("alike") else LOW
    make, target, budget, spread, pairs = PROBLEMS[task["problem"]]
    function, start = make(int(task["seed"]))
    exact = functools.partial(bowl, dimension=len(start))(int(task["seed"]))[0] if "noise" in task["problem"] else None
    estimator, optimizer = method(task["method"], task["problem"], spread, pairs, float(task["rate"]))
    descent = zo.Descent(start, estimator=estimator, optimizer=optimizer, seed=int(task["seed"]))
    best, reached, used = math.inf, "", 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zo.ZogradWarning)
        while used < budget and not reached:
            points = descent.ask().points()
            values = function(points)
            used += len(points)
            # Under noise the lowest value is luck: the centre is judged without it.
            seen = values if exact is None else exact(descent.center.detach()[None])
            best = min(best, float(seen.min()))
            if best <= target:
                reached = used
            descent.tell(values)
    return {**task, "evaluations": reached, "best": f"{best:.6g}", "budget": budget, "machine": machine()}


def report(results: Results) -> None:
    """The table: a method a row, a problem a column."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in results.rows:
        runs = found.setdefault((row["problem"], row["method"]), {})
        runs.setdefault(row["rate"], []).append(float(row["evaluations"] or math.inf))
    problems = [name for name in PROBLEMS if any(name == problem for problem, _ in found)]
    rows = []
    for name in METHODS:
        cells = []
        for problem in problems:
            medians = [statistics.median(runs) for runs in found.get((problem, name), {}).values()]
            least = min(medians, default=None)
            cells.append("" if least is None else "not reached" if math.isinf(least) else f"{least:.0f}")
        rows.append([name, *cells])
    header = ["evaluations to", *(f"{problem} {PROBLEMS[problem][1]:g}" for problem in problems)]
    text = table(header, rows)
    write(GENERATED / "surrogates_ablation.md", text)
    print(text)


def overhead() -> None:
    """Milliseconds a gradient, without the program: the least of many, and the median."""
    rows = []
    for dimension, count in ((2, 400), (16, 100), (1024, 60), (35152, 30), (196608, 15)):
        for name in ("plain ES", "linear", "polynomial", "neural"):
            if name == "polynomial" and dimension > 48:
                continue
            estimator, _ = method(name, "", 0.1, 8, 0.1)
            generator, center = torch.Generator().manual_seed(0), torch.zeros(dimension)
            times = []
            for _ in range(count):
                begin = time.process_time()
                probes = estimator.propose(center, generator)
                middle = time.process_time()
                values = torch.randn(len(probes), generator=generator)
                again = time.process_time()
                estimator.gradient(probes, values)
                times.append(1e3 * (middle - begin + time.process_time() - again))
            rows.append([dimension, name, f"{min(times):.2f}", f"{statistics.median(times):.2f}"])
    print(machine())
    print(table(["d", "method", "least ms", "median ms"], rows))


def to_the_end(seeds: int) -> None:
    """The released settings for all their evaluations; then how many the trust region needs for the same loss."""
    rows = []
    for problem, budget in (("toy", 120_000), ("rosenbrock", 80_000)):
        make, _, _, spread, pairs = PROBLEMS[problem]
        for seed in range(seeds):
            function, start = make(seed)
            ends: list[Any] = []
            for name, limit in (("released", budget), ("trust region", 2000)):
                estimator, optimizer = method(name, problem, spread, pairs, 1.0)
                descent = zo.Descent(start, estimator=estimator, optimizer=optimizer, seed=seed)
                used, last = 0, math.inf
                while used < limit and (name == "released" or last > ends[0]):
                    points = descent.ask().points()
                    used += len(points)
                    values = function(points)
                    if name != "released":
                        last = min(last, float(values.min()))
                    descent.tell(values)
                ends.append(float(function(descent.center.detach()[None])) if name == "released" else used)
            rows.append([problem, seed, f"{ends[0]:.3g}", budget, ends[1], round(budget / ends[1])])
    print(table(["problem", "seed", "final loss", "evaluations", "trust region's", "times fewer"], rows))


def main() -> None:
    """Do what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[name for name in PROBLEMS if name not in SLOW])
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--released", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.released:
        warnings.simplefilter("ignore", zo.ZogradWarning)
        to_the_end(options.seeds)
        return
    if options.overhead:
        warnings.simplefilter("ignore", zo.ZogradWarning)
        overhead()
        return
    results = Results(RESULTS / "surrogates_ablation.csv", FIELDS, KEY)
    tasks: list[Row] = []
    for problem in options.only:
        dimension = len(PROBLEMS[problem][0](0)[1])
        for name in options.methods:
            if fits(name, problem, dimension):
                rates = (1.0,) if name in UNTUNED else RATES
                tasks += [
                    {"problem": problem, "method": name, "rate": rate, "seed": seed}
                    for rate in rates
                    for seed in range(options.seeds)
                ]
    sweep(tasks, work, results, options.jobs)
    report(results)


if __name__ == "__main__":
    main()
