"""The right size: what an estimator of the true gradient keeps besides."""

import copy
import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from zograd._errors import GradientError
from zograd.estimators import GradientEstimator
from zograd.testing._trial import ERRORS, LEAST_REPEATS, Function, Trial, evaluate, mean_and_error, text


def _linear(trial: Trial) -> None:
    for factor, dtype in ((1.0, torch.float64), (1e3, torch.float64), (1.0, torch.float32)):
        estimator = trial.fresh(factor)
        if estimator is not None:
            what = f"on a linear function in {dtype}" + (f" with {factor:g} times its step" if factor != 1 else "")
            _right_size(trial, "right size", what, estimator, trial.center(int(factor), dtype))


def _right_size(
    trial: Trial, name: str, what: str, estimator: GradientEstimator, center: Tensor, constant: float = 0.0
) -> None:
    generator = trial.generator(3)

    def function(points: Tensor) -> Tensor:
        return trial.linear(points) + constant

    def gradient(_: int) -> Tensor:
        probes = estimator.propose(center, generator)
        return estimator.gradient(probes, evaluate(function, probes)).gradient

    probes = copy.deepcopy(estimator).propose(center, trial.generator(3))
    trial.judge(name, what, gradient, trial.truth, trial.rounding(probes, evaluate(function, probes)))


