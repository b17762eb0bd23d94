"""Every method on every problem at equal evaluations, step sizes tuned for every method.

First every setting of a method's grid runs on seeds of its own (three where a run is cheap, one elsewhere), and then
those beside the best, until the best lies inside; then the best runs on the other seeds, which alone are reported. The
best is the one that reaches the furthest target, in the fewest evaluations; where none is reached, the lowest loss.
Interrupt it and call it again: it goes on where it was.

    OMP_NUM_THREADS=1 python benchmarks/suite.py --quick              # one seed, two settings, a tenth of the budget
    OMP_NUM_THREADS=1 python benchmarks/suite.py --cases toy rosenbrock --jobs 2
    OMP_NUM_THREADS=1 python benchmarks/suite.py --methods CMA-ES --redo         # again, after a change
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import machine, package
from _runner import GENERATED, RESULTS, STATIC, Results, Row, sweep, table, write
from _suite import CASES, METHODS, Settings
from torch import Tensor

import zograd as zo

TUNING_SEED = 1000
KEY = ["case", "method", "settings", "budget", "seed"]
FIELDS = [*KEY, "evaluations", "start", "best", "reached", "curve", "seconds", "error", "version", "machine"]
THINNED = 0.9
"""A curve keeps a best value when it is below this share of the one kept before."""
QUICK_SHARE = 10
MOST_ROUNDS = 12


class Watched(zo.BlackBox):
    """A program that remembers how low it was after how many evaluations.

    Args:
        box: The program, which takes the strategy's points.
        targets: Losses whose first evaluation is remembered.
    """

    def __init__(self, box: zo.BlackBox, targets: Sequence[float]) -> None:
        self.box, self.targets = box, targets
        self.evaluations, self.best = 0, math.inf
        self.reached: dict[float, int] = {}
        self.curve: list[tuple[int, float]] = []

    def __call__(self, points: Tensor) -> Tensor:
        """The values at ``points``."""
        values = self.box(points)
        losses = values.double() if values.ndim == 1 else values.double().square().flatten(1).mean(1)
        lowest = losses.nan_to_num(nan=math.inf).cummin(0).values.tolist()
        for target in self.targets:
            if target not in self.reached and lowest[-1] <= target:
                below = next(row for row, value in enumerate(lowest) if value <= target)
                self.reached[target] = self.evaluations + below + 1
        self.evaluations += len(points)
        self.best = min(self.best, lowest[-1])
        if not self.curve or self.best < THINNED * self.curve[-1][1]:
            self.curve.append((self.evaluations, self.best))
        return values


def run(task: Row) -> Row:
    """One method with one setting on one case."""
    torch.set_num_threads(1)
    case, seed, budget = CASES[task["case"]], int(task["seed"]), int(task["budget"])
    problem, parameters = case.start(seed)
    method = METHODS[task["method"]]
    fun = problem.residuals if method.outputs else problem.fun
    fun = fun if isinstance(fun, zo.BlackBox) else zo.pointwise(fun)
    start = problem.value(parameters.decode(parameters.initial))
    watched = Watched(fun.over(parameters), case.targets)  # type: ignore[attr-defined]
    began, error = time.process_time(), ""
    try:
        strategy = method.strategy(parameters, json.loads(task["settings"]), budget, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", zo.ZogradWarning)  # that settings of the grid see nothing, as some will
            for _ in zo.Run(strategy, watched, evaluations=budget, target=case.targets[-1]):
                pass
    except Exception as raised:  # what it saw before still counts, and the report says how many ended like this
        error = f"{type(raised).__name__}: {raised}"[:200]
    seconds = time.process_time() - began
    print(
        f"{task['case']}, {task['method']} {task['settings']}, seed {seed}: {start:.3g} -> {watched.best:.3g} "
        f"in {watched.evaluations} evaluations, {seconds:.1f} s {error}",
        flush=True,
    )
    return task | {
        "evaluations": watched.evaluations,
        "start": f"{start:.6g}",
        "best": f"{watched.best:.6g}",
        "reached": json.dumps({f"{target:g}": count for target, count in watched.reached.items()}),
        "curve": ";".join(f"{count}:{value:.4g}" for count, value in watched.curve),
        "seconds": f"{seconds:.2f}",
        "error": error,
        "version": f"{package('zograd')}, {package('torch')}",
        "machine": machine(),
    }


def score(row: Row, targets: Sequence[float]) -> tuple[float, ...]:
    """Lower is better: targets missed, evaluations to the last one reached, the best loss."""
    reached = [json.loads(row["reached"]).get(f"{target:g}") for target in targets]
    known = [count for count in reached if count is not None]
    return (len(targets) - len(known), known[-1] if known else math.inf, float(row["best"]))


def text_of(settings: Settings) -> str:
    """Settings as they stand in the file."""
    return json.dumps(settings, sort_keys=True)


def best_settings(rows: Iterable[Row], case: str, method: str, budget: int) -> str | None:
    """The setting of the grid that did best on the tuning seeds; ``None`` before one was tried."""
    scores: dict[str, list[tuple[float, ...]]] = {}
    for row in rows:
        if (row["case"], row["method"], row["budget"]) == (case, method, str(budget)) and is_tuning(row):
            scores.setdefault(row["settings"], []).append(score(row, CASES[case].targets))

    def order(name: str) -> tuple[Any, ...]:
        # Where all is alike, as on a plateau, the grid grows towards wider spreads; and never by the order of the rows.
        return (*np.mean(scores[name], axis=0), -json.loads(name).get("spread", 0.0), name)

    return min(scores, key=order, default=None)


def is_tuning(row: Row) -> bool:
    """Whether a run was made to choose a setting, and is not reported."""
    return int(row["seed"]) >= TUNING_SEED


def measure(
    results: Results, cases: Sequence[str], methods: Sequence[str], seeds: int | None, quick: bool, jobs: int
) -> None:
    """Tune, then repeat the best with other seeds: as many as each case wants, where no number is given."""
    pairs = [
        {"case": case, "method": method, "budget": CASES[case].budget // (QUICK_SHARE if quick else 1)}
        for case in cases
        for method in methods
        if METHODS[method].meant_for(CASES[case])
    ]

    def tried(pair: Row, settings: Settings) -> list[Row]:
        count = 1 if quick or not settings else CASES[pair["case"]].tunings
        return [pair | {"settings": text_of(settings), "seed": TUNING_SEED + number} for number in range(count)]

    grid = [
        task
        for pair in pairs
        for settings in METHODS[pair["method"]].grid(CASES[pair["case"]], quick)
        for task in tried(pair, settings)
    ]
    for number in range(1 if quick else MOST_ROUNDS):
        done = len(results.rows)
        sweep(grid, run, results, jobs)
        if number > 0 and len(results.rows) == done:  # the first may all be known, and yet have no neighbours
            break
        grid = [
            task
            for pair in pairs
            if (best := best_settings(results.rows, **pair)) is not None
            for settings in METHODS[pair["method"]].beside(CASES[pair["case"]], json.loads(best))
            for task in tried(pair, settings)
        ]
    repeated = [
        pair | {"settings": best, "seed": seed}
        for pair in pairs
        for seed in range(seeds or CASES[pair["case"]].seeds)
        if (best := best_settings(results.rows, **pair)) is not None
    ]
    sweep(repeated, run, results, jobs)


def chosen_rows(rows: Sequence[Row], case: str, method: str, budget: int) -> list[Row]:
    """The reported runs of a method: its best setting, on all seeds but those it was tuned on."""
    wanted = (case, method, best_settings(rows, case, method, budget), str(budget))
    return [
        row
        for row in rows
        if (row["case"], row["method"], row["settings"], row["budget"]) == wanted and not is_tuning(row)
    ]


def evaluations_to(rows: Sequence[Row], target: float) -> np.ndarray:
    """Evaluations to a target, infinity where it was missed."""
    return np.array([json.loads(row["reached"]).get(f"{target:g}", math.inf) for row in rows], float)


def quartiles(numbers: np.ndarray) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile, by rank, so that infinity is allowed."""
    return tuple(np.quantile(numbers, [0.25, 0.5, 0.75], method="nearest").tolist())


