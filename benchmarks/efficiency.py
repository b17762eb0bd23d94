"""How much of two cores two workers use: zograd and its peers, against two processes that need not talk to anybody.

One evaluation takes 10 ms or 1 ms, of the processor (busy) or of nothing (asleep). A method's efficiency is the time
of the ideal over its own, for as many evaluations: two plain processes that count down one number in shared memory.
The ideal is measured right before and right after each method, so that the ratio holds on a machine that has other
things to do. The processor time of all processes is compared in the same way: it depends less on the neighbours. What
it takes to have the workers is apart.

    OMP_NUM_THREADS=1 python benchmarks/efficiency.py
"""

import argparse
import contextlib
import functools
import itertools
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _machine import installed, machine, package
from _runner import GENERATED, RESULTS, Results, Row, sweep, table, write

WORKERS, DIMENSION = 2, 10
EVALUATIONS = {10: 40, 1: 200}
TARGETS = {10: 95, 1: 85}
KEY = ["kind", "milliseconds", "method", "repeat"]
FIELDS = [
    *KEY, "evaluations", "seconds", "ideal_seconds", "efficiency", "processor", "start_seconds", "version", "machine",
]  # fmt: skip

Times = tuple[int, float, float]
"""Evaluations, the seconds that they took, and the processor time of all processes (NaN where some have ended)."""


class Work:
    """A function that takes a known time; its value is Rosenbrock's, for those who want to minimise it.

    Args:
        kind: ``"busy"`` or ``"asleep"``.
        seconds: How long.
    """

    def __init__(self, kind: str, seconds: float) -> None:
        self.kind, self.seconds = kind, seconds

    def __call__(self, x: Any = (0.0,)) -> float:
        """The value."""
        if self.kind == "asleep":
            time.sleep(self.seconds)
        else:
            end = time.thread_time() + self.seconds
            while time.thread_time() < end:
                pass
        points = [float(entry) for entry in x]
        return sum((1 - a) ** 2 + 100 * (b - a * a) ** 2 for a, b in itertools.pairwise(points))


def several(work: Work) -> None:
    """As long as there is something left."""
    while True:
        with LEFT.get_lock():
            if LEFT.value <= 0:
                return
            LEFT.value -= 1
        work()


LEFT = multiprocessing.get_context("fork").Value("q", 0)


@functools.cache
def plain_pool(*, apart: bool = False) -> ProcessPoolExecutor:
    """Two processes of the standard library's, forked before anything else is there.

    Args:
        apart: Whether each has a session of its own, as the workers of some libraries have: Linux may share the
            processor among sessions first, and on a crowded machine that is worth more than all else.
    """
    pool = ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork"), initializer=os.setsid if apart else None)
    list(pool.map(time.sleep, [0.1] * WORKERS))
    return pool


def ideal(work: Work, evaluations: int, *, apart: bool) -> tuple[float, float]:
    """Seconds, and those of the processor, of two processes that take what is left and tell nobody anything."""
    LEFT.value = evaluations
    return timed(lambda: list(plain_pool(apart=apart).map(several, [work] * WORKERS)))


