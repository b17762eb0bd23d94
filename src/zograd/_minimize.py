"""`minimize`: SciPy's habits for programs that have no gradient."""

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from zograd._checks import require
from zograd._errors import EvaluationError, RunError
from zograd._history import Steps
from zograd._interrupt import Terminated, interruptible
from zograd._parameters import Parameters
from zograd._record import read_run
from zograd._result import Result
from zograd._run import Run
from zograd._telling import telling
from zograd.blackbox import BlackBox, FunctionBox, as_blackbox
from zograd.estimators import GradientEstimator
from zograd.evaluate import NAME, FailurePolicy, Journal, Pool, evaluator_for, failure_policy
from zograd.strategies import Chooser, OptimizerFactory, SchedulerFactory, Strategy, StrategyFactory

ENDINGS = {
    "budget": (0, "The budget of {budget} evaluations is spent ({nfev} used)."),
    "target": (1, "The target {target} is reached after {nfev} evaluations."),
    "time": (2, "The time limit of {max_time} s is reached after {nfev} evaluations."),
    "callback": (3, "The callback asked to stop after {nfev} evaluations."),
    "interrupted": (-1, "Interrupted by the user after {nfev} evaluations; this is the best so far."),
    "terminated": (-1, "Terminated by a signal after {nfev} evaluations; this is the best so far."),
}


