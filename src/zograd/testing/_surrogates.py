"""What a surrogate keeps, whose gradient is biased by design: it descends, and it comes closer the more it has seen."""

import copy
import math
import warnings
from typing import cast

import torch
from torch import Tensor

from zograd._errors import GradientError, ZogradWarning
from zograd.estimators import GradientEstimator
from zograd.testing._trial import Function, Trial, evaluate, text

VISITS = 100
"""Gradients at one place, in which a surrogate must have learned what there is to learn."""
RUNS = 3
"""Independent repetitions; means over them are judged."""
ALIGNED = 0.8
"""The cosine with the true gradient that must be reached on a quadratic."""
SLACK = 0.1
"""How much lower the cosine may be under a change that should not matter."""
DESCENT = 0.5
"""The share of the excess over the minimum that may be left after a descent."""
STEPS = 150

Seen = tuple[float, float, float]
"""Mean cosines at first and at last, and the last length over the true one."""


def quadratic(trial: Trial, center: Tensor) -> tuple[Function, Tensor]:
    """A quadratic around a centre, and its gradient there, which no Gaussian blur changes."""
    slopes = trial.slopes

    def function(points: Tensor) -> Tensor:
        moved = points - center.to(points)
        return 3 + moved @ slopes.to(points) + 0.5 * moved.square().sum(1)

    return function, slopes.to(center.dtype)


def cosines(
    trial: Trial, function: Function, truth: Tensor, center: Tensor, losses: torch.Generator | None = None
) -> Seen:
    """The mean cosine with the truth over the first and the last tenth of the visits, and the last length over it."""
    first, last, lengths = [], [], []
    tenth = VISITS // 10
    for run in range(RUNS):
        estimator, generator = cast(GradientEstimator, trial.fresh()), trial.generator(20 + run)
        for visit in range(VISITS):
            probes = estimator.propose(center, generator)
            values = evaluate(function, probes)
            if losses is not None:
                values[torch.randperm(len(values), generator=losses)[: len(values) // 3]] = torch.nan
            try:
                gradient = estimator.gradient(probes, values).gradient.double()
            except GradientError:
                continue
            if not gradient.isfinite().all():
                trial.fail("lost rows" if losses is not None else "cosine", f"the gradient is {text(gradient)}")
            cosine = float(gradient @ truth.double() / (gradient.norm() * truth.double().norm()).clamp(min=1e-300))
            if visit < tenth:
                first.append(cosine)
            elif visit >= VISITS - tenth:
                last.append(cosine)
                lengths.append(float(gradient.norm() / truth.norm()))
    if not last:
        trial.fail("lost rows", f"none of the last of {VISITS} gradients could be told")
    return sum(first) / max(1, len(first)), sum(last) / len(last), sum(lengths) / len(lengths)


def _aligned(trial: Trial, seen: Seen) -> None:
    single = trial.center(dtype=torch.float32)
    function, truth = quadratic(trial, single)
    for dtype, (first, last, _) in (("float64", seen), ("float32", cosines(trial, function, truth, single))):
        if last < ALIGNED or last < first - SLACK:
            trial.fail(
                "cosine",
                f"on a quadratic in {dtype} the cosine with the true gradient is {first:.3f} over the first of "
                f"{VISITS} visits and {last:.3f} over the last, expected {ALIGNED} or more and not less than at first",
            )


def _lost_rows(trial: Trial, seen: Seen) -> None:
    center = trial.center()
    function, truth = quadratic(trial, center)
    _, last, rest = cosines(trial, function, truth, center, losses=trial.generator(4))
    _, whole, length = seen
    if last < whole - SLACK or not 0.5 < rest / length < 2:
        trial.fail(
            "lost rows",
            f"with a third of the rows NaN the cosine with the true gradient falls from {whole:.3f} to {last:.3f}, and "
            f"the length from {length:.3g} to {rest:.3g} times its own",
        )


def _renamed(trial: Trial, seen: Seen) -> None:
    center = trial.center()
    order = torch.arange(trial.dimension).roll(1)
    function, truth = quadratic(trial, center)

    def renamed(points: Tensor) -> Tensor:
        return function(points[:, order.argsort()])

    _, other, _ = cosines(trial, renamed, truth[order], center[order])
    if abs(seen[1] - other) > SLACK:
        trial.fail("permutation", f"the cosine is {seen[1]:.3f}, and {other:.3f} with the coordinates renamed")


def _level(trial: Trial, seen: Seen) -> None:
    center = trial.center()
    function, truth = quadratic(trial, center)
    _, plain, length = seen
    for what, factor, constant in (("shift", 1.0, 100.0), ("doubling", 100.0, 0.0)):

        def changed(points: Tensor, factor: float = factor, constant: float = constant) -> Tensor:
            return factor * function(points) + constant

        _, found, size = cosines(trial, changed, truth, center)
        if found < plain - SLACK or not 0.5 < size / (factor * length) < 2:
            trial.fail(
                what,
                f"on {factor:g} f + {constant:g} the cosine with the true gradient is {found:.3f} and the length "
                f"{size:.3g} times its own; on f {plain:.3f} and {length:.3g}",
            )


def _descends(trial: Trial, seen: Seen) -> None:
    left = []
    for run in range(RUNS):
        estimator, generator, center = cast(GradientEstimator, trial.fresh()), trial.generator(30 + run), trial.center()
        function, slopes = quadratic(trial, center)
        least = 3 - 0.5 * float(slopes.square().sum())
        here = center.clone()
        for step in range(STEPS):
            probes = estimator.propose(here, generator)
            gradient = estimator.gradient(probes, evaluate(function, probes)).gradient
            length = 4 * float(slopes.norm()) / STEPS * (1 - step / STEPS)
            here = here - length * gradient / gradient.norm().clamp(min=1e-300)
        left.append((float(function(here[None])) - least) / (3 - least))
    if sum(left) / RUNS > DESCENT or not math.isfinite(sum(left)):
        trial.fail(
            "descent",
            f"after {STEPS} steps along the gradients {100 * sum(left) / RUNS:.0f} % of the excess over the minimum of "
            f"a quadratic is left, expected {100 * DESCENT:.0f} % or less",
        )


def _restored(trial: Trial, seen: Seen) -> None:
    estimator, second = cast(GradientEstimator, trial.fresh()), cast(GradientEstimator, trial.fresh())
    center = trial.center()
    function, _ = quadratic(trial, center)
    for salt in range(12):
        probes = estimator.propose(center, trial.generator(salt))
        estimator.gradient(probes, evaluate(function, probes))
    second.load_state_dict(copy.deepcopy(estimator.state_dict()))
    for salt in range(12, 15):
        found = []
        for one in (estimator, second):
            probes = one.propose(center, trial.generator(salt))
            found.append(one.gradient(probes, evaluate(function, probes)).gradient)
        if not torch.equal(*found):
            trial.fail(
                "state",
                f"after load_state_dict(state_dict()) the gradient is {text(found[1])}, not {text(found[0])}",
            )


def check_surrogate(trial: Trial, level_free: bool) -> None:
    """Raise unless the estimator keeps what surrogates keep."""
    center = trial.center()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZogradWarning)  # the spread may not suit these functions
        _check(trial, cosines(trial, *quadratic(trial, center), center), level_free)


def _check(trial: Trial, seen: Seen, level_free: bool) -> None:
    for check in (_aligned, _lost_rows, _renamed, _descends, _restored, *((_level,) if level_free else ())):
        check(trial, seen)
