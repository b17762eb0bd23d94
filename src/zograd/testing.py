"""Rule zero: the gradient has the right size. One function says so of any estimator, yours too."""

import copy
import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn, cast, final

import numpy as np
import torch
from torch import Tensor

from zograd._errors import GradientError
from zograd._probes import Probes
from zograd.estimators import GradientEstimator

Function = Callable[[Tensor], Tensor]
Rescale = Callable[[GradientEstimator, float], GradientEstimator]

ERRORS = 4.0
"""The standard errors that a mean may be away from the truth."""

PRECISION = 0.3
"""Gradients are repeated until `ERRORS` standard errors are this share of the truth, so that a wrong scale shows."""

LEAST_REPEATS = 128
MOST_REPEATS = 2**13
"""An estimator that would need more gradients than this to be precise is too noisy to judge."""


def assert_conforms(
    estimator: GradientEstimator,
    *,
    dimension: int = 6,
    order: int = 1,
    active: Sequence[int] | None = None,
    rescale: Rescale | None = None,
    seed: int = 0,
) -> None:
    r"""Raise unless the estimator's gradient has the right size, and the estimator keeps its promises.

    It is checked, with f evaluated in this process in float64 unless said otherwise, that

    - **right size**: on :math:`f(x) = a \cdot x` the mean gradient is a within 4 standard errors, in each entry and
      along a, at two centres and two steps three decades apart, and in float32;
    - **order of bias**: polynomials of degree 2 to ``order`` about the centre add nothing to the mean gradient, and
      one of degree ``order + 1`` adds a share that falls as step^order;
    - **shift**: f + c has the gradient of f; **doubling**: 2 f has exactly twice the gradient;
    - **permutation**: renaming the coordinates renames the gradient's entries;
    - **lost rows**: with a random third of the rows NaN the right size holds (an entry of exactly zero says nothing);
      with all of them NaN a `GradientError` is raised;
    - **price**: ``evaluations(d)`` is the number of rows proposed;
    - **purity**: the centre and the global generators of torch, NumPy and Python are untouched; a generator with the
      same seed gives the same probes; rows evaluated in pieces and out of order give the same gradient;
    - **state**: a second estimator that takes ``state_dict`` proposes the same probes next;
    - **dtype**: gradient and probes have the centre's, float32 or float64.

    Gradients are repeated until 4 standard errors are 30 % of the truth or less: about 100 times for 16 directions.
    The outcome follows from ``seed`` alone; an honest estimator fails for fewer than one seed in a hundred.

    Args:
        estimator: What is tested. It is copied first, so that it learns nothing here.
        dimension: The number of parameters, d.
        order: The power of the step with which the bias falls: 1 for one-sided differences along fixed axes, 2 for
            central differences and for directions that are symmetric. Ignored for an estimator without a step,
            whose gradient must be unbiased.
        active: The coordinates that the estimator speaks of: all by default; the other entries must be zero.
        rescale: ``rescale(estimator, factor)``: the same estimator with its step times the factor. By default a
            dataclass's field ``step`` or ``spread`` is replaced; with neither there is no step to vary. Steps that
            differ between coordinates are not invariant under permutation: test such an estimator with equal ones.
        seed: Of every random number drawn here.

    Raises:
        AssertionError: With the first property that fails, and its numbers.

    Example:
        >>> import zograd as zo
        >>> from zograd.testing import assert_conforms
        >>> assert_conforms(zo.CoordinateGradient(step=1e-3), order=2)
    """
    trial = _Trial(estimator, dimension, order, list(range(dimension) if active is None else active), rescale, seed)
    for check in (*PROMISES, *RIGHT_SIZE):
        check(trial)