def minimize(
    fun: BlackBox | Callable[[Any], Any],
    x0: Any,
    *,
    evaluations: int = 1000,
    estimator: GradientEstimator | None = None,
    optimizer: OptimizerFactory | None = None,
    scheduler: SchedulerFactory | None = None,
    strategy: StrategyFactory | None = None,
    bounds: Any = None,
    scale: Any = None,
    integers: Any = None,
    choices: Any = None,
    max_time: float | None = None,
    target: float | None = None,
    callback: Callable[[Result], Any] | None = None,
    on_failure: str | FailurePolicy = "drop",
    max_lost: float | None = None,
    workers: int | None = None,
    timeout: float | None = None,
    executor: Executor | None = None,
    run: str | os.PathLike[str] | None = None,
    seed: int = 0,
    common_random_numbers: bool = False,
    progress: bool | None = None,
) -> Result:
    """Minimise a program, from its values alone.

    With neither ``estimator`` nor ``optimizer`` given, both are chosen from the dimension, the budget and the
    bounds, there is no learning rate to tune, and the choice is said in ``result.message``.

    Cost: at most ``evaluations`` evaluations of the program, never one more.

    Args:
        fun: A function of one point that returns a number; or `batched`, `torch_function`, or any `BlackBox`.
        x0: Where to start: a number, tensor, array, a (nested) dict or list of them, or `Parameters`. ``fun``
            takes, and ``result.x`` is, the same structure.
        evaluations: The budget: how often the program may be run.
        estimator: Where to look and what to conclude, such as ``zo.RandomGradient(samples=8)``.
        optimizer: Any ``torch.optim`` class or `functools.partial` of one, or a rule of `zograd.optim`.
        scheduler: A learning-rate scheduler's class or partial, stepped once a gradient.
        strategy: In place of all three: a `Strategy` class or partial, called with the parameters and ``seed=``, such
            as ``zograd.strategies.CMAES``.
        bounds: SciPy's forms: one pair, a sequence of pairs, ``scipy.optimize.Bounds``, or a structure like
            ``x0``. The program never sees a point outside them.
        scale: ``"log"``, or the length of one unit, for all or in a structure like ``x0``; see `Parameters`.
        integers: Names of the parameters that are whole numbers; see `Parameters`.
        choices: Options of the parameters that are one of several; see `Parameters`.
        max_time: Stop after so many seconds.
        target: Stop at the first value at or below this.
        callback: Called after every step with the `Result` so far; returning ``True`` or raising
            ``StopIteration`` stops.
        on_failure: What becomes of NaN, inf, an exception, or anything that is not one number: ``"drop"`` leaves
            it out, ``"raise"`` stops, ``zo.value(x)`` counts it as x.
        max_lost: The share of the last 100 evaluations that may be lost before the run stops with an error that holds
            the best so far; 1 never stops. By default 0.9, and 1 with ``zo.value(x)``.
        workers: How many evaluations run at a time, each in a process of its own that may hang or crash (`Pool`);
            threads for a `Program`. Any number gives the same result. In this process by default.
        timeout: Seconds an evaluation may take; it is then ended with all that it started, and lost.
        executor: Any ``concurrent.futures.Executor`` for the evaluations, such as Dask's or loky's.
        run: A directory for a durable run: one file keeps every evaluation as it finishes. Where there is a run with
            the same configuration already, it goes on, whatever ended it, and the result is that of a run that was
            never interrupted; only ``evaluations``, ``max_time``, ``target``, ``max_lost`` and who evaluates may be
            others. See `Run`.
        seed: Same seed, same program: same result, bit for bit.
        common_random_numbers: For a noisy program: the two sides of a mirrored pair of probes draw the same random
            numbers (``{seed}`` and ``ZOGRAD_SEED`` of a `Program`; ``random``, NumPy's and torch's global generators),
            so that what the noise has in common is not in their difference; every other evaluation draws its own.
        progress: ``True`` shows a progress line with the best value and how good the gradients are (signal-to-noise
            S/N, or R² of a surrogate's forecast), ``False`` none; by default one appears on a terminal after two
            seconds.

    Returns:
        The best point seen (not the last) and how it was found.

    Raises:
        ArgumentError: When an argument is wrong: what must hold, what was found, what to do.
        EvaluationError: When every evaluation of a step was lost, or more than ``max_lost`` of the last 100, or the
            first with ``on_failure="raise"``; its ``result`` holds the best so far.
        RunError: When the run there has another configuration or another writer, or its file is damaged beyond
            reading or cannot be written; its ``result`` holds the best so far.

    Example:
        >>> import zograd as zo
        >>> def program(x):  # flat almost everywhere
        ...     return round(10 * abs(x["angle"])) / 10 + abs(x["count"] - 3)
        >>> result = zo.minimize(program, {"angle": 0.8, "count": 7}, evaluations=300,
        ...                      bounds={"angle": (-2, 2), "count": (1, 10)}, integers=("count",))
        >>> result.x["count"], result.fun < 0.2
        (3, True)
    """
    parameters = (
        x0
        if isinstance(x0, Parameters)
        else Parameters(x0, bounds=bounds, scale=scale, integers=integers, choices=choices)
    )

    def make(planned: int) -> tuple[Strategy, Callable[[], str]]:
        chooser = Chooser(parameters, planned, seed, common_random_numbers)
        return chooser.strategy(estimator, optimizer, scheduler, strategy), lambda: chooser.said

    settings: dict[str, Any] = {"estimator": estimator, "optimizer": optimizer, "scheduler": scheduler, "seed": seed}
    if strategy is not None:
        settings["strategy"] = strategy
    if common_random_numbers:
        settings["common_random_numbers"] = True
    return minimized(
        fun, parameters, make, settings, evaluations=evaluations, max_time=max_time, target=target, callback=callback,
        on_failure=on_failure, max_lost=max_lost, workers=workers, timeout=timeout, executor=executor, run=run,
        seed=seed, common_random_numbers=common_random_numbers, progress=progress,
    )  # fmt: skip


