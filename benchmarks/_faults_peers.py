"""Sixteen rows with two workers through zograd's peers, as their users would write it, with the limit that each has."""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from _faults import LIMIT_SECONDS, ROWS, WORKERS, Faulty
from _faults_setups import HIGH, LOW, START, Held, Setup, nothing


def _warmed(executor: Any) -> None:
    list(executor.map(nothing, range(WORKERS)))


def plain_pool(fun: Faulty, held: Held) -> None:
    held.numbered = True
    with ProcessPoolExecutor(WORKERS) as executor:
        _warmed(executor)
        held.begin()
        futures = [executor.submit(fun.row, [row]) for row in range(ROWS)]
        for row, future in enumerate(futures):
            try:
                held.keep(row, future.result(timeout=LIMIT_SECONDS))
            except TimeoutError:
                held.statuses[row] = "timeout"
            except BrokenProcessPool:
                held.statuses[row] = "crashed"
            except Exception:
                held.statuses[row] = "failed"


def pebble_pool(fun: Faulty, held: Held) -> None:
    from pebble import ProcessExpired, ProcessPool

    held.numbered = True
    with ProcessPool(max_workers=WORKERS) as pool:
        for future in [pool.schedule(nothing, args=[0]) for _ in range(WORKERS)]:
            future.result()
        held.begin()
        futures = [pool.schedule(fun.row, args=[[row]], timeout=LIMIT_SECONDS) for row in range(ROWS)]
        for row, future in enumerate(futures):
            try:
                held.keep(row, future.result())
            except TimeoutError:
                held.statuses[row] = "timeout"
            except ProcessExpired:
                held.statuses[row] = "crashed"
            except Exception:
                held.statuses[row] = "failed"


def joblib(fun: Faulty, held: Held) -> None:
    from joblib import Parallel, delayed

    held.numbered = True
    Parallel(n_jobs=WORKERS)(delayed(nothing)(0) for _ in range(WORKERS))  # its workers are kept
    with Parallel(n_jobs=WORKERS, timeout=LIMIT_SECONDS) as parallel:
        held.begin()
        for row, value in enumerate(parallel(delayed(fun.row)([row]) for row in range(ROWS))):
            held.keep(row, value)


def adaptive(fun: Faulty, held: Held) -> None:
    from adaptive import BlockingRunner, SequenceLearner

    held.numbered = True
    learner = SequenceLearner(fun.row, [(float(row),) for row in range(ROWS)])

    def collect() -> None:
        for row, value in learner.data.items():
            held.keep(row, value)

    held.collect = collect
    with ProcessPoolExecutor(WORKERS) as executor:
        _warmed(executor)
        held.begin()
        end = time.monotonic() + LIMIT_SECONDS
        runner = BlockingRunner(
            learner,
            goal=lambda learner: learner.done() or time.monotonic() > end,
            executor=executor,
            retries=0,
            raise_if_retries_exceeded=False,
        )
        held.statuses |= dict.fromkeys((place for (place, _), _ in runner.tracebacks), "failed")


def nevergrad(fun: Faulty, held: Held) -> None:
    import nevergrad as ng

    space = ng.p.Array(init=START).set_bounds(LOW, HIGH)
    search = ng.optimizers.TwoPointsDE(parametrization=space, budget=ROWS, num_workers=WORKERS)
    search.register_callback("tell", lambda search, candidate, loss: held.values.append(loss))
    with ProcessPoolExecutor(WORKERS) as executor:
        _warmed(executor)
        held.begin()
        search.minimize(fun.ordered, executor=executor, batch_mode=False, max_time=LIMIT_SECONDS)


def pycma(fun: Faulty, held: Held) -> None:
    import cma

    search = cma.CMAEvolutionStrategy(START, 2.0, {"bounds": [LOW, HIGH], "popsize": ROWS, "verbose": -9, "seed": 1})
    with cma.optimization_tools.EvalParallel2(fun.ordered, WORKERS) as evaluate:
        points = search.ask()
        held.begin()
        values = evaluate(points, timeout=LIMIT_SECONDS)
        search.tell(points, values)
        held.values = values


