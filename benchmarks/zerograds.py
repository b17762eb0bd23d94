"""The released ZeroGrads on the suite's problems: its loss over evaluations, recorded for suite.py to compare with.

Their code is not part of this repository. Get it from github.com/mfischer-ucl/zerograds, and say where it is:

    OMP_NUM_THREADS=1 python benchmarks/zerograds.py --code ../zerograds
    OMP_NUM_THREADS=1 python benchmarks/zerograds.py --code ../zerograds --cases caustic --tuned

Its sampler, its network, its settings and its loop are used as they are, on a CPU; the forward models are ours (the
caustic's picture is theirs, photon for photon, at the start). An evaluation is a sample that was rendered; the loss at
the centre, which their loop records after every step, is not counted, so that it is favoured by one evaluation a step.
`curve` is the best loss seen, at samples and centres, as for all methods of the suite; `centers` that at centres alone.
"""

import argparse
import importlib
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _machine import machine, package
from _runner import RESULTS, Results, Row, sweep
from _suite import CASES
from torch import Tensor

import zograd as zo

KEY = ["case", "settings", "seed"]
FIELDS = [*KEY, "evaluations", "start", "best", "last", "curve", "centers", "seconds", "version", "machine"]
THINNED = 0.97

Numbers = dict[str, float]
LARGE = {"layers": 8, "width": 128, "bands": 6}
SMALL = {"layers": 3, "width": 64, "bands": 0}

# As released: outer sigma, samples (pairs), learning rates of the network and of the parameters, updates of each an
# iteration, whether the loss is smoothed, what the parameters are divided by, and the network.
RELEASED: dict[str, Numbers] = {
    "toy": {"sigma": 0.33, "pairs": 10, "phi": 1e-3, "theta": 5e-4, "k_phi": 3, "k_theta": 3, "smooth": 0, **SMALL},
    "rosenbrock": {
        "sigma": 0.33, "pairs": 4, "phi": 1e-3, "theta": 5e-4, "k_phi": 3, "k_theta": 1, "unit": 4, **SMALL,
    },
    "led": {"sigma": 0.33, "pairs": 1, "phi": 1e-3, "theta": 1e-3, "k_phi": 3, "k_theta": 1, "sign": 1, **SMALL},
    "caustic": {"sigma": 0.0125, "pairs": 10, "phi": 1e-4, "theta": 1e-4, "k_phi": 3, "k_theta": 1, **LARGE},
    "mnist_weights": {
        "sigma": 0.025, "pairs": 10, "phi": 1e-4, "theta": 1.25e-5, "k_phi": 10, "k_theta": 4, **LARGE, "bands": 3,
    },
}  # fmt: skip
BUDGETS = {"toy": 120_000, "rosenbrock": 90_000, "led": 10_000, "caustic": 30_000, "mnist_weights": 2_000}
"""As many as the released scripts use for the first two; as many as the suite where that takes minutes; else less."""
SIGMAS, RATES = (0.3, 1.0), (10.0, 100.0)
"""What `--tuned` multiplies the released outer sigma and the parameters' learning rate by, to begin with."""
FACTOR = 10**0.5
"""To the neighbours of the best, until it has no better ones."""
MOST_ROUNDS = 6


def settings_of(case: str, name: str) -> Numbers:
    """The released settings, or those with another sigma and rate, by name."""
    numbers = dict(RELEASED[case])
    if name != "as released":
        _, sigma, _, rate = name.split()
        numbers["sigma"] *= float(sigma)
        numbers["theta"] *= float(rate)
    return numbers


def beside(rows: list[Row], case: str) -> list[str]:
    """The settings beside the best of a case, which is that whose centre ended lowest: the grid grows towards them."""
    tuned = [row for row in rows if row["case"] == case and row["settings"] != "as released" and int(row["seed"]) == 0]
    if not tuned:
        return []
    _, sigma, _, rate = min(tuned, key=lambda row: float(row["last"]))["settings"].split()
    places = [(factor, 1.0) for factor in (1 / FACTOR, FACTOR)] + [(1.0, factor) for factor in (1 / FACTOR, FACTOR)]
    return [f"sigma {_power(float(sigma) * a):g} rate {_power(float(rate) * b):g}" for a, b in places]


def _power(number: float) -> float:
    """The nearest of 1, 3, 10, 30 ..."""
    whole, odd = divmod(round(2 * math.log10(number)), 2)
    return float(f"{(3 if odd else 1) * 10.0**whole:.1g}")