def minimized(
    fun: BlackBox | Callable[[Any], Any],
    parameters: Parameters,
    make: Callable[[int], tuple[Strategy, Callable[[], str]]],
    settings: dict[str, Any],
    *,
    evaluations: int,
    max_time: float | None,
    target: float | None,
    callback: Callable[[Result], Any] | None,
    on_failure: str | FailurePolicy,
    max_lost: float | None,
    workers: int | None,
    timeout: float | None,
    executor: Executor | None,
    run: str | os.PathLike[str] | None,
    seed: int,
    progress: bool | None,
    common_random_numbers: bool = False,
) -> Result:
    """Run a strategy over a program from start to end: what every way to minimise does, with `minimize`'s arguments.

    ``make`` goes from the budget that the run began with to the strategy, and to what is to be said of it in the end;
    ``settings`` must be the same when the run goes on.
    """
    require(target is None or target == target, "target", "be a number", target)
    require(callback is None or callable(callback), "callback", "be callable", callback)
    blackbox = as_blackbox(fun)
    policy = failure_policy(on_failure, max_lost)
    is_there = run is not None and (Path(run) / NAME).exists()
    # What was chosen when the run began stays, also where the budget has been raised since.
    planned = _planned(run) if run is not None and is_there else evaluations
    strategy, said = make(planned)
    if isinstance(blackbox, FunctionBox):
        blackbox = blackbox.over(parameters, one_number=strategy.shape == ())
    evaluator = evaluator_for(
        policy, workers=workers, timeout=timeout, executor=executor, seed=seed,
        common_random_numbers=common_random_numbers,
    )  # fmt: skip
    pool = evaluator if isinstance(evaluator, Pool) else contextlib.nullcontext()
    options: dict[str, Any] = {
        "evaluations": evaluations, "max_time": max_time, "target": target, "policy": policy, "evaluator": evaluator,
    }  # fmt: skip
    if run is None:
        going = Run(strategy, blackbox, **options)
    else:
        begin = Run.resume if is_there else Run.create
        going = begin(run, strategy, blackbox, configuration=settings, **options)
    where = _where(run, going)
    kept, told = Steps(), ""

    def result(ending: str) -> Result:
        status, sentence = ENDINGS.get(ending, (-2, ending))
        words = [
            sentence.format(budget=evaluations, nfev=going.evaluations, target=target, max_time=max_time),
            said(),
            where,
        ]
        if going.tally.total:
            words.append(f"{going.tally.total} evaluations were lost ({going.tally}).")
        point, value = strategy.answer
        return Result(
            x=parameters.decode(point),
            fun=value,
            nfev=going.evaluations,
            nit=going.steps,
            success=status >= 0,
            status=status,
            message=" ".join(filter(None, words)),
            history=kept.steps if run is None else going.record.history,
            lost=going.tally.total,
            seconds=going.seconds,
        )

    try:
        with interruptible(), going, pool, tqdm(
            total=evaluations, initial=going.evaluations, unit=" evaluations", leave=bool(progress),
            delay=0 if progress else 2, disable=None if progress is None else not progress,
        ) as bar:  # fmt: skip
            try:
                for step in going:
                    if run is None:
                        kept.append(step)
                    bar.update(step.evaluations - bar.n)
                    told = telling(step.diagnostics) or told  # a trial step tells nothing new of the gradient
                    bar.set_postfix_str(", ".join(filter(None, (f"best {step.best_value:.6g}", told))), refresh=False)
                    if callback is not None and _says_stop(callback, result("budget")):
                        going.close("callback")
                        return result("callback")
            except Terminated:
                going.close("terminated")
                return result("terminated")
            except KeyboardInterrupt:
                going.close("interrupted")
                return result("interrupted")
    except (EvaluationError, RunError) as error:
        error.result = result(str(error))
        raise
    return result(going.stopped)


def _planned(directory: str | os.PathLike[str]) -> int:
    """The budget that a run began with."""
    try:
        record = read_run(directory)
    except RunError:  # a writer can save what is left of a damaged file
        Journal(Path(directory)).close()
        record = read_run(directory)
    return int(record.configuration["evaluations"])


def _where(directory: str | os.PathLike[str] | None, run: Run) -> str:
    """Where the run is kept, and what of it was there already."""
    if directory is None:
        return ""
    if not run.resumed:
        return f"Recorded in {os.fspath(directory)}."
    salvaged = f" Its file was damaged ({run.salvaged}); what could be read was saved." if run.salvaged else ""
    return f"Resumed {os.fspath(directory)} at step {run.steps}, {run.evaluations} evaluations.{salvaged}"


def _says_stop(callback: Callable[[Result], Any], so_far: Result) -> bool:
    try:
        return callback(so_far) is True
    except StopIteration:
        return True