@final
@dataclass(frozen=True)
class _Trial:
    """One estimator under test, and the means to test it."""

    estimator: GradientEstimator
    dimension: int
    order: int
    active: list[int]
    rescale: Rescale | None
    seed: int

    def fail(self, name: str, what: str) -> NoReturn:
        """Say which property fails, and with what numbers."""
        raise AssertionError(f"{self.estimator!r} fails `{name}`: {what}")

    def generator(self, salt: int = 0) -> torch.Generator:
        """A generator of its own, always the same for one salt."""
        return torch.Generator().manual_seed(1000 * self.seed + salt)

    def center(self, salt: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """A centre of order one."""
        return torch.randn(self.dimension, dtype=torch.float64, generator=self.generator(salt)).to(dtype)

    @cached_property
    def slopes(self) -> Tensor:
        """The gradient of the linear test function: entries of either sign, none of them small."""
        sizes = 1 + torch.rand(self.dimension, dtype=torch.float64, generator=self.generator(11))
        return sizes * (1 - 2 * (torch.arange(self.dimension) % 2))

    def linear(self, points: Tensor) -> Tensor:
        """``1 + a . x``."""
        return 1 + (points * self.slopes.to(points)).sum(1)

    @cached_property
    def truth(self) -> Tensor:
        """The gradient that is expected of `linear`: its slopes, at the active coordinates."""
        truth = torch.zeros(self.dimension, dtype=torch.float64)
        truth[self.active] = self.slopes[self.active]
        return truth

    def fresh(self, factor: float = 1.0) -> GradientEstimator | None:
        """A copy of the estimator with its step times ``factor``, or ``None`` when it has no step."""
        estimator = copy.deepcopy(self.estimator)
        if factor == 1.0:
            return estimator
        if self.rescale is not None:
            return self.rescale(estimator, factor)
        plain: Any = estimator
        for name in ("step", "spread"):
            length = getattr(plain, name, None)
            if length is not None and dataclasses.is_dataclass(plain):
                return cast(GradientEstimator, dataclasses.replace(plain, **{name: length * factor}))  # type: ignore[type-var]
        return None

    def reach(self, probes: Probes) -> float:
        """The root mean square distance from the centre of the probes that are not at it."""
        lengths = probes.offsets.dense(probes.center).norm(dim=1)
        if not (lengths > 0).any():
            self.fail("right size", "every probe lies at the centre")
        return float(lengths[lengths > 0].square().mean().sqrt())

    def rounding(self, probes: Probes, values: Tensor) -> float:
        """The error of a gradient that floating point explains."""
        size = float(values.abs().max() + probes.center.norm() * self.slopes.norm())
        distance = 1.0 if probes.quantity == "derivative" else self.reach(probes)
        return 64 * torch.finfo(probes.center.dtype).eps * size / distance

    def judge(
        self,
        name: str,
        what: str,
        gradients: Callable[[int], Tensor],
        truth: Tensor,
        allowance: float,
        reference: float | None = None,
    ) -> None:
        """Fail unless the mean of ``gradients(i)`` is ``truth`` within 4 standard errors and the allowance.

        NaN entries say nothing. The standard errors must come down to a share of ``reference``, the length of the
        truth by default.
        """
        target = PRECISION * (float(truth.norm()) if reference is None else reference)
        rows: list[Tensor] = []
        repeats = 16
        while True:
            rows += [gradients(i).double() for i in range(len(rows), repeats)]
            sample = torch.stack(rows)
            along = (sample * truth).nansum(1) / (sample.isfinite() * truth.square()).sum(1)
            mean, error = _mean_and_error(torch.cat([sample, along[:, None]], 1) if truth.any() else sample)
            if repeats >= LEAST_REPEATS and not mean.isfinite().all():
                self.fail(name, f"{what}, entries of all {repeats} gradients are not finite: {_text(mean)}")
            uncertain = ERRORS * float(error[: self.dimension].norm())
            # Few repeats tell enough only of an estimator that draws nothing: a t-distribution has heavy tails.
            aim = max(target, PRECISION * float(mean[: self.dimension].norm())) + allowance
            if uncertain <= allowance or (repeats >= LEAST_REPEATS and uncertain <= aim):
                break
            if repeats < LEAST_REPEATS:
                repeats = LEAST_REPEATS
                continue
            needed = repeats * (uncertain / aim) ** 2
            if needed > MOST_REPEATS:
                self.fail(
                    name,
                    f"{what}, the gradients are too noisy to judge: after {repeats} of them the mean is "
                    f"{_text(mean)}, standard errors {_text(error)}; take more samples",
                )
            repeats = math.ceil(1.1 * needed) + 8
        if truth.any() and abs(float(mean[-1]) - 1) > ERRORS * float(error[-1]) + allowance:
            self.fail(
                name,
                f"{what}, the mean of {repeats} gradients is {float(mean[-1]):.6g} times the expected one "
                f"(standard error {float(error[-1]):.2g})",
            )
        mean, error = mean[: self.dimension], error[: self.dimension]
        if ((mean - truth).abs() > ERRORS * error + allowance).any():
            self.fail(
                name,
                f"{what}, the mean of {repeats} gradients is {_text(mean)}, expected {_text(truth)}, "
                f"standard errors {_text(error)}",
            )


def _evaluate(function: Function, probes: Probes) -> Tensor:
    """What an evaluator would bring back: values, or exact directional derivatives where those are asked."""
    if probes.quantity == "value":
        return function(probes.points())
    center = probes.center.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(center[None]).sum(), center)
    return probes.offsets.dense(probes.center) @ gradient


