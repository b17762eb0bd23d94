"""One estimator under test, and the means to test it."""

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn, cast, final

import torch
from torch import Tensor

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


@final
@dataclass(frozen=True)
class Trial:
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
            mean, error = mean_and_error(torch.cat([sample, along[:, None]], 1) if truth.any() else sample)
            if repeats >= LEAST_REPEATS and not mean.isfinite().all():
                self.fail(name, f"{what}, entries of all {repeats} gradients are not finite: {text(mean)}")
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
                    f"{text(mean)}, standard errors {text(error)}; take more samples",
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
                f"{what}, the mean of {repeats} gradients is {text(mean)}, expected {text(truth)}, "
                f"standard errors {text(error)}",
            )


def evaluate(function: Function, probes: Probes) -> Tensor:
    """What an evaluator would bring back: values, or exact directional derivatives where those are asked."""
    if probes.quantity == "value":
        return function(probes.points())
    center = probes.center.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(center[None]).sum(), center)
    return probes.offsets.dense(probes.center) @ gradient


def mean_and_error(sample: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each column over the finite rows, and its standard error."""
    finite = sample.isfinite()
    number = finite.sum(0)
    mean = sample.nan_to_num(0.0, 0.0, 0.0).sum(0) / number
    square = (sample - mean).square().where(finite, torch.zeros_like(sample)).sum(0)
    return mean, (square / (number - 1).clamp(min=1) / number).sqrt()


def text(vector: Tensor) -> str:
    return "[" + ", ".join(f"{x:.4g}" for x in vector.tolist()) + "]"
