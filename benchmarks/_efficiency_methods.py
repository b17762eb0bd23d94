"""Ways to have many evaluations done by two workers, each with its own measure of time, and the ideal."""

import contextlib
import functools
import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

WORKERS, DIMENSION = 2, 10

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
    # What an evaluation costs is learned from the first ones, whoever is asked. Points are arrays, as for the peers.
    box = zo.pointwise(work).over(zo.Parameters(np.zeros(DIMENSION)))
    return evaluations, *timed(lambda: list(stream(box, _wave(evaluations))))


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