def shown(numbers: np.ndarray, missed: str = "-") -> str:
    """Median and quartiles, and how many of the runs failed."""
    low, middle, high = (missed if math.isinf(number) else f"{number:.3g}" for number in quartiles(numbers))
    failed = int(np.isinf(numbers).sum())
    return f"{middle} [{low}, {high}]" + (f", {failed} of {len(numbers)} missed" if 0 < failed < len(numbers) else "")


def report(rows: Sequence[Row], budgets: dict[str, int], reference: Sequence[Row]) -> str:
    """One table a case, as Markdown."""
    parts = ["<!-- made by benchmarks/suite.py -->\n"]
    for case, budget in budgets.items():
        targets = CASES[case].targets
        lines: list[list[Any]] = []
        for method in METHODS:
            runs = chosen_rows(rows, case, method, budget)
            if runs:
                settings = json.loads(runs[0]["settings"])
                said = ", ".join(f"{name} {value:g}" for name, value in settings.items())
                errors = sum(bool(row["error"]) for row in runs)
                last = shown(np.array([float(row["best"]) for row in runs]))
                lines.append(
                    [
                        method,
                        said or "-",
                        *(shown(evaluations_to(runs, target)) for target in targets),
                        last + (f", {errors} ended by an error" if errors else ""),
                        f"{np.median([float(row['seconds']) for row in runs]):.3g}",
                    ]
                )
        for name in sorted({row["settings"] for row in reference if row["case"] == case}):
            runs = [row for row in reference if (row["case"], row["settings"]) == (case, name)]
            counts = (shown(np.array([reached_at(row, target) for row in runs])) for target in targets)
            last = shown(np.array([float(row["best"]) for row in runs]))
            spent = f"{int(runs[0]['evaluations']):,} evaluations"
            lines.append([f"ZeroGrads, {name}", spent, *counts, last, f"{float(runs[0]['seconds']):.3g}"])
        if lines:
            seeds = len({row["seed"] for row in rows if row["case"] == case and not is_tuning(row)})
            header = ["method", "settings", *(f"to {target:g}" for target in targets), "best", "s"]
            parts += [
                f"### {case}: {budget:,} evaluations, {seeds} seed{'s' if seeds > 1 else ''}\n",
                table(header, lines),
            ]
    names = [*sorted({row["machine"] for row in rows}), *sorted({row["version"] for row in rows})]
    return "\n".join([*parts, "### Machine and versions\n", "".join(f"- {name}\n" for name in names)])


