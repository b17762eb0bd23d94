"""Finite differences along the coordinate axes."""

from dataclasses import dataclass
from typing import cast, final

import numpy as np
import torch
from torch import Tensor

from zograd._arrays import array, tensor_like
from zograd._checks import count, instance, positive, require, vector
from zograd._errors import GradientError
from zograd._probes import Coordinates, Probes
from zograd._typing import Indices, Values, Vector, Weights
from zograd.estimators._average import lost, mean_of_finite, scalars
from zograd.estimators._estimator import Estimate, GradientEstimator

STEP_HINT = "It is the distance of a probe from the centre; leave it out for smooth functions, try 1e-2 for noisy ones."


@final
@dataclass(frozen=True, eq=False)
class CoordinateGradient(GradientEstimator):
    r"""Coordinate-wise gradient estimation (CGE, Kiefer-Wolfowitz finite differences).

    .. math:: g_i = \frac{f(x + h_i e_i) - f(x - h_i e_i)}{2 h_i}, \qquad
       \text{or}\quad \frac{f(x + h_i e_i) - f(x)}{h_i} \quad\text{when not central}

    **Cost**: ``2 d`` evaluations (d the number of ``active`` coordinates), one more with ``curvature``;
    ``d + 1`` when not central. **Bias**: O(step^2) central, O(step) forward; plus rounding, the dtype's epsilon
    times ``|f| / step``. **Variance**: none of its own; a value with noise s adds ``s^2 / (2 step^2)`` an entry
    (``2 s^2 / step^2`` forward). **When**: every entry must be right (pruning scores, checks, few parameters),
    or the black box profits from knowing that one coordinate moved.

    Rows: ``[+h of all, -h of all]``, before them the centre with ``curvature``; ``[centre, +h of all]`` when not
    central. Differences are taken over the steps that floating point really makes, ``(x + h) - x``. If half of a pair
    is lost, the other half is compared with the centre, or where that was not evaluated with the mean of the other
    pairs: bias O(step) in that entry. If both are lost the entry is 0 and counted in ``diagnostics["missing"]``.

    Args:
        step: The distance h, one number or one for each parameter, shape (d,), in units of the parameters.
            ``None`` balances rounding against bias for a smooth function: ``max(1, |x_i|)`` times the cube root of the
            dtype's epsilon (central: 6e-6 in float64, 5e-3 in float32) or its square root (forward). Noisy or quantised
            programs, such as 8-bit renderers, need a step at which the value visibly changes.
        active: The coordinates to estimate, integers without repetition; the others' entries are 0. All by default.
        central: Whether to look both ways.
        curvature: Whether to evaluate the centre too (central only), which gives ``Estimate.value`` exactly and
            the Hessian's diagonal, ``(f(x + h) - 2 f(x) + f(x - h)) / h^2``, as ``Estimate.curvature``: NaN where
            it was not asked for or a row of it is lost.
        noise: The standard deviation of one value, where known: gives ``Estimate.squared_error``.

    Raises:
        ArgumentError: When an argument is out of its range.

    Example:
        >>> import torch, zograd as zo
        >>> estimator = zo.CoordinateGradient(active=torch.tensor([0, 2]))
        >>> probes = estimator.propose(torch.tensor([1.0, 2.0, 3.0]).double(), torch.Generator())
        >>> values = probes.points().square().sum(1)
        >>> estimator.gradient(probes, values).gradient.round(decimals=6)
        tensor([2., 0., 6.], dtype=torch.float64)

    References:
        - Kiefer and Wolfowitz, Stochastic estimation of the maximum of a regression function, Ann. Math. Stat. 1952.
        - Chen et al., DeepZero: scaling up zeroth-order optimization for deep model training, ICLR 2024, section 3.
        - Nocedal and Wright, Numerical optimization, 2006, section 8.1 (the choice of the step).
    """

    step: float | Tensor | None = None
    active: Tensor | None = None
    central: bool = True
    curvature: bool = False
    noise: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.step, Tensor):
            vector("step", self.step, STEP_HINT)
            require(bool((self.step > 0).all()), "step", "have positive entries only", self.step, STEP_HINT)
        elif self.step is not None:
            positive("step", self.step, STEP_HINT)
        if self.active is not None:
            hint = "It names the coordinates to estimate, such as torch.tensor([0, 2]) or mask.nonzero().squeeze(1)."
            instance("active", self.active, Tensor, "a tensor of integers", hint)
            good = self.active.ndim == 1 and self.active.dtype == torch.int64 and len(self.active) > 0
            require(good, "active", "be an int64 tensor of shape (k,) with k >= 1", self.active, hint)
            unique = len(set(self.active.tolist())) == len(self.active) and int(self.active.min()) >= 0
            require(unique, "active", "hold coordinates from 0 on, each at most once", self.active.tolist(), hint)
        instance("central", self.central, bool, "True (look both ways) or False (forward differences)")
        instance("curvature", self.curvature, bool, "True or False")
        hint = "A second difference needs both sides."
        require(self.central or not self.curvature, "curvature", "be False when central is False", self.curvature, hint)
        if self.noise is not None:
            positive("noise", self.noise, "It is the standard deviation of one value.")

    def propose(self, center: Vector, generator: torch.Generator) -> Probes:
        """One row for each coordinate and side; nothing is drawn."""
        vector("center", center, "It is the point where the gradient is wanted.")
        center = center.detach()
        index = self._index(center)
        here = center[index]
        wanted = self._steps(center, index, here)
        # Only the distance that floating point really moves belongs in the difference.
        ahead, behind = (here + wanted) - here, (here - wanted) - here
        stuck = (ahead == 0) | (behind == 0)
        if stuck.any():
            at = int(stuck.nonzero()[0])
            hint = f"Coordinate {int(index[at])} is {float(here[at])} in {center.dtype}; take a larger step."
            require(False, "step", "be large enough to move the centre", float(wanted[at]), hint)
        origin, still = index[:1], ahead.new_zeros(1)
        if not self.central:
            offsets = Coordinates(torch.cat([origin, index]), torch.cat([still, ahead]))
        elif self.curvature:
            offsets = Coordinates(torch.cat([origin, index, index]), torch.cat([still, ahead, behind]))
        else:
            offsets = Coordinates(torch.cat([index, index]), torch.cat([ahead, behind]))
        return Probes(center, offsets)

    @np.errstate(all="ignore")
    def gradient(self, probes: Probes, values: Values) -> Estimate:
        """One difference for each coordinate.

        Raises:
            GradientError: When no coordinate has a difference left, or forward differences lost their centre.
        """
        values = scalars(probes, values)
        given = isinstance(probes.offsets, Coordinates)
        require(given, "probes", "be what `propose` gave, with Coordinates as offsets", probes.offsets)
        offsets = cast(Coordinates, probes.offsets)
        steps = offsets.step
        variance = (self.noise or 0.0) ** 2
        base = mean_of_finite(values[:1]) if self.curvature or not self.central else None
        base_variance = variance
        told, distance = array(values), array(steps.to(values))
        if not self.central:
            if base is None:
                raise GradientError(
                    f"no gradient can be told: the value at the centre is lost, and each of the {len(values) - 1} "
                    "forward differences needs it. Evaluate again, or pass central=True."
                )
            rows, plus = probes[1:], distance[1:]
            ahead, behind, minus = told[1:], np.full_like(plus, np.nan), -plus
        else:
            first = int(self.curvature)
            half = (len(values) - first) // 2
            rows = probes[first : first + half]
            plus, minus = np.split(distance[first:], 2)
            ahead, behind = np.split(told[first:], 2)
            if base is None:
                pairs = (ahead + behind) / 2
                base = mean_of_finite(torch.from_numpy(pairs))
                base_variance = variance / (2 * max(1, int(np.count_nonzero(np.isfinite(pairs)))))
        level = np.nan if base is None else base
        forward, backward, both = (ahead - level) / plus, (behind - level) / minus, (ahead - behind) / (plus - minus)
        whole = np.isfinite(both)
        slopes = np.where(whole, both, np.where(np.isfinite(forward), forward, backward))
        missing = ~np.isfinite(slopes)
        if missing.all():
            raise GradientError(
                f"no gradient can be told: none of the {len(slopes)} coordinates has a difference left "
                f"({lost(values):.0f} of {len(values)} evaluations were lost). Check that the program runs at the "
                "centre, or make the step smaller."
            )
        squared_error = None
        if self.noise is not None:
            one_sided = (variance + base_variance) / np.square(plus)
            noise = np.where(whole, 2 * variance / np.square(plus - minus), one_sided)
            squared_error = float(noise[~missing].sum())
        curvature = None
        if self.curvature and np.isfinite(told[0]):
            curvature = torch.full_like(probes.center, torch.nan)
            index = offsets.index[1 : 1 + len(plus)]
            curvature[index] = tensor_like(2 * (forward - backward) / (plus - minus), curvature)
        return Estimate(
            rows.weighted_sum(tensor_like(np.where(missing, 0, slopes) / plus, values)),
            squared_error,
            base,
            curvature,
            {"lost": lost(values), "missing": float(np.count_nonzero(missing))},
        )

    def evaluations(self, dimension: int) -> int:
        """``2 k`` for k active coordinates (all by default), ``2 k + 1`` with curvature, ``k + 1`` when not central."""
        k = count("dimension", dimension) if self.active is None else len(self.active)
        return 2 * k + int(self.curvature) if self.central else k + 1

    def _index(self, center: Vector) -> Indices:
        """The coordinates to estimate."""
        if self.active is None:
            return torch.arange(len(center), device=center.device)
        hint = "The largest coordinate is d - 1."
        inside = int(self.active.max()) < len(center)
        require(inside, "active", f"lie below d={len(center)}", int(self.active.max()), hint)
        return self.active.to(center.device)

    def _steps(self, center: Vector, index: Indices, here: Weights) -> Weights:
        """The wanted distance for each coordinate of ``index``, which stands at ``here``."""
        if isinstance(self.step, Tensor):
            require(
                self.step.shape == center.shape,
                "step",
                f"have one entry for each of {len(center)} parameters",
                self.step,
            )
            return self.step.to(center)[index]
        if self.step is not None:
            return torch.full_like(here, self.step)
        power = 1 / 3 if self.central else 1 / 2
        scale: float = torch.finfo(center.dtype).eps ** power
        return scale * here.abs().clamp(min=1.0)
