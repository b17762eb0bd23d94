"""Central differences along an orthonormal frame, inside bounds, with the curvature that they give for free."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

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
            off = (self.basis.T @ self.basis).fill_diagonal_(0).abs().max() + (self.basis.norm(dim=0) - 1).abs().max()
            require(bool(off < ORTHONORMAL), "basis", "have orthonormal columns", self.basis, hint)
        if isinstance(self.step, Tensor):
            vector("step", self.step, STEP_HINT)
            require(bool((self.step > 0).all()), "step", "have positive entries only", self.step, STEP_HINT)
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
        ahead, behind = self._lengths(center, steps)
        frame = self._frame(center)
        rows = [(frame * ahead).T, -(frame * behind).T]
        if self.value is None:
            rows.insert(0, center.new_zeros(2, dimension))
        return Probes(center, Dense(torch.cat(rows)))

    def gradient(self, probes: Probes, values: Values) -> Estimate:
        """One slope and one curvature for each direction.

        Raises:
            GradientError: When the value at the centre is not known and everything is lost.
        """
        values = scalars(probes, values)
        center, dimension = probes.center, probes.dimension
        first = 2 if self.value is None else 0
        level, here, repeat = self._level(values[:first], values)
        frame = self._frame(center)
        rows = probes.offsets.dense(center)[first:]
        ahead = (rows[:dimension] * frame.T).sum(1)
        behind = -(rows[dimension:] * frame.T).sum(1)
        prior = self.prior.to(values) if self.prior is not None else torch.zeros_like(ahead)
        width = ahead + behind
        both = (values[first : first + dimension] - values[first + dimension :]) / width - prior * (ahead - behind) / 2
        forward = (values[first : first + dimension] - here) / ahead
        backward = (here - values[first + dimension :]) / behind
        forward = forward.where(forward.isfinite(), backward + prior * width / 2)
        backward = backward.where(backward.isfinite(), forward - prior * width / 2)
        curved = forward.isfinite()
        curvature = (2 * (forward - backward) / width).where(curved, prior)
        slopes = (forward - curvature * ahead / 2).where(curved, both)
        told = slopes.isfinite()
        slopes = slopes.where(told, torch.zeros_like(slopes))
        if self.noise > 0 and self.prior is not None:
            error = self.noise / (ahead * behind).abs()
            trust = 1 / (1 + 6 * (error / prior.clamp(min=torch.finfo(prior.dtype).tiny)).square())
            curvature = trust * curvature + (1 - trust) * prior
        weights = torch.zeros_like(values)
        weights[first : first + dimension] = slopes / ahead
        return Estimate(
            probes.weighted_sum(weights),
            float((2 * self.noise**2 / width.square()).sum()) if self.noise > 0 else None,
            level,
            curvature,
            {"lost": lost(values), "missing": float((~told).sum())} | ({"repeat": repeat} if first else {}),
        )

    def evaluations(self, dimension: int) -> int:
        """``2 d``, and 2 more where the value at the centre is not known."""
        return 2 * dimension + (2 if self.value is None else 0)

    def _frame(self, center: Vector) -> Float[Tensor, "d d"]:
        if self.basis is None:
            return torch.eye(len(center), dtype=center.dtype, device=center.device)
        return self.basis.to(center)

    def _lengths(self, center: Vector, steps: Weights) -> tuple[Weights, Weights]:
        """How far to go ahead and behind along each direction: less where a bound is near, the other way at a bound."""
        if self.lower is None and self.upper is None:
            return steps, steps
        frame = self._frame(center)
        infinite = torch.full_like(center, torch.inf)
        above = ((self.upper.to(center) if self.upper is not None else infinite) - center)[:, None]
        below = (center - (self.lower.to(center) if self.lower is not None else -infinite))[:, None]
        size = frame.abs().clamp(min=1e-9)
        up = (above / size).where(frame > 0, below / size).where(frame.abs() > 1e-9, torch.inf).amin(0)
        down = (below / size).where(frame > 0, above / size).where(frame.abs() > 1e-9, torch.inf).amin(0)
        ahead, behind = steps.minimum(up), steps.minimum(down)
        enough = NARROW * ahead.maximum(behind)
        ahead, behind = ahead.where(ahead >= enough, -behind / 2), behind.where(behind >= enough, -ahead / 2)
        shut = (ahead == 0) & (behind == 0)
        return ahead.where(~shut, steps), behind.where(~shut, steps)

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
