"""What an iteration of the surrogates costs beside the program: milliseconds of processor time, in one thread.

An iteration proposes samples, hands their points over, takes the values in, and moves the centre. Many are timed in one
go, the program is timed on the same points and taken off, and the memories are full before. The floor does what no
method can leave out: it draws as many normal numbers as eight samples have and makes one step of Adam.

Rows of other machines are kept, each machine with a table of its own: compare within a table, by the floor.

    OMP_NUM_THREADS=1 python benchmarks/step_overhead.py
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import machine, package
from _runner import GENERATED, RESULTS, Results, Row, sweep, table, write
from torch import Tensor

import zograd as zo

KEY = ["machine", "method", "dimension", "repeat"]
FIELDS = ["method", "dimension", "repeat", "iterations", "milliseconds", "version", "machine"]
LIMITS = {2: 0.3, 1_024: 3.0, 35_152: 20.0, 196_608: 120.0}
"""Milliseconds an iteration that the surrogates may cost: by the number of parameters."""
SAMPLES, SPREAD = 8, 0.1
RUNS = {2: 400, 1_024: 100, 35_152: 8, 196_608: 4}
"""Iterations that are timed in one go."""
ADAM = partial(torch.optim.Adam, lr=1e-4)
FLOOR = "floor: normal numbers, Adam"


@dataclass(frozen=True)
class Method:
    """An estimator with its rule.

    Args:
        estimator: Makes it.
        optimizer: The rule of its steps.
        filled: Iterations before its memory is full.
        most: Parameters up to which it is meant.
    """

    estimator: Callable[[], zo.GradientEstimator]
    optimizer: Callable[..., torch.optim.Optimizer] = ADAM
    filled: int = 20
    most: int = max(LIMITS)


METHODS: dict[str, Method | None] = {
    FLOOR: None,
    "SmoothedGradient": Method(lambda: zo.SmoothedGradient(spread=SPREAD, samples=SAMPLES), filled=2),
    "PolynomialSurrogate": Method(lambda: zo.PolynomialSurrogate(spread=SPREAD, samples=SAMPLES)),
    "NeuralSurrogate": Method(lambda: zo.NeuralSurrogate(spread=SPREAD, samples=SAMPLES)),
    "NearestNeighbourGradient": Method(
        lambda: zo.NearestNeighbourGradient(spread=SPREAD, samples=SAMPLES), filled=70, most=1_024
    ),
    "PublishedSurrogate": Method(lambda: zo.PublishedSurrogate(spread=SPREAD, samples=SAMPLES), filled=2, most=35_152),
    "PolynomialSurrogate, TrustRegion": Method(
        lambda: zo.PolynomialSurrogate(spread=SPREAD, samples=1), zo.optim.TrustRegion, most=2
    ),
}


def bowl(points: Tensor) -> Tensor:
    """A program that costs next to nothing."""
    return points.square().sum(1) + points[:, 0]


def timed(work: Callable[[], Any], times: int) -> float:
    """Seconds of processor time a call: one reading of the clock for all of them, for it costs as much as a call."""
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def floor(dimension: int) -> Callable[[], None]:
    """What no method can leave out."""
    center = torch.nn.Parameter(torch.zeros(dimension))
    center.grad = torch.ones(dimension)
    adam, generator = ADAM([center]), torch.Generator().manual_seed(0)

    def step() -> None:
        torch.randn(SAMPLES, dimension, generator=generator)
        adam.step()

    return step


def run(task: Row) -> Row:
    """One measurement of one method at one number of parameters."""
    torch.set_num_threads(1)
    dimension, method = int(task["dimension"]), METHODS[task["method"]]
    times = RUNS[dimension]
    if method is None:
        step, program, filled = floor(dimension), 0.0, 2
        for _ in range(filled):
            step()
        seconds = timed(step, times)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", zo.ZogradWarning)
            descent = zo.Descent(
                torch.full((dimension,), 0.5), estimator=method.estimator(), optimizer=method.optimizer, seed=0
            )

            def iteration() -> None:
                descent.tell(bowl(descent.ask().points()))
                if descent.optimizer is not None and getattr(descent.optimizer, "trying", False):
                    descent.tell(bowl(descent.ask().points()))  # a trial step belongs to its gradient

            for _ in range(method.filled):
                iteration()
            seconds = timed(iteration, times)
            points = descent.ask().points()
            program = timed(lambda: bowl(points), times)
    milliseconds = 1e3 * (seconds - program)
    print(f"{task['method']}, d = {dimension}: {milliseconds:.3f} ms", flush=True)
    return task | {
        "iterations": times,
        "milliseconds": f"{milliseconds:.4f}",
        "version": f"{package('zograd')}, {package('torch')}, {package('numpy')}",
    }


def figures(rows: list[Row], method: str, dimension: int) -> np.ndarray:
    """The repeats of one measurement."""
    return np.array(
        [float(row["milliseconds"]) for row in rows if (row["method"], row["dimension"]) == (method, str(dimension))]
    )


def report(rows: list[Row]) -> str:
    """A table a machine, the quickest first, and who is over the limit, as Markdown."""
    machines = sorted({row["machine"] for row in rows}, key=lambda name: _slowness(rows, name))
    parts = [
        "<!-- made by benchmarks/step_overhead.py -->\n",
        f"Milliseconds an iteration beside the program, {SAMPLES} mirrored pairs (1 for the trust region, trial "
        "step included), one thread: the least of the repeats, and in brackets their median.\n",
    ]
    for name in machines:
        own = [row for row in rows if row["machine"] == name]
        parts += [_table(own), f"- {name}; {', '.join(sorted({row['version'] for row in own}))}\n"]
    return "\n".join(parts)


def _slowness(rows: list[Row], name: str) -> float:
    return min(
        (float(row["milliseconds"]) for row in rows if (row["machine"], row["method"]) == (name, FLOOR)), default=0
    )


def _table(rows: list[Row]) -> str:
    lines = [["limit", *(f"{limit:g}" for limit in LIMITS.values())]]
    over = []
    for method in METHODS:
        cells = []
        for dimension, limit in LIMITS.items():
            found = figures(rows, method, dimension)
            cells.append(f"{found.min():.3g} ({np.median(found):.3g})" if len(found) else "")
            if len(found) and found.min() > limit:
                over.append(f"{method} at d = {dimension:,} ({found.min() / limit:.2f} times)")
        lines.append([method, *cells])
    header = ["method", *(f"d = {dimension:,}" for dimension in LIMITS)]
    return f"{table(header, lines)}\nOver the limit at their least: {'; '.join(over) or 'none'}.\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--dimensions", nargs="+", type=int, choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "step_overhead.csv", help="continued where it is")
    parser.add_argument("--report", type=Path, default=GENERATED / "step_overhead.md")
    parser.add_argument("--redo", action="store_true", help="forget the rows of these methods first")
    given = parser.parse_args(arguments)

    results = Results(given.out, FIELDS, KEY)
    if given.redo:
        results.rewrite(
            row
            for row in results.rows
            if row["method"] not in given.methods
            or int(row["dimension"]) not in given.dimensions
            or row["machine"] != machine()
        )
    tasks = [
        {"machine": machine(), "method": name, "dimension": dimension, "repeat": repeat}
        for repeat in range(given.repeats)
        for dimension in given.dimensions
        for name in given.methods
        if (method := METHODS[name]) is None or dimension <= method.most
    ]
    sweep(tasks, run, results)
    results.rewrite(results.rows)
    write(given.report, report(results.rows))


if __name__ == "__main__":
    main()
