"""`minimize_least_squares`: for programs that return residuals, or an image that should look like another."""

import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from zograd._minimize import minimized
from zograd._parameters import Parameters
from zograd._result import Result
from zograd.blackbox import BlackBox
from zograd.evaluate import FailurePolicy
from zograd.strategies import Relay, Strategy


def minimize_least_squares(
    fun: BlackBox | Callable[[Any], Any],
    x0: Any,
    *,
    goal: Any = None,
    evaluations: int = 1000,
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
    progress: bool | None = None,
) -> Result:
    r"""Minimise the mean square of a program's outputs, from the outputs themselves and no derivative.

    .. math:: f(x) = \frac{1}{m} \sum_{j=1}^{m} \left( y_j(x) - t_j \right)^2

    with y the outputs and t the ``goal``. This is ``result.fun``; ``scipy.optimize.least_squares`` calls half the sum,
    m f / 2, the cost. A loss is one number an evaluation; a render is ten thousand, and each says on its own how it
    moves with the parameters. So wherever the loss is a sum of squares, return what is squared: `minimize` mostly needs
    several times the evaluations (``benchmarks/least_squares.py`` measures how many, and where it does not).

    The method is `GaussNewton`, which has nothing to tune: it measures the slopes of all outputs by differences,
    several parameters at once where they touch different outputs, and tries damped Gauss-Newton steps. Where the
    program jumps and that gains little more, the loss alone goes on from the best point (`zograd.strategies.Relay`).

    Cost: at most ``evaluations`` evaluations of the program, never one more; below a few times the number of parameters
    the slopes are taken along random directions.
    Memory: the outputs of one measurement, at most some 2^25 numbers, and as many slopes.

    Args:
        fun: A function of one point that returns an array or tensor of any shape, or a structure of them, always the
            same; or `batched`, `torch_function`, a `Program`, or any `BlackBox`. Outputs of shape (height, width),
            (height, width, channels) or (channels, height, width) are taken for a picture, whose neighbouring pixels
            say something of each other.
        x0: Where to start, as for `minimize`.
        goal: What the outputs should be, in their shape or as one number; zero by default, so that ``fun`` returns
            residuals.
        evaluations: The budget: how often the program may be run.
        bounds: As for `minimize`.
        scale: As for `minimize`: an entry should have an effect of about the same size when it moves by one unit.
        integers: As for `minimize`.
        choices: As for `minimize`.
        max_time: Stop after so many seconds.
        target: Stop at the first mean square at or below this.
        callback: Called after every step with the `Result` so far; returning ``True`` stops.
        on_failure: As for `minimize`; an evaluation with one NaN among its outputs is lost as a whole, and
            ``zo.value(x)`` counts it as if each output were x.
        max_lost: As for `minimize`.
        workers: As for `minimize`.
        timeout: As for `minimize`.
        executor: As for `minimize`.
        run: A directory for a durable run, as for `minimize`. The file keeps the mean square of every evaluation. Its
            outputs it keeps, exactly, until two snapshots have been taken after them, for a resumed run needs no
            older ones: the file stays as small as the state, however many outputs there are.
        seed: Same seed, same program: same result, bit for bit, with any number of workers.
        progress: As for `minimize`.

    Returns:
        The best point seen and how it was found; ``fun`` is the mean square.

    Raises:
        ArgumentError: When an argument is wrong, or ``goal`` does not have the shape of the outputs.
        EvaluationError: When the start is lost, or the first evaluation with ``on_failure="raise"``.
        RunError: As for `minimize`.

    Example:
        >>> import numpy as np, zograd as zo
        >>> time = np.linspace(0, 4, 50)
        >>> def decay(x):
        ...     return x["height"] * np.exp(-x["rate"] * time)
        >>> result = zo.minimize_least_squares(decay, {"height": 1.0, "rate": 1.0}, evaluations=60,
        ...                                    goal=decay({"height": 2.5, "rate": 0.7}))
        >>> round(result.x["height"], 6), round(result.x["rate"], 6)
        (2.5, 0.7)
    """
    parameters = (
        x0
        if isinstance(x0, Parameters)
        else Parameters(x0, bounds=bounds, scale=scale, integers=integers, choices=choices)
    )

    def make(planned: int) -> tuple[Strategy, Callable[[], str]]:
        strategy = Relay(parameters, goal=goal, evaluations=planned, seed=seed)
        return strategy, lambda: strategy.said

    return minimized(
        fun, parameters, make, {"goal": goal, "seed": seed}, evaluations=evaluations, max_time=max_time, target=target,
        callback=callback, on_failure=on_failure, max_lost=max_lost, workers=workers, timeout=timeout,
        executor=executor, run=run, seed=seed, progress=progress,
    )  # fmt: skip
