"""Central differences along an orthonormal frame, inside bounds, with the curvature that they give for free."""

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zograd._arrays import Array, array, tensor_like
from zograd._checks import positive, require, vector
from zograd._errors import GradientError
from zograd._probes import Dense, Probes
from zograd._typing import Values, Vector, Weights
from zograd.estimators._average import lost, mean_of_finite, scalars
from zograd.estimators._estimator import Estimate, GradientEstimator

STEP_HINT = "It is the distance of a probe from the centre, one number or one for each direction."
NARROW = 0.1
"""A probe with less room than this share of the one opposite is moved to that side, half as far."""
ORTHONORMAL = 1e-3
"""How far the columns of a basis may be from orthonormal: rounding in float32 passes, a mistake does not."""


@final
@dataclass(frozen=True, eq=False)
class FrameGradient(GradientEstimator):
    r"""Central finite differences along orthonormal directions (CGE in a rotated frame).

    With the value f at the centre, probes at ``x + a_i q_i`` and ``x - b_i q_i``, and the two one-sided slopes
    :math:`s_i^+ = (f(x + a_i q_i) - f) / a_i` and :math:`s_i^- = (f - f(x - b_i q_i)) / b_i`,

    .. math:: c_i = 2\,\frac{s_i^+ - s_i^-}{a_i + b_i}, \qquad g = \sum_i \Big(s_i^+ - \frac{a_i c_i}{2}\Big) q_i

    which is exact for a quadratic also where a bound makes the two lengths unequal.

    **Cost**: ``2 d`` evaluations, 2 more where the value at the centre is not known: it is then evaluated twice, which
    gives the noise. **Bias**: O(step^2), as CGE. **Variance**: ``d s^2 / (2 step^2)`` for noise s. **When**: a step
    rule knows the directions and lengths along which the function is well scaled; `zograd.optim.QuasiNewton` does.

    Rows: the centre twice unless ``value`` is given, then ``+a`` of all directions, then ``-b`` of all. If half of a
    pair is lost, ``prior`` stands in for the curvature; if both are, the entry is 0 and counted in ``missing``. Without
    a value at the centre, only whole pairs count, and ``prior`` is all that is known of the curvature.

    Args:
        step: The distance of a probe from the centre, one number or one for each direction, shape (d,).
        basis: Orthonormal columns, shape (d, d); the coordinate axes by default.
        lower: Where the parameters end below, shape (d,): no probe lies outside. Minus infinity by default.
        upper: Where they end above.
        value: The value at the centre, where it is known; ``None`` evaluates it twice.
        prior: The curvature expected along each direction, shape (d,); 0 by default.
        noise: The standard deviation of one value, 0 where there is none: a noisy curvature leans on ``prior``.

    Raises:
        ArgumentError: When an argument is out of its range.

    Example:
        >>> import torch, zograd as zo
        >>> estimator = zo.FrameGradient(step=0.25, upper=torch.tensor([1.0, 2.1]).double())
        >>> probes = estimator.propose(torch.tensor([1.0, 2.0]).double(), torch.Generator())
        >>> estimate = estimator.gradient(probes, probes.points().square().sum(1))
        >>> estimate.gradient, estimate.curvature
        (tensor([2., 4.], dtype=torch.float64), tensor([2., 2.], dtype=torch.float64))

    References:
        - Kiefer and Wolfowitz, Stochastic estimation of the maximum of a regression function, Ann. Math. Stat. 1952.
        - Nocedal and Wright, Numerical optimization, 2006, section 8.1 and (9.2): directions that fit the curvature.
    """

    step: float | Tensor = 1e-3
    basis: Float[Tensor, "d d"] | None = None
    lower: Tensor | None = None
    upper: Tensor | None = None
    value: float | None = None
    prior: Tensor | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.basis is not None:
            hint = "Its columns are the directions: take those of torch.linalg.qr or torch.linalg.eigh."
            square = self.basis.ndim == 2 and self.basis.shape[0] == self.basis.shape[1] > 0
            require(square, "basis", "be a tensor of shape (d, d)", self.basis, hint)
            products = array(self.basis.T @ self.basis)
            off = np.abs(products - np.eye(len(products))).max()
            require(bool(off < ORTHONORMAL), "basis", "have orthonormal columns", self.basis, hint)
        if isinstance(self.step, Tensor):
            vector("step", self.step, STEP_HINT)
            require(bool((array(self.step) > 0).all()), "step", "have positive entries only", self.step, STEP_HINT)
        else:
            positive("step", self.step, STEP_HINT)
        require(self.noise >= 0, "noise", "be a standard deviation, 0 or more", self.noise)

    def propose(self, center: Vector, generator: torch.Generator) -> Probes:
        """One row for each direction and side, and the centre twice where its value is not known; nothing is drawn."""
        center = center.detach()
        dimension = len(center)
        steps = self.step.to(center) if isinstance(self.step, Tensor) else center.new_full((dimension,), self.step)
        require(len(steps) == dimension, "step", f"have one entry for each of {dimension} directions", steps)
        fits = self.basis is None or len(self.basis) == dimension
        require(
            fits, "basis", f"have shape ({dimension}, {dimension}), as the centre has {dimension} entries", self.basis
        )
        ahead, behind = (tensor_like(lengths, center) for lengths in self._lengths(center, steps))
        frame = self._frame(center)
        rows = [(frame * ahead).T, -(frame * behind).T]
        if self.value is None:
            rows.insert(0, center.new_zeros(2, dimension))
        return Probes(center, Dense(torch.cat(rows)))

    @np.errstate(all="ignore")
    def gradient(self, probes: Probes, values: Values) -> Estimate:
        """One slope and one curvature for each direction.

        Raises:
            GradientError: When the value at the centre is not known and everything is lost.
        """
        values = scalars(probes, values)
        center, dimension = probes.center, probes.dimension
        first = 2 if self.value is None else 0
        level, here, repeat = self._level(values[:first], values)
        frame = self._frame(center).T
        rows = probes.offsets.dense(center)[first:]
        ahead, behind = array((rows[:dimension] * frame).sum(1)), array(-(rows[dimension:] * frame).sum(1))
        told = array(values)
        above, below = told[first : first + dimension], told[first + dimension :]
        prior = array(self.prior.to(values)) if self.prior is not None else np.zeros_like(above)
        width = ahead + behind
        forward, backward = (above - here) / ahead, (here - below) / behind
        forward = np.where(np.isfinite(forward), forward, backward + prior * width / 2)
        backward = np.where(np.isfinite(backward), backward, forward - prior * width / 2)
        curved = np.isfinite(forward)
        curvature = np.where(curved, 2 * (forward - backward) / width, prior)
        both = (above - below) / width - prior * (ahead - behind) / 2
        slopes = np.where(curved, forward - curvature * ahead / 2, both)
        missing = ~np.isfinite(slopes)
        slopes[missing] = 0
        if self.noise > 0 and self.prior is not None:
            error = self.noise * (1 / np.abs(ahead * behind))
            trust = 1 / (1 + 6 * np.square(error / np.maximum(prior, np.finfo(prior.dtype).tiny)))
            curvature = trust * curvature + (1 - trust) * prior
        weights = np.zeros_like(told)
        weights[first : first + dimension] = slopes / ahead
        return Estimate(
            probes.weighted_sum(tensor_like(weights, values)),
            float(np.sum(2 * self.noise**2 * (1 / np.square(width)))) if self.noise > 0 else None,
            level,
            tensor_like(curvature, values),
            {"lost": lost(values), "missing": float(missing.sum())} | ({"repeat": repeat} if first else {}),
        )

    def evaluations(self, dimension: int) -> int:
        """``2 d``, and 2 more where the value at the centre is not known."""
        return 2 * dimension + (2 if self.value is None else 0)

    def _frame(self, center: Vector) -> Float[Tensor, "d d"]:
        if self.basis is None:
            return torch.eye(len(center), dtype=center.dtype, device=center.device)
        return self.basis.to(center)

    @np.errstate(all="ignore")
    def _lengths(self, center: Vector, steps: Weights) -> tuple[Array, Array]:
        """How far to go ahead and behind along each direction: less where a bound is near, the other way at a bound."""
        wanted = array(steps)
        if self.lower is None and self.upper is None:
            return wanted, wanted
        frame, here = array(self._frame(center)), array(center)
        above = (array(self.upper.to(center)) if self.upper is not None else np.full_like(here, np.inf)) - here
        below = here - (array(self.lower.to(center)) if self.lower is not None else np.full_like(here, -np.inf))
        size, onward = np.abs(frame), frame > 0
        along = size > 1e-9
        size = np.maximum(size, 1e-9)
        room_above, room_below = above[:, None] / size, below[:, None] / size
        up = np.where(along, np.where(onward, room_above, room_below), np.inf).min(0)
        down = np.where(along, np.where(onward, room_below, room_above), np.inf).min(0)
        ahead, behind = np.minimum(wanted, up), np.minimum(wanted, down)
        enough = NARROW * np.maximum(ahead, behind)
        ahead, behind = np.where(ahead >= enough, ahead, -behind / 2), np.where(behind >= enough, behind, -ahead / 2)
        shut = (ahead == 0) & (behind == 0)
        return np.where(shut, wanted, ahead), np.where(shut, wanted, behind)

    def _level(self, repeats: Tensor, values: Values) -> tuple[float, float, float]:
        """The loss at the centre, the same or NaN where it is only guessed, and the variance of one value.

        The guess is the mean of all values; the variance, which two evaluations tell, is 0 if one is lost.
        """
        if self.value is not None:
            return self.value, self.value, 0.0
        here = mean_of_finite(repeats)
        level = mean_of_finite(values) if here is None else here
        if level is None:
            raise GradientError(
                f"no gradient can be told: all {len(values)} evaluations were lost. Check that the program runs at the "
                "centre, or start elsewhere."
            )
        repeat = float((repeats[0] - repeats[1]).square() / 2)
        return level, torch.nan if here is None else here, repeat if math.isfinite(repeat) else 0.0
