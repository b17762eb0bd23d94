"""How many throws until the first hit, from different starts: writes results.csv.

    python measure.py --seeds 10 --evaluations 600

Random search draws from the whole of the bounds.
"""

import argparse
import csv
import os
import statistics
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import throw

RESULTS = Path(__file__).parent / "results.csv"


class Counted:
    """The loss, which counts its throws and notes the first hit."""

    def __init__(self, evaluations: int) -> None:
        self.evaluations = evaluations
        self.thrown, self.best = 0, float("inf")
        self.first_hit: int | None = None

    def __call__(self, values: dict[str, float]) -> float:
        """One throw."""
        thrown = throw.simulate(values)
        self.thrown += 1
        self.best = min(self.best, thrown.distance)
        if thrown.hit and self.first_hit is None:
            self.first_hit = self.thrown
        return thrown.loss


def minimized(counted: Counted, seed: int) -> None:
    """`zo.minimize` as it comes, from another start after every 100 throws without a hit."""
    throw.solve(counted, counted.evaluations, seed, progress=False)


def searched(counted: Counted, seed: int) -> None:
    """Random search within the bounds."""
    generator = np.random.default_rng(seed)
    while counted.thrown < counted.evaluations and counted.first_hit is None:
        counted({name: float(generator.uniform(*pair)) for name, pair in throw.BOUNDS.items()})


METHODS: dict[str, Callable[[Counted, int], None]] = {"zo.minimize, restarted": minimized, "random search": searched}


def main() -> None:
    """Run all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=600, help="throws a run, at most")
    arguments = parser.parse_args()
    rows: list[list[object]] = []
    for method, run in METHODS.items():
        thrown = []
        for seed in range(arguments.seeds):
            counted = Counted(arguments.evaluations)
            run(counted, seed)
            thrown.append(counted.first_hit or float("inf"))
            rows.append([method, seed, counted.first_hit or "", f"{counted.best:.4f}"])
            print(*rows[-1], sep=", ", flush=True)
        print(f"  median of {method}: {statistics.median(thrown)} throws", flush=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "seed", "throws_to_hit", "best_distance"])
        writer.writerows(rows)
    print(RESULTS)


if __name__ == "__main__":
    main()
