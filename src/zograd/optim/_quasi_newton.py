"""A quasi-Newton step rule whose metric also says where to look next."""

from collections.abc import Iterable
from dataclasses import replace
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.linalg import vector_norm

from zograd._arrays import array, tensor_like
from zograd._checks import positive
from zograd._errors import ArgumentError
from zograd._parameters import Parameters
from zograd._probes import Probes
from zograd._typing import Values, Vector
from zograd.estimators import Estimate, FrameGradient, GradientEstimator
from zograd.optim._trial_rule import TrialRule

WIDEST = 0.5
"""The longest probe and Newton step along a direction, in units of the parameters: half of a bounded range."""
SHRINK = 0.2
"""A step that found nothing better is followed by probes this much shorter."""
WIDEN = 4.0
"""Probes that are all equal are followed by probes this much longer."""
PATIENCE = 5
"""Steps in a row that may find nothing before the descent has ended."""
SETTLED = 20
"""Averaged steps under noise before the descent has ended."""
CLEAR = 3.0
"""A value is lower than another when it is lower by so many standard deviations of the noise."""
CONDITION = 1e12
"""The metric's eigenvalues are kept within this ratio."""


@final
class QuasiNewton(TrialRule):
    r"""BFGS with measured curvature: no learning rate, and the probes follow the landscape.

    An estimate H of the inverse Hessian is kept. Its eigenvectors are the directions of the next `FrameGradient`, and
    the square roots of its eigenvalues their lengths, so that every probe changes f by about as much as the last step
    gained. Each gradient then

    1. measures the curvature along every direction (the probes give it for free), which resets the eigenvalues of H,
       and turns H by the BFGS update;
    2. tries the Newton step :math:`-H g`;
    3. moves to the best point of all, the trial and the probes. If none is better, the probes become shorter.

    Curvature enters by its absolute value, and no step goes beyond half the unit, so that saddles are left and steps
    stay finite. Probes that are all equal (a plateau) become longer. Under noise, whose level comes from evaluating the
    centre twice, slopes are shrunk by their signal-to-noise ratio, lengths stay where differences are clear, and
    once nothing clearly better is found, Newton steps are averaged (1 / k, Kesten's rule). A descent that has
    ended is followed by another from a random start within the bounds; the best of all is what counts.

    Cost: ``2 d`` evaluations a gradient (``2 d + 2`` under noise) and 1 for the trial step; O(d^3) arithmetic, so for
    up to some 200 parameters. Other estimators than `FrameGradient` keep their own probes; BFGS alone then tells the
    metric, and noise is not noticed. `ForwardGradient` is refused, for it tells no values.

    Args:
        params: One flat tensor, in units in which 1 is a large step (as `Parameters` makes them).
        first: The length of the first probes, in those units.
        restart: Whether to start again elsewhere when a descent has ended (else the last point is kept).

    Example:
        >>> import torch, zograd as zo
        >>> def rosenbrock(x):
        ...     return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
        >>> result = zo.minimize(rosenbrock, [-1.0, 1.0], bounds=(-2, 2), evaluations=400,
        ...                      estimator=zo.FrameGradient(), optimizer=zo.optim.QuasiNewton)
        >>> result.fun < 1e-8
        True

    References:
        - Nocedal and Wright, Numerical optimization, 2006, chapter 6 (BFGS) and section 8.1.
        - Dauphin et al., Identifying and attacking the saddle point problem, NeurIPS 2014 (absolute curvature).
        - Kesten, Accelerated stochastic approximation, Ann. Math. Stat. 1958 (when to average).
    """

    def __init__(self, params: Iterable[Tensor], first: float = 0.25, restart: bool = True) -> None:
        super().__init__(params, {"first": positive("first", first, "It is the length of the first probes.")})
        self.restart = restart
        self._framed = True
        self._begin(self.center.detach().clone())
        self._now.update(pairs=0, home=self.center.detach().clone(), reach=1.0, ended=None)

    def begin(self, parameters: Parameters, generator: torch.Generator) -> None:
        """Learn the bounds, how far whole numbers lie apart, and where random starts come from."""
        super().begin(parameters, generator)
        self._begin(self.center.detach().clone())

    def refine(self, estimator: GradientEstimator) -> GradientEstimator:
        """Directions, lengths, bounds and what is known of the centre for the next `FrameGradient`."""
        self._framed = isinstance(estimator, FrameGradient)
        if not isinstance(estimator, FrameGradient):
            return estimator
        s = self._now
        return replace(
            estimator,
            step=s["lengths"],
            basis=s["basis"],
            lower=self._lower,
            upper=self._upper,
            value=s["value"] if s["noise"] == 0.0 else None,
            prior=1 / s["scales"] if s["previous"] is not None else None,
            noise=s["noise"],
        )

    def take(self, estimate: Estimate, probes: Probes, values: Values) -> None:
        """Learn the curvature and prepare trial steps; where every probe was equal, look further away.

        Raises:
            ArgumentError: When the estimate tells no value at the centre.
        """
        s = self._now
        if probes.quantity != "value" or (estimate.value is None and s["value"] is None):
            raise ArgumentError(
                "`estimator` must tell the value at the centre, found an estimate without one. Use zo.FrameGradient(); "
                "with zo.ForwardGradient() take a rule that steps from .grad alone, such as torch.optim.Adam.",
                argument="estimator",
            )
        self._measure_noise(estimate.diagnostics.get("repeat"))
        if estimate.value is not None:
            s["value"] = estimate.value
        x, basis = self.center.detach(), s["basis"]
        slopes = basis.T @ estimate.gradient
        measured = estimate.curvature if self._framed else None  # others measure along coordinates, not along the basis
        known = measured if measured is not None else 1 / s["scales"]
        flat = (array(known) == 0) & (np.abs(array(slopes)) <= 1e-9 * float(vector_norm(estimate.gradient)))
        if flat.all():
            s["lengths"] = (WIDEN * s["lengths"]).clamp(max=self._widest)
            s["fails"] += 1
            if s["fails"] > PATIENCE:
                self._end()
            return
        gradient = self._learn(x, slopes, known, flat, estimate.gradient, measured is not None)
        if s["noise"] > 0:
            error = s["noise"] ** 2 / (2 * s["lengths"].square())
            gradient = basis @ (slopes * slopes.square() / (slopes.square() + error))
        here, uphill, (low, high) = array(x), array(gradient), self._box
        held = ((here <= low) & (uphill > 0)) | ((here >= high) & (uphill < 0))
        newton = -array(s["metric"] @ tensor_like(np.where(held, 0, uphill), x))
        newton[held] = 0
        s["gradient"], s["newton"] = gradient, tensor_like(newton, x)
        s["seen"], s["seen_values"] = probes.points(), values.clone()
        s["trials"] = tensor_like(np.minimum(np.maximum(here + newton, low), high) - here, x)[None]

    def settle(self, values: Values) -> None:
        """Move to the best point known, and set the next directions and lengths."""
        s = self._now
        x = self.center.detach()
        seen, trials = s["seen"], s["trials"]
        told = np.concatenate([array(s["seen_values"]), array(values)])
        told[~np.isfinite(told)] = np.inf
        s["trials"] = s["seen"] = s["seen_values"] = None
        row = int(told.argmin())
        best, level, noise = float(told[row]), s["value"], s["noise"]
        s["missed"] = 0 if row >= len(seen) and best < level else s["missed"] + 1
        floor = max(3e-7 * max(abs(level), 1e-3) ** 0.5, CLEAR * noise**0.5)
        if best < level - CLEAR * noise:
            self._move(seen[row] if row < len(seen) else x + trials[row - len(seen)])
            s.update(value=best, size=(level - best) ** 0.5, fails=0, averaged=0, count=0, sum=0.0)
        elif noise > 0 and s["size"] * SHRINK <= floor:
            self._average(level)
        else:
            s["fails"] += 1
            s["size"] *= SHRINK
        if noise > 0:
            ended = s["fails"] > 2 * PATIENCE or s["averaged"] >= SETTLED
        else:
            ended = (s["size"] < floor and s["fails"] > 1) or s["fails"] > PATIENCE
        if ended:
            self._end()
        else:
            s["size"] = max(s["size"], floor)
            self._aim()

    @property
    def missed(self) -> int:
        """Gradients in a row after which the Newton step was not the best point seen: many where slopes are chance."""
        missed: int = self._now["missed"]
        return missed

    # --- the parts of a step

    def _settled(self) -> tuple[Vector, float] | None:
        """The settled centre with the lowest mean value."""
        s = self._now
        here = s["sum"] / s["count"] if s["count"] else s["value"]
        if s["ended"] is not None and (here is None or here >= s["ended_value"]):
            return s["ended"].clone(), s["ended_value"]
        return (self.center.detach().clone(), here) if here is not None else None

    def _bound(self, lower: Vector, upper: Vector, least: Vector) -> None:
        super()._bound(lower, upper, least)
        self._box = array(self._lower), array(self._upper)
        # Further than `WIDEST` where whole numbers lie further apart than that.
        self._widest = max(WIDEST, float(self._least.max()))

    def _begin(self, x: Vector) -> None:
        """A new descent from ``x``, which knows nothing yet."""
        x = self._snapped(x)
        with torch.no_grad():
            self.center.copy_(x)
        d = len(x)
        eye = torch.eye(d, dtype=x.dtype, device=x.device)
        s = self.state[self.center]
        s.update(value=None, metric=eye, basis=eye, scales=torch.ones_like(x), previous=None, size=None)
        first = torch.full_like(x, self.param_groups[0]["first"]).maximum(self._least)
        s.update(began=x, lengths=first, fails=0, missed=0, averaged=0, count=0, sum=0.0)
        s.update(trials=None, seen=None, seen_values=None, gradient=None, newton=None, last=None)

    def _end(self) -> None:
        """Keep what this descent settled on, and start another elsewhere."""
        s = self._now
        answer = self.answer
        if answer is not None:
            s["ended"], s["ended_value"] = answer
        if not self.restart:
            self._begin(self.center.detach().clone())
            return
        x = s["home"] + s["reach"] * torch.randn(len(s["home"]), dtype=s["home"].dtype, generator=self._generator).to(
            s["home"]
        )
        inside = torch.rand(len(x), dtype=x.dtype, generator=self._generator).to(x)
        spread = self._lower + inside * (self._upper - self._lower)
        self._begin(spread.where(spread.isfinite(), x.clamp(self._lower, self._upper)))

    def _move(self, point: Vector) -> None:
        super()._move(point)
        s = self._now
        s["reach"] = max(s["reach"], float(np.abs(array(self.center) - array(s["began"])).max()))

    def _measure_noise(self, repeat: float | None) -> None:
        """Take the variance that one repeated centre tells into the mean of all of them."""
        s = self._now
        if repeat:
            s["noise"] = ((s["noise"] ** 2 * s["pairs"] + repeat) / (s["pairs"] + 1)) ** 0.5
            s["pairs"] += 1

    def _learn(
        self, x: Vector, slopes: Vector, known: Vector, flat: NDArray[np.bool_], gradient: Vector, measured: bool
    ) -> Vector:
        """Bring the metric up to date; return the gradient."""
        s = self._now
        basis, first = s["basis"], s["previous"] is None
        curvature = np.maximum(np.abs(array(known)), np.abs(array(slopes)) / self._widest)
        if flat.any():  # a direction that shows nothing is looked at from further away, four times as far
            middle = np.quantile(curvature[~flat], 0.5, method="lower")
            curvature = np.where(flat, middle if first else 1 / array(s["scales"]) / WIDEN**2, curvature)
        curvature = np.maximum(curvature, float(curvature.max()) * 1e-9)
        if first or measured:
            s["scales"] = tensor_like(1 / curvature, x)
            s["metric"] = (basis * s["scales"]) @ basis.T
        if not first:
            moved, turned = x - s["previous"][0], gradient - s["previous"][1]
            along = float(moved @ turned)
            if along > max(1e-6 * float(vector_norm(moved) * vector_norm(turned)), 4 * s["noise"], 1e-300):
                pull = s["metric"] @ turned / along
                cross = torch.outer(moved, pull)
                stretch = float(turned @ pull) / along + 1 / along
                s["metric"] = s["metric"] - cross - cross.T + stretch * torch.outer(moved, moved)
        s["previous"] = torch.stack([x, gradient])
        if s["size"] is None:
            s["size"] = float((s["lengths"] / s["scales"].sqrt()).median())
        return gradient

    def _average(self, level: float) -> None:
        """Under noise, when nothing is clearly better: shorter and shorter Newton steps, and the mean of the values."""
        s = self._now
        if s["averaged"] == 0 or float(s["gradient"] @ s["last"]) >= 0:
            s["averaged"] += 1
            s["count"] += 1
            s["sum"] += level
        else:  # still going downhill: what was averaged was too high
            s["count"], s["sum"] = 1, level
        s["last"] = s["newton"]
        self._move(self.center.detach() + s["newton"] / s["averaged"])

    def _aim(self) -> None:
        """The next directions and lengths: the metric's eigenvectors; axes near a bound and for whole numbers."""
        s = self._now
        x, metric, (low, high) = array(self.center), s["metric"], self._box
        reach = np.minimum(array(s["size"] * metric.diagonal().abs().sqrt()), self._widest)
        near = (np.minimum(x - low, high - x) < SHRINK * reach) | self._whole
        if near.any():
            alone = (near[:, None] | near) & ~np.eye(len(x), dtype=bool)
            metric = tensor_like(np.where(alone, 0, array(metric)), metric)
        scales, basis = (array(part) for part in torch.linalg.eigh(metric))
        scales = np.maximum(scales, max(float(scales.max()), 1e-100) / CONDITION)
        s["scales"] = tensor_like(scales, metric)
        s["basis"] = tensor_like(np.where(np.abs(basis) >= 1e-9, basis, 0), metric)
        lengths = np.minimum(np.maximum(array(s["scales"].sqrt()) * s["size"], 1e-9), self._widest)
        if self._whole.any():
            lengths = np.maximum(lengths, array((s["basis"].square().T @ self._least.square()).sqrt()))
        s["lengths"] = tensor_like(lengths, metric)