def run(task: Row) -> Row:
    """One run: their sampler and network in their order of things."""
    torch.set_num_threads(1)
    theirs = importlib.import_module("models")
    case, seed, numbers = task["case"], int(task["seed"]), settings_of(task["case"], task["settings"])
    problem = CASES[case].make(seed)
    torch.manual_seed(seed)
    theta = torch.as_tensor(problem.x0).float().clone().requires_grad_(True)
    box = problem.fun.over(zo.Parameters(problem.x0))  # type: ignore[union-attr]

    def loss(point: Tensor) -> float:
        return float(box(point.detach()[None].double()))

    def render(values: dict[str, Tensor], _: Any) -> dict[str, Any]:
        return {"img": torch.full((1, 1, 1, 1), loss(values["point"])), "regTerm": None}

    def normalize(point: Tensor, _: Any) -> Tensor:
        return 2 * point - 1 if numbers.get("sign") else point / numbers.get("unit", 1.0)

    options = {
        "experiment_id": case, "sigma": numbers["sigma"], "inner_sigma": 0.1, "device": "cpu", "ndim": len(theta),
        "smooth_loss": bool(numbers.get("smooth", 1)), "is_antithetic": True, "is_regularized": False,
        "regWeight": 0.0, "batchsize": int(numbers["pairs"]), "is_logspace": False,
        # The loss is computed by the problem; what their sampler compares is that number and 0, by its difference.
        "criterion": lambda image, goal: (image - goal).mean(), "criterion_proxy": torch.nn.functional.mse_loss,
        "use_posEnc": numbers["bands"] > 0, "num_encodings": int(numbers["bands"]),
        "num_layers": int(numbers["layers"]), "num_neurons": int(numbers["width"]),
    }  # fmt: skip
    sampler = theirs.create_sampler(
        options, lambda values, point, _: {"point": point}, render, normalize, {}, gt_img=torch.zeros(1, 1, 1, 1)
    )
    proxy = theirs.NeuralProxy(options, normalize)
    steps = torch.optim.Adam([theta], lr=numbers["theta"])
    fits = torch.optim.Adam(proxy.parameters(), lr=numbers["phi"])
    start = best = loss(theta)
    evaluations, began, last = 0, time.process_time(), start
    curve, centers = [(0, start)], [(0, start)]
    while evaluations + 2 * options["batchsize"] <= BUDGETS[case]:
        drawn = sampler.sample(current_param=theta, kwargs=options)
        evaluations += 2 * options["batchsize"]
        for _ in range(int(numbers["k_theta"])):
            gradient = proxy(
                current_param=theta, samples=drawn["samples"], f_at_samples=drawn["f_at_samples"], kwargs=options
            )
            steps.zero_grad()
            theta.grad = gradient
            steps.step()
        for _ in range(int(numbers["k_phi"])):
            proxy.update(fits)
        last = loss(theta)
        best = min(best, last, float(drawn["f_at_samples"].min()))
        for kept, value in ((curve, best), (centers, last)):
            if value < THINNED * kept[-1][1]:
                kept.append((evaluations, value))
    seconds = time.process_time() - began
    print(f"{case}, {task['settings']}, seed {seed}: {start:.4g} -> {best:.4g}, {last:.4g} at the end", flush=True)
    return task | {
        "evaluations": evaluations,
        "start": f"{start:.6g}",
        "best": f"{best:.6g}",
        "last": f"{last:.6g}",
        "curve": ";".join(f"{count}:{value:.4g}" for count, value in curve),
        "centers": ";".join(f"{count}:{value:.4g}" for count, value in centers),
        "seconds": f"{seconds:.2f}",
        "version": package("torch"),
        "machine": machine(),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, help="where the released code is")
    light = [name for name in RELEASED if name != "mnist_weights"]  # of which an evaluation takes 0.2 s
    parser.add_argument("--cases", nargs="+", choices=RELEASED, default=light)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tuned", action="store_true", help="other sigmas and learning rates too")
    parser.add_argument("--out", type=Path, default=RESULTS / "zerograds.csv", help="continued where it is")
    given = parser.parse_args(arguments)
    if given.code is None or not (given.code / "models.py").exists():
        print("left out: pass --code with the folder of github.com/mfischer-ucl/zerograds")
        return
    sys.path.insert(0, str(given.code))
    names = ["as released"]
    if given.tuned:
        names += [f"sigma {sigma:g} rate {rate:g}" for sigma in SIGMAS for rate in RATES]
    results = Results(given.out, FIELDS, KEY)

    def tasks(names: Callable[[str], list[str]]) -> list[Row]:
        seeds = range(given.seeds)
        return [
            {"case": case, "settings": name, "seed": seed}
            for case in given.cases
            for name in names(case)
            for seed in seeds
        ]

    sweep(tasks(lambda case: names), run, results)
    for _ in range(MOST_ROUNDS if given.tuned else 0):
        done = len(results.rows)
        sweep(tasks(lambda case: beside(results.rows, case)), run, results)
        if len(results.rows) == done:
            break
    results.rewrite(results.rows)


if __name__ == "__main__":
    main()