def lost(trial: Trial) -> None:
    estimator, generator, center = cast(GradientEstimator, trial.fresh()), trial.generator(3), trial.center()
    losses = trial.generator(4)
    probes = copy.deepcopy(estimator).propose(center, trial.generator(3))
    allowance = trial.rounding(probes, evaluate(trial.linear, probes))

    def gradient(_: int) -> Tensor:
        probes = estimator.propose(center, generator)
        values = evaluate(trial.linear, probes)
        values[torch.randperm(len(values), generator=losses)[: len(values) // 3]] = torch.nan
        silent = torch.full_like(center, torch.nan)
        try:
            found = estimator.gradient(probes, values).gradient
        except GradientError:
            return silent
        if not found.isfinite().all():
            trial.fail("lost rows", f"with a third of the rows NaN the gradient is {text(found)}")
        idle = torch.ones(trial.dimension, dtype=torch.bool)
        idle[trial.active] = False
        return found.where((found != 0) | idle, silent)

    trial.judge("lost rows", "with a third of the rows NaN", gradient, trial.truth, allowance)


def _shift(trial: Trial) -> None:
    estimator, center, constant = cast(GradientEstimator, trial.fresh()), trial.center(), 10.0
    probes = estimator.propose(center, trial.generator(3))
    plain = evaluate(trial.linear, probes)
    shifted = plain if probes.quantity == "derivative" else plain + constant
    first = copy.deepcopy(estimator).gradient(probes, plain).gradient
    second = copy.deepcopy(estimator).gradient(probes, shifted).gradient
    if float((first - second).norm()) > trial.rounding(probes, shifted) * math.sqrt(len(probes)):
        # A score function without a baseline keeps its mean, not its value.
        _right_size(trial, "shift", f"on f + {constant:g}", cast(GradientEstimator, trial.fresh()), center, constant)


def _doubling(trial: Trial) -> None:
    estimator = cast(GradientEstimator, trial.fresh())
    probes = estimator.propose(trial.center(), trial.generator(3))
    values = evaluate(trial.linear, probes)
    once = copy.deepcopy(estimator).gradient(probes, values).gradient
    twice = copy.deepcopy(estimator).gradient(probes, 2 * values).gradient
    if not torch.equal(twice, 2 * once):
        trial.fail("doubling", f"the gradient of f is {text(once)}, that of 2 f {text(twice)}: not exactly twice")


def permutation(trial: Trial) -> None:
    order = torch.arange(trial.dimension)
    active = torch.tensor(trial.active)
    order[active] = active[torch.randperm(len(active), generator=trial.generator(6))]
    center, slopes = trial.center(), trial.slopes

    def function(points: Tensor) -> Tensor:
        return (slopes * points.sin()).sum(1) + (points * slopes.roll(1)).sum(1).square() / 8

    def renamed(points: Tensor) -> Tensor:
        return function(points[:, order.argsort()])

    samples: list[tuple[GradientEstimator, torch.Generator, Function, Tensor]] = []
    allowance = 0.0
    for f, x in ((function, center), (renamed, center[order])):
        estimator, generator = cast(GradientEstimator, trial.fresh()), trial.generator(8 + len(samples))
        probes = copy.deepcopy(estimator).propose(x, generator)
        allowance += trial.rounding(probes, evaluate(f, probes))
        samples.append((estimator, generator, f, x))

    def difference(_: int) -> Tensor:
        one, other = (e.gradient(p, evaluate(f, p)).gradient for e, g, f, x in samples for p in (e.propose(x, g),))
        return other - one[order]

    what = "between a nonlinear function and the same with its coordinates renamed (renamed back)"
    zero = torch.zeros_like(center)
    trial.judge("permutation", what, difference, zero, allowance, 2 * float(trial.truth.norm()))


def _bias(trial: Trial) -> None:
    center = trial.center()
    stepless = trial.fresh(2.0) is None
    for degree in range(2, max(trial.order, 3 if stepless else 1) + 1):
        _no_bias(trial, center, degree, 1.0 if stepless else _unit(trial, center))
    if not stepless:
        unit = _unit(trial, center)
        wide, narrow = (_added(trial, center, trial.order + 1, factor) for factor in (unit, unit / 2))
        pairs = [(wide(i), narrow(i)) for i in range(LEAST_REPEATS // 2)]
        at_wide, at_narrow = (float(torch.stack(side).mean(0).norm()) for side in zip(*pairs, strict=True))
        # The same directions serve both steps, so that most of the noise is in neither mean's favour.
        excess, error = mean_and_error(torch.stack([near - far / 2**trial.order for far, near in pairs]))
        noise, share = ERRORS * float(error.norm()), at_wide / 2**trial.order
        if at_narrow > share and float(excess.norm()) > share / 4 + noise:
            trial.fail(
                "order of bias",
                f"halving the step takes the bias on a polynomial of degree {trial.order + 1} from {at_wide:.4g} to "
                f"{at_narrow:.4g} (noise {noise:.2g}), expected a fall to 1/{2**trial.order}",
            )


def _unit(trial: Trial, center: Tensor) -> float:
    """The factor at which the probes are about one away, where a bias shows above rounding."""
    return 1 / trial.reach(cast(GradientEstimator, trial.fresh()).propose(center, trial.generator(3)))


def _added(trial: Trial, center: Tensor, degree: int, factor: float) -> Callable[[int], Tensor]:
    """What ``sum_i a_i (x - center)_i^degree / degree`` adds to the gradient, with the linear part's noise left out."""
    estimator, generator = cast(GradientEstimator, trial.fresh(factor)), trial.generator(9)

    def curved(points: Tensor) -> Tensor:
        return trial.linear(points) + (trial.slopes * (points - center) ** degree).sum(1) / degree

    def added(_: int) -> Tensor:
        probes = estimator.propose(center, generator)
        both = (copy.deepcopy(estimator).gradient(probes, evaluate(f, probes)).gradient for f in (curved, trial.linear))
        return next(both) - next(both)

    return added


def _no_bias(trial: Trial, center: Tensor, degree: int, factor: float) -> None:
    estimator = cast(GradientEstimator, trial.fresh(factor))
    probes = estimator.propose(center, trial.generator(3))
    reach = 1.0 if probes.quantity == "derivative" else trial.reach(probes)
    trial.judge(
        "order of bias",
        f"of what a polynomial of degree {degree} adds to the gradient at its centre",
        _added(trial, center, degree, factor),
        torch.zeros_like(center),
        trial.rounding(probes, evaluate(trial.linear, probes)),
        float(trial.truth.norm()) * reach ** (degree - 1) / degree,
    )


RIGHT_SIZE = (_linear, lost, _shift, _doubling, permutation, _bias)
"""In the order in which they are asked."""