def _mean_and_error(sample: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each column over the finite rows, and its standard error."""
    finite = sample.isfinite()
    number = finite.sum(0)
    mean = sample.nan_to_num(0.0, 0.0, 0.0).sum(0) / number
    square = (sample - mean).square().where(finite, torch.zeros_like(sample)).sum(0)
    return mean, (square / (number - 1).clamp(min=1) / number).sqrt()


def _text(vector: Tensor) -> str:
    return "[" + ", ".join(f"{x:.4g}" for x in vector.tolist()) + "]"


# --- promises that any estimator keeps, surrogates too --------------------------------------------------------------


def _price(trial: _Trial) -> None:
    estimator = cast(GradientEstimator, trial.fresh())
    rows, price = len(estimator.propose(trial.center(), trial.generator())), estimator.evaluations(trial.dimension)
    if rows != price:
        trial.fail("price", f"evaluations({trial.dimension}) is {price} but {rows} rows are proposed")


def _dtype(trial: _Trial) -> None:
    for dtype in (torch.float32, torch.float64):
        estimator = cast(GradientEstimator, trial.fresh())
        probes = estimator.propose(trial.center(dtype=dtype), trial.generator())
        gradient = estimator.gradient(probes, _evaluate(trial.linear, probes)).gradient
        for name, found in (("gradient", gradient), ("probes' centre", probes.center), ("points", probes.points())):
            if found.dtype != dtype:
                trial.fail("dtype", f"the centre is {dtype} but the {name} {found.dtype}")
        if gradient.shape != (trial.dimension,):
            trial.fail("dtype", f"the gradient has shape {tuple(gradient.shape)}, expected ({trial.dimension},)")


def _untouched(trial: _Trial) -> None:
    estimator, center = cast(GradientEstimator, trial.fresh()), trial.center()
    kept, before = center.clone(), _global_state()
    probes = estimator.propose(center, trial.generator())
    values = _evaluate(trial.linear, probes)
    told = values.clone()
    estimator.gradient(probes, values)
    if not torch.equal(center, kept):
        trial.fail("purity", f"the centre was {_text(kept)} and is now {_text(center)}")
    if not torch.equal(values, told):
        trial.fail("purity", "the values were written to")
    changed = [name for name, state in _global_state().items() if state != before[name]]
    if changed:
        trial.fail("purity", f"the global generator of {', '.join(changed)} was used; draw from the one that is given")


def _global_state() -> dict[str, object]:
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 - the legacy generator is the one to leave alone
    return {
        "torch": torch.get_rng_state().tolist(),
        "NumPy": (numpy_state["state"]["key"].tolist(), numpy_state["state"]["pos"]),
        "Python": random.getstate(),
    }


def _seeded(trial: _Trial) -> None:
    first, second = (
        cast(GradientEstimator, trial.fresh()).propose(trial.center(), trial.generator(5)).points() for _ in range(2)
    )
    if not torch.equal(first, second):
        trial.fail(
            "purity", f"generators with the same seed give probes {float((first - second).abs().max()):.3g} apart"
        )


def _pieces(trial: _Trial) -> None:
    estimator = cast(GradientEstimator, trial.fresh())
    probes = estimator.propose(trial.center(), trial.generator())
    whole = _evaluate(trial.linear, probes)
    expected = copy.deepcopy(estimator).gradient(probes, whole).gradient
    for rows in (1, 3, len(probes)):
        pieces = [_evaluate(trial.linear, piece) for piece in reversed(list(probes.split(rows)))]
        found = copy.deepcopy(estimator).gradient(probes, torch.cat(pieces[::-1])).gradient
        if float((found - expected).norm()) > 64 * trial.rounding(probes, whole):
            trial.fail(
                "purity",
                f"evaluated {rows} rows at a time the gradient is {_text(found)}, at once it is {_text(expected)}",
            )


def _state(trial: _Trial) -> None:
    estimator, second = cast(GradientEstimator, trial.fresh()), cast(GradientEstimator, trial.fresh())
    for salt in range(3):
        probes = estimator.propose(trial.center(salt), trial.generator(salt))
        estimator.gradient(probes, _evaluate(trial.linear, probes))
    second.load_state_dict(copy.deepcopy(estimator.state_dict()))
    found, expected = (e.propose(trial.center(), trial.generator(7)).points() for e in (second, estimator))
    if found.shape != expected.shape or not torch.equal(found, expected):
        trial.fail("state", "after load_state_dict(state_dict()) the next probes differ from the original's")


def _all_lost(trial: _Trial) -> None:
    estimator = cast(GradientEstimator, trial.fresh())
    probes = estimator.propose(trial.center(), trial.generator())
    try:
        found = estimator.gradient(probes, torch.full((len(probes),), torch.nan, dtype=torch.float64)).gradient
    except GradientError:
        return
    trial.fail("lost rows", f"with every row NaN the gradient is {_text(found)}, expected a GradientError")


# --- the right size, for estimators of the true gradient -------------------------------------------------------------


def _linear(trial: _Trial) -> None:
    for factor, dtype in ((1.0, torch.float64), (1e3, torch.float64), (1.0, torch.float32)):
        estimator = trial.fresh(factor)
        if estimator is not None:
            what = f"on a linear function in {dtype}" + (f" with {factor:g} times its step" if factor != 1 else "")
            _right_size(trial, "right size", what, estimator, trial.center(int(factor), dtype))


def _right_size(
    trial: _Trial, name: str, what: str, estimator: GradientEstimator, center: Tensor, constant: float = 0.0
) -> None:
    generator = trial.generator(3)

    def function(points: Tensor) -> Tensor:
        return trial.linear(points) + constant

    def gradient(_: int) -> Tensor:
        probes = estimator.propose(center, generator)
        return estimator.gradient(probes, _evaluate(function, probes)).gradient

    probes = copy.deepcopy(estimator).propose(center, trial.generator(3))
    trial.judge(name, what, gradient, trial.truth, trial.rounding(probes, _evaluate(function, probes)))


def _lost(trial: _Trial) -> None:
    estimator, generator, center = cast(GradientEstimator, trial.fresh()), trial.generator(3), trial.center()
    losses = trial.generator(4)
    probes = copy.deepcopy(estimator).propose(center, trial.generator(3))
    allowance = trial.rounding(probes, _evaluate(trial.linear, probes))

    def gradient(_: int) -> Tensor:
        probes = estimator.propose(center, generator)
        values = _evaluate(trial.linear, probes)
        values[torch.randperm(len(values), generator=losses)[: len(values) // 3]] = torch.nan
        silent = torch.full_like(center, torch.nan)
        try:
            found = estimator.gradient(probes, values).gradient
        except GradientError:
            return silent
        if not found.isfinite().all():
            trial.fail("lost rows", f"with a third of the rows NaN the gradient is {_text(found)}")
        idle = torch.ones(trial.dimension, dtype=torch.bool)
        idle[trial.active] = False
        return found.where((found != 0) | idle, silent)

    trial.judge("lost rows", "with a third of the rows NaN", gradient, trial.truth, allowance)


def _shift(trial: _Trial) -> None:
    estimator, center, constant = cast(GradientEstimator, trial.fresh()), trial.center(), 10.0
    probes = estimator.propose(center, trial.generator(3))
    plain = _evaluate(trial.linear, probes)
    shifted = plain if probes.quantity == "derivative" else plain + constant
    first = copy.deepcopy(estimator).gradient(probes, plain).gradient
    second = copy.deepcopy(estimator).gradient(probes, shifted).gradient
    if float((first - second).norm()) > trial.rounding(probes, shifted) * math.sqrt(len(probes)):
        # A score function without a baseline keeps its mean, not its value.
        _right_size(trial, "shift", f"on f + {constant:g}", cast(GradientEstimator, trial.fresh()), center, constant)


def _doubling(trial: _Trial) -> None:
    estimator = cast(GradientEstimator, trial.fresh())
    probes = estimator.propose(trial.center(), trial.generator(3))
    values = _evaluate(trial.linear, probes)
    once = copy.deepcopy(estimator).gradient(probes, values).gradient
    twice = copy.deepcopy(estimator).gradient(probes, 2 * values).gradient
    if not torch.equal(twice, 2 * once):
        trial.fail("doubling", f"the gradient of f is {_text(once)}, that of 2 f {_text(twice)}: not exactly twice")


def _permutation(trial: _Trial) -> None:
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
        allowance += trial.rounding(probes, _evaluate(f, probes))
        samples.append((estimator, generator, f, x))

    def difference(_: int) -> Tensor:
        one, other = (e.gradient(p, _evaluate(f, p)).gradient for e, g, f, x in samples for p in (e.propose(x, g),))
        return other - one[order]

    what = "between a nonlinear function and the same with its coordinates renamed (renamed back)"
    zero = torch.zeros_like(center)
    trial.judge("permutation", what, difference, zero, allowance, 2 * float(trial.truth.norm()))


def _bias(trial: _Trial) -> None:
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
        excess, error = _mean_and_error(torch.stack([near - far / 2**trial.order for far, near in pairs]))
        noise, share = ERRORS * float(error.norm()), at_wide / 2**trial.order
        if at_narrow > share and float(excess.norm()) > share / 4 + noise:
            trial.fail(
                "order of bias",
                f"halving the step takes the bias on a polynomial of degree {trial.order + 1} from {at_wide:.4g} to "
                f"{at_narrow:.4g} (noise {noise:.2g}), expected a fall to 1/{2**trial.order}",
            )


def _unit(trial: _Trial, center: Tensor) -> float:
    """The factor at which the probes are about one away, where a bias shows above rounding."""
    return 1 / trial.reach(cast(GradientEstimator, trial.fresh()).propose(center, trial.generator(3)))


def _added(trial: _Trial, center: Tensor, degree: int, factor: float) -> Callable[[int], Tensor]:
    """What ``sum_i a_i (x - center)_i^degree / degree`` adds to the gradient, with the linear part's noise left out."""
    estimator, generator = cast(GradientEstimator, trial.fresh(factor)), trial.generator(9)

    def curved(points: Tensor) -> Tensor:
        return trial.linear(points) + (trial.slopes * (points - center) ** degree).sum(1) / degree

    def added(_: int) -> Tensor:
        probes = estimator.propose(center, generator)
        both = (
            copy.deepcopy(estimator).gradient(probes, _evaluate(f, probes)).gradient for f in (curved, trial.linear)
        )
        return next(both) - next(both)

    return added


def _no_bias(trial: _Trial, center: Tensor, degree: int, factor: float) -> None:
    estimator = cast(GradientEstimator, trial.fresh(factor))
    probes = estimator.propose(center, trial.generator(3))
    reach = 1.0 if probes.quantity == "derivative" else trial.reach(probes)
    trial.judge(
        "order of bias",
        f"of what a polynomial of degree {degree} adds to the gradient at its centre",
        _added(trial, center, degree, factor),
        torch.zeros_like(center),
        trial.rounding(probes, _evaluate(trial.linear, probes)),
        float(trial.truth.norm()) * reach ** (degree - 1) / degree,
    )


PROMISES = (_price, _dtype, _untouched, _seeded, _pieces, _state, _all_lost)
"""What every estimator keeps. A surrogate, biased by design, will answer to these and to a contract of its own."""

RIGHT_SIZE = (_linear, _lost, _shift, _doubling, _permutation, _bias)
"""What an estimator of the true gradient keeps besides."""
