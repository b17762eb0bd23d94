"""Outputs against their loss: `zo.minimize_least_squares`, `zo.minimize` and SciPy at equal evaluations.

Sums of squares from More, Garbow and Hillstrom from their standard starts, and outputs with noise, whole bytes, many
parameters, and a picture. Every method has the same budget and nothing is tuned. What is compared is the noiseless
mean square of the best point that a method has evaluated (under noise: of its answer), less the least known, as log10
of its share of the value at the start; and after how many evaluations that share fell below 1e-6.

    OMP_NUM_THREADS=1 python benchmarks/least_squares.py [--large]
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import machine, package
from _runner import GENERATED, RESULTS, BudgetSpentError, Results, Row, sweep, table, write

import zograd as zo
from zograd.problems import picture

REACHED = 1e-6
"""The share of the start's excess at which a problem counts as solved."""
LEAST = -16.0
"""Shares below this power of ten are rounding."""
KEY = ["problem", "method", "seed"]
FIELDS = [*KEY, "dimension", "outputs", "budget", "evaluations", "decades", "reached", "value", "version", "machine"]

Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """Residuals to make small.

    Args:
        residuals: One point to its residuals, without noise.
        start: Where to start.
        budget: Evaluations.
        least: The least mean square known.
        bounds: As `zo.minimize` takes them.
        scale: As `zo.minimize` takes it.
        noise: The standard deviation of one output.
    """

    residuals: Callable[[Array], Array]
    start: Array
    budget: int
    least: float = 0.0
    bounds: Any = None
    scale: Any = None
    noise: float = 0.0


def helical(x: Array) -> Array:
    """Helical valley."""
    turn = math.atan2(x[1], x[0]) / (2 * math.pi)
    turn += float(turn < -0.25)
    return np.array([10 * (x[2] - 10 * turn), 10 * (math.hypot(x[0], x[1]) - 1), x[2]])


def wood(x: Array) -> Array:
    """Wood."""
    root = math.sqrt
    return np.array([
        10 * (x[1] - x[0] ** 2), 1 - x[0], root(90) * (x[3] - x[2] ** 2), 1 - x[2],
        root(10) * (x[1] + x[3] - 2), (x[1] - x[3]) / root(10),
    ])  # fmt: skip


def kowalik(x: Array) -> Array:
    """Kowalik and Osborne."""
    u = np.array([4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625])
    y = np.array([0.1957, 0.1947, 0.1735, 0.16, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246])
    return y - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


def bard(x: Array) -> Array:
    """Bard."""
    y = np.array([0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.1, 4.39])
    u = np.arange(1.0, 16)
    v = 16 - u
    return y - (x[0] + u / (v * x[1] + np.minimum(u, v) * x[2]))


def brown_dennis(x: Array) -> Array:
    """Brown and Dennis."""
    t = np.arange(1, 21) / 5
    return (x[0] + t * x[1] - np.exp(t)) ** 2 + (x[2] + x[3] * np.sin(t) - np.cos(t)) ** 2


def decay(x: Array) -> Array:
    """Two decays, and a background."""
    t = np.linspace(0, 10, 60)
    return x[0] * np.exp(-x[1] * t) + x[2] * np.exp(-x[3] * t) + x[4]


def disc(x: Array) -> Array:
    """A soft disc of some colour on 32 x 32 pixels, in whole bytes."""
    row, column = np.mgrid[0:32, 0:32] / 32.0
    shade = 1 / (1 + np.exp(20 * (np.hypot(row - x[0], column - x[1]) - x[2])))
    return np.round(255 * shade[:, :, None] * x[3:6]) / 255


def fitted(program: Callable[[Array], Array], truth: Array) -> Callable[[Array], Array]:
    """What ``program`` gives, less what it gives at ``truth``."""
    goal = program(truth)
    return lambda x: program(x) - goal


