"""zo.minimize beside CMA-ES and random search at the same number of simulations: writes results.csv.

    python compare.py --evaluations 1000 --seeds 5

Nothing is tuned for any of them: CMA-ES starts with a sigma of 0.3 of the box. Two starts: the centre of the box, and a
random amplifier of the middle half of it, another one for each seed, that can be measured at all. CMA-ES takes a failed
measurement for the plateau, zo.minimize drops it. Every method sees a point as logarithms within the box, and none is
shown one outside.
"""

import argparse
import csv
import math
import os
import statistics
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cma
import numpy as np
import opamp

import zograd as zo

RESULTS = Path(__file__).parent / "results.csv"
COUNTS = (150, 300, 1000)


class Counted:
    """The amplifier's loss, and the best of it so far after every simulation."""

    def __init__(self) -> None:
        self.simulated = opamp.program().function
        self.best: list[float] = []
        self.lost = 0

    def __call__(self, values: dict[str, float]) -> float:
        """Simulate one amplifier."""
        value = math.nan
        try:
            value = self.simulated(values)
        except zo.EvaluationError:
            self.lost += 1
        self.best.append(min(self.best[-1] if self.best else math.inf, value if value == value else math.inf))
        return value

    def after(self, evaluations: int) -> float:
        """The best of so many simulations, or of all where a method stopped before."""
        return self.best[min(evaluations, len(self.best)) - 1]


def values_at(unit: np.ndarray) -> dict[str, float]:
    """The amplifier at a point of the unit cube, on a log scale."""
    return {
        name: lower * (upper / lower) ** float(place)
        for place, (name, (lower, upper)) in zip(unit, opamp.BOUNDS.items(), strict=True)
    }


def start(kind: str, seed: int) -> np.ndarray:
    """Where to begin, in the unit cube."""
    if kind == "center":
        return np.full(len(opamp.BOUNDS), 0.5)
    generator, counted = np.random.default_rng(1000 + seed), Counted()
    while True:
        unit = generator.uniform(0.25, 0.75, len(opamp.BOUNDS))
        if counted(values_at(unit)) < math.inf:
            return unit


def minimized(counted: Counted, unit: np.ndarray, evaluations: int, seed: int) -> None:
    """`zo.minimize`, as it comes."""
    zo.minimize(
        counted, values_at(unit), bounds=opamp.BOUNDS, scale="log", evaluations=evaluations, seed=seed, progress=False
    )


def evolved(counted: Counted, unit: np.ndarray, evaluations: int, seed: int) -> None:
    """CMA-ES by its own package, with its own handling of the bounds; started anew where it has converged."""
    while len(counted.best) < evaluations:
        options = {"bounds": [0, 1], "seed": seed + 1 + len(counted.best), "verbose": -9}
        strategy = cma.CMAEvolutionStrategy(unit, 0.3, options)
        while not strategy.stop() and len(counted.best) < evaluations:
            points = strategy.ask()
            values = [counted(values_at(point)) for point in points[: evaluations - len(counted.best)]]
            if len(values) == len(points):
                strategy.tell(points, [opamp.PLATEAU if value != value else value for value in values])


def searched(counted: Counted, unit: np.ndarray, evaluations: int, seed: int) -> None:
    """Random search, from nowhere in particular."""
    generator = np.random.default_rng(seed)
    for _ in range(evaluations):
        counted(values_at(generator.random(len(unit))))


METHODS: dict[str, Callable[[Counted, np.ndarray, int, int], None]] = {
    "zo.minimize": minimized,
    "CMA-ES": evolved,
    "random search": searched,
}


def main() -> None:
    """Run all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", type=int, default=COUNTS[-1], help="simulations a run")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    counts = [*(count for count in COUNTS if count < arguments.evaluations), arguments.evaluations]
    rows: list[list[object]] = []
    for kind in ("center", "random"):
        for method, run in METHODS.items():
            if kind == "random" and method == "random search":
                continue  # it has no start
            for seed in range(arguments.seeds):
                counted = Counted()
                run(counted, start(kind, seed), arguments.evaluations, seed)
                found = [counted.after(count) for count in counts]
                reached = next((number for number, value in enumerate(counted.best, 1) if value <= 0.2), "")
                rows.append([method, kind, seed, *(f"{value:.4f}" for value in found), reached, counted.lost])
                print(*rows[-1], sep=", ", flush=True)
            medians = [statistics.median(float(row[3 + place]) for row in rows[-arguments.seeds :])  # type: ignore[arg-type]
                       for place in range(len(counts))]  # fmt: skip
            print(f"  median of {method} from {kind}:", *(f"{value:.3f}" for value in medians), flush=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["method", "start", "seed", *(f"after_{count}" for count in counts), "evaluations_to_0.2", "lost"]
        )
        writer.writerows(rows)
    print(RESULTS)


if __name__ == "__main__":
    main()