def spent_by_others() -> float:
    """Seconds of the processor that the descendants of this process have had."""
    seconds = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                seconds += int((thread / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9
    return seconds


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and those of the processor that this process and its descendants had."""
    others, own, began = spent_by_others(), time.process_time(), time.perf_counter()
    work()
    ended, own = time.perf_counter(), time.process_time() - own
    return ended - began, own + spent_by_others() - others


@functools.cache
def zograd_workers() -> Any:
    import zograd as zo

    return zo.Pool(workers=WORKERS)


def _wave(rows: int) -> Any:
    import torch

    import zograd as zo

    return [zo.Probes(torch.zeros(DIMENSION, dtype=torch.float64), zo.Dense(torch.zeros(rows, DIMENSION)))]


def pool(work: Work, evaluations: int) -> Times:
    import zograd as zo

    stream = zograd_workers().stream
    # What an evaluation costs is learned from the first ones, whoever is asked.
    return evaluations, *timed(lambda: list(stream(zo.pointwise(work), _wave(evaluations))))


def pool_starts() -> float:
    import zograd as zo

    return timed(lambda: list(zograd_workers().stream(zo.pointwise(Work("asleep", 0.2)), _wave(WORKERS))))[0]


def minimize(work: Work, evaluations: int) -> Times:
    """From the end of its first step, which has to wait for the workers, until most of it is done."""
    import zograd as zo

    seen: list[Times] = []
    evaluations = max(evaluations, 20 * DIMENSION)  # with fewer it takes other steps

    def callback(result: Any) -> bool:
        done = result.nfev >= 0.8 * evaluations
        own, now = time.process_time(), time.perf_counter()
        if done:
            seen.append((result.nfev, now, own + spent_by_others()))
        elif not seen:
            others = spent_by_others()
            seen.append((result.nfev, time.perf_counter(), time.process_time() + others))
        return done

    given = {"bounds": (-5, 5), "evaluations": evaluations, "workers": WORKERS}
    zo.minimize(work, np.full(DIMENSION, 3.0), callback=callback, **given)
    evaluated, seconds, processor = np.subtract(seen[-1], seen[0])
    return int(evaluated), seconds, processor


def minimize_starts() -> float:
    import zograd as zo

    return timed(lambda: zo.minimize(Work("asleep", 0.0), np.ones(DIMENSION), evaluations=WORKERS, workers=WORKERS))[0]


def joblib(work: Work, evaluations: int) -> Times:
    from joblib import Parallel, delayed

    calls = (delayed(work)() for _ in range(evaluations))
    return evaluations, *timed(lambda: Parallel(n_jobs=WORKERS)(calls))


def joblib_starts() -> float:
    return joblib(Work("asleep", 0.2), WORKERS)[1]


def plain(work: Work, evaluations: int) -> Times:
    points = np.zeros((evaluations, DIMENSION))
    return evaluations, *timed(lambda: list(plain_pool(apart=False).map(work, points, chunksize=1)))


def _objective(work: Work, trial: Any) -> float:
    return work([trial.suggest_float(f"x{place}", -5, 5) for place in range(DIMENSION)])


def _study(**given: Any) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(), study_name="study", **given)


def optuna_threads(work: Work, evaluations: int) -> Times:
    study = _study()
    objective = functools.partial(_objective, work)
    return evaluations, *timed(lambda: study.optimize(objective, evaluations, n_jobs=WORKERS))


def optuna_processes(work: Work, evaluations: int) -> Times:
    """From the start of the first trial to the end of the last: its workers are there by then."""
    with tempfile.TemporaryDirectory() as folder:
        study = _study(storage=_journal(folder))
        given = (folder, work, evaluations // WORKERS)
        fresh = multiprocessing.get_context("spawn")  # the others have threads in this process by now
        workers = [fresh.Process(target=_optuna_worker, args=given) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        trials = study.trials
    lasted = max(trial.datetime_complete for trial in trials) - min(trial.datetime_start for trial in trials)
    return len(trials), lasted.total_seconds(), float("nan")


def _optuna_worker(folder: str, work: Work, trials: int) -> None:
    study = _study(storage=_journal(folder), load_if_exists=True)
    study.optimize(functools.partial(_objective, work), trials)


def _journal(folder: str) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(f"{folder}/journal.log"))


def nevergrad(work: Work, evaluations: int) -> Times:
    import nevergrad as ng

    space = ng.p.Array(init=np.full(DIMENSION, 3.0)).set_bounds(-5, 5)
    search = ng.optimizers.TwoPointsDE(parametrization=space, budget=evaluations, num_workers=WORKERS)
    return evaluations, *timed(lambda: search.minimize(work, executor=plain_pool(apart=False), batch_mode=False))


def no_start() -> float:
    return float("nan")


def plain_starts() -> float:
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork")) as executor:
        return timed(lambda: list(executor.map(Work("asleep", 0.2), np.zeros((WORKERS, DIMENSION)))))[0]


METHODS: dict[str, tuple[Callable[[Work, int], Times], str, Callable[[], float]]] = {
    "zograd Pool, 2 processes": (pool, "zograd", pool_starts),
    "zograd minimize, workers=2": (minimize, "zograd", minimize_starts),
    "joblib, 2 processes": (joblib, "joblib", joblib_starts),
    "Optuna, 2 threads": (optuna_threads, "optuna", no_start),
    "Optuna, 2 processes": (optuna_processes, "optuna", no_start),
    "nevergrad, ProcessPoolExecutor": (nevergrad, "nevergrad", plain_starts),
    "ProcessPoolExecutor.map, chunksize=1": (plain, "numpy", plain_starts),
}
"""Each with its package, and what it takes to have its workers and two evaluations."""


@functools.cache
def started(method: str) -> float:
    """Seconds until the workers are there; the first time only, for some are kept. The 0.2 s of the work are off."""
    seconds = METHODS[method][2]()
    return seconds if method.startswith("zograd minimize") else seconds - 0.2


def run(task: Row) -> Row:
    """One method between two measurements of the ideal."""
    apart = task["method"].startswith("zograd")
    plain_pool(apart=False), plain_pool(apart=True)
    first = started(task["method"])
    work, evaluations = Work(task["kind"], task["milliseconds"] / 1000), EVALUATIONS[task["milliseconds"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = ideal(work, evaluations, apart=apart)
        done, seconds, processor = METHODS[task["method"]][0](work, evaluations)
        after = ideal(work, evaluations, apart=apart)
    due, least = (np.array(before) + after) / 2 * done / evaluations
    useful = 100 * least / processor if task["kind"] == "busy" else np.nan
    print(*(task[column] for column in KEY), f"{100 * due / seconds:.1f} %, {useful:.1f} %", flush=True)
    return task | {
        "evaluations": done,
        "seconds": f"{seconds:.4f}",
        "ideal_seconds": f"{due:.4f}",
        "efficiency": f"{100 * due / seconds:.2f}",
        "processor": "" if np.isnan(useful) else f"{useful:.2f}",
        "start_seconds": "" if np.isnan(first) else f"{first:.2f}",
        "version": f"{package(METHODS[task['method']][1])}, {package('numpy')}",
        "machine": machine(),
    }


def quartiles(rows: list[Row], column: str, **where: str) -> str:
    """Median and quartiles over the repeats."""
    values = [float(r[column]) for r in rows if r[column] and all(r[key] == value for key, value in where.items())]
    if not values:
        return ""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def report(rows: list[Row]) -> str:
    """The tables, as Markdown."""
    cases = [(kind, str(length)) for kind in ("busy", "asleep") for length in EVALUATIONS]
    body = [
        [
            name,
            *(quartiles(rows, "efficiency", method=name, kind=kind, milliseconds=length) for kind, length in cases),
            *(quartiles(rows, "processor", method=name, kind="busy", milliseconds=str(each)) for each in EVALUATIONS),
            quartiles(rows, "start_seconds", method=name),
        ]
        for name in METHODS
        if any(row["method"] == name for row in rows)
    ]
    repeats = 1 + max(int(row["repeat"]) for row in rows)
    aims = " and ".join(f"{aim} % at {length} ms" for length, aim in TARGETS.items())
    names = [*sorted({row["machine"] for row in rows}), *sorted({row["version"] for row in rows})]
    return "\n".join(
        [
            "<!-- made by benchmarks/efficiency.py -->\n",
            "Percent of the ideal: two processes that count down one number in shared memory and tell nobody anything. "
            f"Medians and quartiles of {repeats} repeats in one process, each between two measurements of the ideal. "
            f"The aim is {aims}. Busy evaluations compute, the others sleep; d = {DIMENSION} where there is an "
            "optimiser, and `minimize` has waves of one row among its own, which no second worker can help with.\n\n"
            "The machine had other things to do, and the quartiles say how much. The processor's columns depend less "
            "on that: the processor time of all processes of the ideal over that of the method's, for busy ones.\n",
            table(
                [
                    "",
                    *(f"{kind}, {length} ms" for kind, length in cases),
                    *(f"processor, {each} ms" for each in EVALUATIONS),
                    "start of the workers, s",
                ],
                body,
            ),
            "### Machine and versions\n",
            "".join(f"- {name}\n" for name in names),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "efficiency.csv", help="continued where it is")
    parser.add_argument("--report", type=Path, default=GENERATED / "efficiency.md")
    parser.add_argument("--redo", action="store_true", help="forget the rows of these methods first")
    given = parser.parse_args(arguments)

    results = Results(given.out, FIELDS, KEY)
    if given.redo:
        results.rewrite(row for row in results.rows if row["method"] not in given.methods)
    methods = installed(METHODS, given.methods)
    tasks = [
        {"kind": kind, "milliseconds": length, "method": method, "repeat": repeat}
        for repeat in range(given.repeats)
        for kind in ("busy", "asleep")
        for length in EVALUATIONS
        for method in methods
    ]
    sweep(tasks, run, results)
    results.rewrite(results.rows)
    write(given.report, report(results.rows))


if __name__ == "__main__":
    main()