def cases(large: bool) -> dict[str, Case]:
    """The problems by name."""
    rates = np.array([2.0, 1.3, 1.0, 0.2, 0.1])
    blob = np.array([0.62, 0.4, 0.3, 0.9, 0.5, 0.2])
    mix = np.random.default_rng(0).normal(size=(100, 40)) / 10
    found = {
        "Rosenbrock": Case(lambda x: np.array([10 * (x[1] - x[0] ** 2), 1 - x[0]]), np.array([-1.2, 1.0]), 200),
        "helical valley": Case(helical, np.array([-1.0, 0, 0]), 300),
        "Wood": Case(wood, np.array([-3.0, -1, -3, -1]), 400),
        "Kowalik-Osborne": Case(kowalik, np.array([0.25, 0.39, 0.415, 0.39]), 400, 3.0750560e-4 / 11),
        "Bard": Case(bard, np.ones(3), 300, 8.2148773e-3 / 15),
        "Brown-Dennis": Case(brown_dennis, np.array([25.0, 5, -5, -1]), 400, 8.5822202e4 / 20),
        "two decays": Case(fitted(decay, rates), np.array([1.0, 1, 1, 0.5, 0]), 500),
        "two decays, noise": Case(fitted(decay, rates), np.array([1.0, 1, 1, 0.5, 0]), 500, noise=0.02),
        "disc in bytes": Case(fitted(disc, blob), np.array([0.4, 0.6, 0.2, 0.5, 0.5, 0.5]), 600, bounds=(0, 1)),
        "tanh layer, d = 100": Case(fitted(lambda x: np.tanh(x @ mix), np.ones(100)), np.zeros(100), 2000),
        "cubes apart, d = 100": Case(lambda x: x**3 + 0.1 * x - np.linspace(0, 1, 100), np.full(100, 0.5), 2000),
    }
    if large:
        problem = picture()
        parameters, render = problem.parameters(), problem.fun._renderer
        goal = problem.fun.pixels.astype(np.float64)

        def ellipses(vector: Array) -> Array:
            return (render(parameters.decode(torch.from_numpy(vector))) - goal) / 255

        limits = list(zip(parameters.lower.tolist(), parameters.upper.tolist(), strict=True))
        found["150 ellipses"] = Case(ellipses, parameters.initial.numpy(), 8000, bounds=limits, scale=1.0)
    return found


