"""Hundreds of parameters at equal evaluations: blocks of coordinates against random directions.

Seven functions of d parameters in [0, 1]; every method starts in the middle and may spend 20 d evaluations. What is
compared is the noiseless value at the answer, as log10 of its share of the value at the start, with nothing tuned per
function: torch's Adam is shown at three rates, for it has one to tune.

    OMP_NUM_THREADS=1 python benchmarks/many_parameters.py
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import machine, package
from _runner import GENERATED, RESULTS, Results, Row, sweep, table, write
from torch import Tensor

import zograd as zo

EVALUATIONS = 20
"""The budget, for each parameter."""
NOISE = 0.01
"""The standard deviation of a value of the noisy sphere, which is about 0.5 at the start."""
LEAST = -16.0
"""Shares below this power of ten are rounding."""
KEY = ["dimension", "function", "method", "seed"]
FIELDS = [*KEY, "evaluations", "start", "value", "decades", "version", "machine"]

Function = Callable[[Tensor], Tensor]


def functions(dimension: int, seed: int) -> dict[str, Function]:
    """Functions of a batch, whose optimum lies at random in the middle four fifths of the range."""
    generator = torch.Generator().manual_seed(seed)
    optimum = 0.1 + 0.8 * torch.rand(dimension, generator=generator, dtype=torch.float64)
    sizes = 10 ** torch.linspace(0, 3, dimension, dtype=torch.float64)
    turned, _ = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64))

    def chain(points: Tensor) -> Tensor:
        z = 1 + 4 * (points - optimum)
        return (100 * (z[:, 1:] - z[:, :-1] ** 2) ** 2 + (1 - z[:, :-1]) ** 2).sum(1) / dimension

    return {
        "sphere": lambda x: 10 * ((x - optimum) ** 2).mean(1),
        "ellipsoid": lambda x: (sizes * (x - optimum) ** 2).mean(1),
        "rotated ellipsoid": lambda x: (sizes * ((x - optimum) @ turned) ** 2).mean(1),
        "absolute values": lambda x: (x - optimum).abs().mean(1),
        "noisy sphere": lambda x: 10 * ((x - optimum) ** 2).mean(1),
        "staircase": lambda x: ((20 * (x - optimum)).round() ** 2).mean(1) / 40,
        "Rosenbrock chain": chain,
    }


def blocks(size: int, **_: Any) -> dict[str, Any]:
    """`BlockNewton` with blocks of so many coordinates."""
    return {"estimator": zo.CoordinateGradient(step=0.05), "optimizer": partial(zo.optim.BlockNewton, block=size)}


def annealed(evaluations: int, noise: float) -> dict[str, Any]:
    """Random directions with `AnnealedAdam`, which is told the noise, as a pilot would measure it."""
    rule = partial(zo.optim.AnnealedAdam, steps=evaluations // 8 - (noise > 0), noise=noise)
    return {"estimator": zo.RandomGradient(4, step=0.01), "optimizer": rule}


def adam(rate: float, **_: Any) -> dict[str, Any]:
    """Random directions with torch's Adam at a constant rate."""
    return {"estimator": zo.RandomGradient(4, step=0.01), "optimizer": partial(torch.optim.Adam, lr=rate)}


METHODS: dict[str, Callable[..., dict[str, Any]]] = {
    **{f"BlockNewton, blocks of {size}": partial(blocks, size) for size in (8, 32, 128)},
    "AnnealedAdam": annealed,
    **{f"torch Adam, rate {rate:g}": partial(adam, rate) for rate in (0.003, 0.01, 0.03)},
}


def run(task: Row) -> Row:
    """One method on one function."""
    dimension, seed = int(task["dimension"]), int(task["seed"])
    clean = functions(dimension, seed)[task["function"]]
    noise = NOISE if task["function"] == "noisy sphere" else 0.0
    generator = torch.Generator().manual_seed(seed)

    def told(points: Tensor) -> Tensor:
        return clean(points) + noise * torch.randn(len(points), generator=generator, dtype=points.dtype)

    center = torch.full((dimension,), 0.5, dtype=torch.float64)
    budget = EVALUATIONS * dimension
    method = METHODS[task["method"]](evaluations=budget, noise=noise)
    result = zo.minimize(
        zo.batched(told), center, bounds=(0, 1), evaluations=budget, seed=seed, progress=False, **method
    )
    start, value = float(clean(center[None])), float(clean(result.x[None]))
    decades = math.log10(max(value / start, 10**LEAST))
    print(dimension, task["function"], task["method"], seed, f"{decades:.2f}", flush=True)
    return task | {
        "evaluations": result.nfev,
        "start": f"{start:.6g}",
        "value": f"{value:.6g}",
        "decades": f"{decades:.4f}",
        "version": f"{package('zograd')}, {package('torch')}",
        "machine": machine(),
    }


def report(rows: list[Row]) -> str:
    """One table a dimension, as Markdown; the best of each function is bold."""
    parts = ["<!-- made by benchmarks/many_parameters.py -->\n"]
    for dimension in sorted({int(row["dimension"]) for row in rows}):
        here = [row for row in rows if int(row["dimension"]) == dimension]
        names = [name for name in functions(2, 0) if any(row["function"] == name for row in here)]
        median = {
            (method, name): float(
                np.median(
                    [float(r["decades"]) for r in here if (r["method"], r["function"]) == (method, name)] or math.nan
                )
            )
            for method in METHODS
            for name in names
        }
        best = {name: np.nanmin([median[method, name] for method in METHODS]) for name in names}
        lines = [
            [
                method,
                *(
                    f"**{median[method, n]:.2f}**" if median[method, n] == best[n] else f"{median[method, n]:.2f}"
                    for n in names
                ),
            ]
            for method in METHODS
            if any(row["method"] == method for row in here)
        ]
        seeds = len({row["seed"] for row in here})
        parts += [
            f"### d = {dimension}, {EVALUATIONS * dimension} evaluations: log10(value / value at the start)\n",
            (f"Medians of {seeds} seeds" if seeds > 1 else "One seed") + "; lower is better.\n",
            table(["method", *names], lines),
        ]
    names = [*sorted({row["machine"] for row in rows}), *sorted({row["version"] for row in rows})]
    return "\n".join([*parts, "### Machine and versions\n", "".join(f"- {name}\n" for name in names)])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimensions", nargs="+", type=int, default=[300, 1000])
    parser.add_argument("--functions", nargs="+", choices=functions(2, 0), default=list(functions(2, 0)))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "many_parameters.csv", help="continued where it is")
    parser.add_argument("--report", type=Path, default=GENERATED / "many_parameters.md")
    parser.add_argument("--redo", action="store_true", help="forget the rows of these methods and functions first")
    given = parser.parse_args(arguments)

    torch.set_num_threads(1)
    results = Results(given.out, FIELDS, KEY)
    if given.redo:
        again = {(method, name) for method in given.methods for name in given.functions}
        results.rewrite(row for row in results.rows if (row["method"], row["function"]) not in again)
    tasks = [
        {"dimension": dimension, "function": name, "method": method, "seed": seed}
        for dimension in given.dimensions
        for seed in range(given.seeds)
        for name in given.functions
        for method in given.methods
    ]
    sweep(tasks, run, results)
    results.rewrite(results.rows)
    text = report(results.rows)
    write(given.report, text)
    print(text)


if __name__ == "__main__":
    main()