def reached_at(row: Row, target: float) -> float:
    return next((float(count) for count, value in points_of(row) if value <= target), math.inf)


def points_of(row: Row) -> list[tuple[float, float]]:
    """A row's curve: evaluations and the best so far."""
    pairs = [point.split(":") for point in row["curve"].split(";") if point]
    return [(float(count), float(value)) for count, value in pairs]


def picture(rows: Sequence[Row], budgets: dict[str, int], reference: Sequence[Row], path: Path) -> None:
    """Median and quartiles of the best so far over evaluations, one panel a case."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    colors = dict(zip(METHODS, (*colormaps["tab10"].colors, "#1d3557"), strict=True))  # type: ignore[attr-defined]
    across = min(3, len(budgets))
    down = -(-len(budgets) // across)
    figure = Figure(figsize=(4.6 * across, 3.3 * down + 0.6), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for panel in panels[len(budgets) :]:
        panel.axis("off")
    drawn: dict[str, Any] = {}
    for panel, (case, budget) in zip(panels, budgets.items(), strict=False):
        places = np.geomspace(2, budget, 120)
        floor = max(CASES[case].targets[-1], min(t for t in CASES[case].targets if t > 0) / 30)
        for method, color in colors.items():
            runs = chosen_rows(rows, case, method, budget)
            if runs:
                low, middle, high = np.quantile([_best_at(row, places) for row in runs], [0.25, 0.5, 0.75], axis=0)
                (drawn[method],) = panel.plot(places, np.maximum(middle, floor), color=color, linewidth=1.6)
                panel.fill_between(places, np.maximum(low, floor), np.maximum(high, floor), color=color, alpha=0.15)
        runs = [row for row in reference if (row["case"], row["settings"]) == (case, "as released")]
        if runs:
            middle = np.median([_best_at(row, places) for row in runs], axis=0)
            (drawn["ZeroGrads, as released"],) = panel.plot(places, np.maximum(middle, floor), "k--", linewidth=1.2)
        for target in CASES[case].targets:
            panel.axhline(max(target, floor), color="#b0b8c0", linewidth=0.7, linestyle=":")
        panel.set(title=case, xscale="log", yscale="log", xlabel="evaluations", ylabel="best loss so far")
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"wrote {path.name}")


def _best_at(row: Row, places: np.ndarray) -> np.ndarray:
    """The best value so far at so many evaluations; the value at the start before the first."""
    counts, values = zip(*[(0.0, float(row["start"])), *points_of(row)], strict=True)
    return np.minimum.accumulate(values)[np.searchsorted(counts, places, side="right") - 1]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    light = [name for name, case in CASES.items() if not case.heavy]
    parser.add_argument("--cases", nargs="+", choices=CASES, default=light)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, help="after tuning; those of the case, or 1 with --quick")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one core each")
    parser.add_argument("--quick", action="store_true", help="1 seed, two settings a method, a tenth of the budget")
    parser.add_argument("--out", type=Path, help="the CSV file, continued where it is")
    parser.add_argument("--reference", type=Path, default=RESULTS / "zerograds.csv", help="made by zerograds.py")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--redo", action="store_true", help="forget the rows of these cases and methods first")
    parser.add_argument("--only-report", action="store_true", help="of whatever rows there are")
    given = parser.parse_args(arguments)

    ending = "_quick" if given.quick else ""
    out = given.out or RESULTS / f"suite{ending}.csv"
    results = Results(out, FIELDS, KEY)
    if given.redo:
        results.rewrite(
            row for row in results.rows if row["case"] not in given.cases or row["method"] not in given.methods
        )
    if not given.only_report:
        seeds = given.seeds or (1 if given.quick else None)
        measure(results, given.cases, given.methods, seeds, given.quick, given.jobs)
        results.rewrite(results.rows)
    measured = {row["case"] for row in results.rows}
    budgets = {
        name: case.budget // (QUICK_SHARE if given.quick else 1) for name, case in CASES.items() if name in measured
    }
    reference = Results(given.reference, [], []).rows
    write(given.report or GENERATED / f"suite{ending}.md", report(results.rows, budgets, reference))
    if budgets:
        picture(results.rows, budgets, reference, given.picture or STATIC / f"suite{ending}.png")


if __name__ == "__main__":
    main()