class Watched:
    """Counts evaluations, keeps the best noiseless mean square, and refuses to exceed the budget."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case, self.calls, self.best, self.reached = case, 0, math.inf, 0
        self.generator = np.random.default_rng(seed)
        self.first = self.share(case.start, 1.0)

    def share(self, x: Array, whole: float) -> float:
        """The excess at ``x`` as a share of ``whole``."""
        return max(0.0, float((self.case.residuals(np.asarray(x)) ** 2).mean()) - self.case.least) / whole

    def __call__(self, x: Any) -> Array:
        """The residuals at ``x``, with their noise."""
        if self.calls >= self.case.budget:
            raise BudgetSpentError
        self.calls += 1
        residuals = self.case.residuals(np.asarray(x, dtype=float))
        excess = max(0.0, float((residuals**2).mean()) - self.case.least) / self.first
        self.best = min(self.best, excess)
        if excess <= REACHED and not self.reached:
            self.reached = self.calls
        return residuals + self.case.noise * self.generator.normal(size=residuals.shape)


def by_outputs(watched: Watched, seed: int) -> Array:
    """`zo.minimize_least_squares`."""
    case = watched.case
    found = zo.minimize_least_squares(
        watched, case.start, bounds=case.bounds, scale=case.scale, evaluations=case.budget, seed=seed, progress=False
    )
    return np.asarray(found.x)


def by_loss(watched: Watched, seed: int) -> Array:
    """`zo.minimize`, which sees the mean square alone."""
    case = watched.case
    found = zo.minimize(
        lambda x: float((watched(x) ** 2).mean()),
        case.start,
        bounds=case.bounds,
        scale=case.scale,
        evaluations=case.budget,
        seed=seed,
        progress=False,
    )
    return np.asarray(found.x)


def by_scipy(watched: Watched, seed: int) -> Array:
    """`scipy.optimize.least_squares` with its default differences."""
    from scipy.optimize import least_squares

    case, last = watched.case, [watched.case.start]

    def residuals(x: Array) -> Array:
        last[0] = x
        return watched(x).reshape(-1)

    sides = (-np.inf, np.inf) if case.bounds is None else np.asarray(case.bounds, dtype=float).T
    try:
        return np.asarray(least_squares(residuals, case.start, jac="2-point", bounds=tuple(sides)).x)
    except BudgetSpentError:
        return last[0]


METHODS = {"outputs": by_outputs, "loss": by_loss, "SciPy": by_scipy}


def run(task: Row) -> Row:
    """One method on one problem."""
    case, seed = cases(task["problem"] == "150 ellipses")[task["problem"]], int(task["seed"])
    watched = Watched(case, seed)
    answer = METHODS[task["method"]](watched, seed)
    share = watched.share(answer, watched.first) if case.noise else watched.best
    decades = math.log10(max(share, 10**LEAST))
    print(task["problem"], task["method"], seed, f"{decades:.2f}", watched.reached, flush=True)
    return task | {
        "dimension": len(case.start),
        "outputs": case.residuals(case.start).size,
        "budget": case.budget,
        "evaluations": watched.calls,
        "decades": f"{decades:.4f}",
        "reached": watched.reached or "",
        "value": f"{share * watched.first + case.least:.6g}",
        "version": f"{package('zograd')}, {package('torch')}, {package('scipy')}",
        "machine": machine(),
    }


def report(rows: list[Row]) -> str:
    """One table, as Markdown."""
    names = [name for name in cases(True) if any(row["problem"] == name for row in rows)]
    lines = []
    for name in names:
        here = [row for row in rows if row["problem"] == name]
        cells: list[str] = [name, here[0]["dimension"], here[0]["outputs"], here[0]["budget"]]
        for method in METHODS:
            own = [row for row in here if row["method"] == method]
            if not own:
                cells.append("")
                continue
            decades = float(np.median([float(row["decades"]) for row in own]))
            reached = float(np.median([float(row["reached"] or "inf") for row in own]))
            cells.append(f"{decades:.1f}" + (f" ({reached:.0f})" if math.isfinite(reached) else " (-)"))
        lines.append(cells)
    seeds = len({row["seed"] for row in rows})
    header = ["problem", "d", "m", "evaluations", "outputs", "loss", "SciPy"]
    versions = [*sorted({row["machine"] for row in rows}), *sorted({row["version"] for row in rows})]
    return "\n".join(
        [
            "<!-- made by benchmarks/least_squares.py -->\n",
            f"log10 of the share of the start's excess that is left, and in brackets the evaluations after which it "
            f"was below {REACHED:g}; medians of up to {seeds} seeds, lower is better.\n",
            table(header, lines),
            "".join(f"- {line}\n" for line in versions),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=None)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="also the picture: minutes, one seed")
    parser.add_argument("--out", type=Path, default=RESULTS / "least_squares.csv", help="continued where it is")
    parser.add_argument("--report", type=Path, default=GENERATED / "least_squares.md")
    given = parser.parse_args(arguments)

    torch.set_num_threads(1)
    results = Results(given.out, FIELDS, KEY)
    tasks = [
        {"problem": name, "method": method, "seed": seed}
        for name in given.problems or cases(given.large)
        for method in given.methods
        for seed in range(1 if name == "150 ellipses" or (method == "SciPy" and "noise" not in name) else given.seeds)
    ]
    sweep(tasks, run, results)
    results.rewrite(results.rows)
    text = report(results.rows)
    write(given.report, text)
    print(text)


if __name__ == "__main__":
    main()