def optuna_threads(fun: Faulty, held: Held) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    held.collect = lambda: _optuna(study, held)
    held.begin()
    study.optimize(
        lambda trial: fun.ordered([trial.suggest_float(name, LOW, HIGH) for name in "xy"]),
        n_trials=ROWS,
        n_jobs=WORKERS,
        timeout=LIMIT_SECONDS,
        catch=(Exception,),
    )


def _optuna(study: Any, held: Held) -> None:
    for trial in study.trials:
        if trial.state.name == "COMPLETE":
            held.keep(trial.number, trial.value)
        elif trial.state.name == "FAIL":
            held.statuses[trial.number] = "failed"


def _optuna_worker(fun: Faulty) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    study = optuna.load_study(study_name="study", storage=_journal(fun))
    study.optimize(
        lambda trial: fun.ordered([trial.suggest_float(name, LOW, HIGH) for name in "xy"]),
        n_trials=ROWS // WORKERS,
        timeout=LIMIT_SECONDS,
        catch=(Exception,),
    )


def _journal(fun: Faulty) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(os.path.join(fun.folder, "journal.log")))


def optuna_processes(fun: Faulty, held: Held) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    study = optuna.create_study(study_name="study", storage=_journal(fun))
    held.collect = lambda: _optuna(study, held)
    held.begin()
    workers = [multiprocessing.Process(target=_optuna_worker, args=[fun]) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def pymoo(fun: Faulty, held: Held) -> None:
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.problem import ElementwiseProblem
    from pymoo.optimize import minimize
    from pymoo.parallelization import StarmapParallelization

    global Problem  # the pool's processes look it up by its name

    class Problem(ElementwiseProblem):
        def _evaluate(self, x: Any, out: dict[str, Any], *_: Any, **__: Any) -> None:
            out["F"] = fun.ordered(x)

    Problem.__qualname__ = "Problem"
    with multiprocessing.Pool(WORKERS) as pool:
        runner = StarmapParallelization(pool.starmap)
        held.begin()
        problem = Problem(n_var=2, n_obj=1, xl=LOW, xu=HIGH, elementwise_runner=runner)
        found = minimize(problem, GA(pop_size=ROWS), ("n_gen", 1), seed=1)
        held.values = found.pop.get("F").ravel().tolist()


def zoopt(fun: Faulty, held: Held) -> None:
    from zoopt import Dimension, Objective, Opt, Parameter

    objective = Objective(fun.ordered, Dimension(2, [[LOW, HIGH]] * 2, [True] * 2))
    held.begin()
    found = Opt.min(
        objective,
        Parameter(budget=ROWS, time_budget=LIMIT_SECONDS, parallel=True, server_num=WORKERS, seed=1),
    )
    held.values = [*objective.get_history(), found.get_value()]


def scipy(fun: Faulty, held: Held) -> None:
    from scipy.optimize import differential_evolution

    held.begin()
    found = differential_evolution(
        fun.ordered,
        [(LOW, HIGH)] * len(START),
        popsize=ROWS // len(START),
        maxiter=0,
        polish=False,
        workers=WORKERS,
        updating="deferred",
    )
    held.values = found.population_energies.tolist()


PEERS: dict[str, tuple[Setup, str, str]] = {
    "nevergrad": (nevergrad, "nevergrad", "`max_time` of the whole"),
    "pycma, EvalParallel2": (pycma, "cma", "`timeout` of a result"),
    "Optuna, threads": (optuna_threads, "optuna", "`timeout` of the study"),
    "Optuna, processes": (optuna_processes, "optuna", "`timeout` of the study"),
    "pymoo, starmap": (pymoo, "pymoo", "none"),
    "zoopt": (zoopt, "zoopt", "`time_budget` of the whole"),
    "SciPy DE": (scipy, "scipy", "none"),
    "adaptive": (adaptive, "adaptive", "a `goal` of the whole"),
    "joblib": (joblib, "joblib", "`timeout` of a result"),
    "ProcessPoolExecutor": (plain_pool, "", "`timeout` of a result"),
    "pebble": (pebble_pool, "pebble", "`timeout` of a call"),
}
"""Each with its package (none for the standard library) and the time limit it was given."""
