"""A trust region around the centre, in which a fitted quadratic is believed: for few parameters."""

from collections.abc import Iterable
from typing import final

import numpy as np
import torch
from torch import Tensor

from zograd._arrays import array
from zograd._checks import positive
from zograd._errors import ArgumentError
from zograd._probes import Probes
from zograd._typing import Values, Vector
from zograd.estimators import Estimate, GradientEstimator, PolynomialSurrogate
from zograd.estimators._quadratic import Fit
from zograd.estimators._replay import Array
from zograd.optim._trial_rule import TrialRule

WIDEST = 0.5
"""The widest spread, in units of the parameters: half of a bounded range."""
NARROWEST = 1e-9
"""The narrowest."""
RADIUS = 2.0
"""The trust region's radius, in spreads (root mean square of a coordinate)."""
GROW, SHRINK = 1.6, 0.5
"""What the spread becomes after a step that was foretold well, and after one that was not."""
GOOD, BAD = 0.75, 0.1
"""Actual over predicted decrease above which the spread grows, and below which it shrinks."""
ROOM = 1.2
"""A short step leaves so many times its own length as the spread."""
CLEAR = 3.0
"""Under noise, the spread shrinks only while the model's differences are so many standard deviations."""
FLAT = 2.0
"""What the spread becomes when all values are equal."""
VAIN = 0.5
"""A failure that gained less than so much of what was predicted, since the one before, was in vain."""
ROUND = 1 + 1e-12
"""The trust region's edge, to within rounding."""
DEPTH = 6
"""Vain failures in a row after which it starts wide again: each halves what a smooth model misses, so 64 times."""


@final
class TrustRegion(TrialRule):
    r"""Model-based descent: step to the surrogate's minimum within a trust region (NEWUOA's idea, by regression).

    For up to 16 parameters, with `PolynomialSurrogate`: each gradient refits a quadratic to the latest values, the step
    minimises it within 2 spreads,

    .. math:: s = \operatorname{argmin}_{\lVert s \rVert \le 2 \sqrt d\, \sigma} g \cdot s + \tfrac12 s^\top H s,
       \qquad \rho = \frac{f(x) - f(x + s)}{-(g \cdot s + \frac12 s^\top H s)}

    where low values count most in the fit (those higher by half the median excess count half), so that walls do not
    outweigh a valley's floor. The ratio of actual to predicted decrease sets the next spread: wider above 0.75, half
    below 0.1, so that it shrinks with progress, and a step uphill is noticed at once. The centre moves to the best
    point seen, the samples included. Where all values are equal (a plateau) the spread doubles. Along whole numbers it
    stays at least as wide as they lie apart.

    On a rough landscape (edges, staircases) values differ without end however near one looks, and no spread is narrow
    enough for a quadratic. Where 6 failures in a row, each at half the spread, gained next to nothing of what was
    predicted, the spread starts again as wide as at first, around the best point; the next time after 7, and so on.
    From the first time on it is patient: a bad step proves nothing against the spread while the quadratic still rests
    on samples from elsewhere, so it shrinks only after as many new values as the quadratic has coefficients.

    Under noise, noticed because the first centre is evaluated twice, the lowest value is luck: the centre follows
    the model, its value is the model's, and the spread stays wide enough for differences to be clear.

    Cost: ``2 samples`` evaluations a gradient and 1 for the step (2 under noise, to compare both in one wave).
    Arithmetic O(d^6), all in a few matrix products.

    Args:
        params: One flat tensor, in units in which 1 is a large step (as `Parameters` makes them).
        first: The first spread; by default that of the estimator.

    Example:
        >>> import functools, zograd as zo
        >>> result = zo.minimize(lambda x: (x[0] - 1) ** 2 + 10 * (x[1] - x[0] ** 2) ** 2, [-1.0, 1.0], evaluations=200,
        ...                      estimator=zo.PolynomialSurrogate(samples=2), optimizer=zo.optim.TrustRegion)
        >>> result.fun < 1e-8
        True

    References:
        - Conn, Scheinberg and Vicente, Introduction to derivative-free optimization, SIAM 2009, chapter 10.
        - Powell, The NEWUOA software for unconstrained optimization without derivatives, 2006.
    """

    def __init__(self, params: Iterable[Tensor], first: float | None = None) -> None:
        if first is not None:
            positive("first", first, "It is the first spread, in units of the parameters.")
        super().__init__(params, {"first": first})
        self._surrogate: PolynomialSurrogate | None = None
        self._now.update(
            spread=first, value=None, waves=0, predicted=0.0, best=None, settled=None, tried=None, told=None
        )
        # The step in spreads; values since the spread changed, and the centre's value then; failures in vain.
        self._now.update(length=0.0, fresh=0, needed=0, before=None, vain=0, depth=DEPTH, widest=None)

    def refine(self, estimator: GradientEstimator) -> GradientEstimator:
        """The surrogate, with the spread of the trust region."""
        if not isinstance(estimator, PolynomialSurrogate):
            must = "`estimator` must be a PolynomialSurrogate, whose minimum is the step"
            raise ArgumentError(f"{must}, found {estimator!r}.", argument="estimator", found=estimator)
        s = self._now
        if s["spread"] is None:
            s["spread"] = estimator.spread
        if s["widest"] is None:
            s["widest"] = s["spread"]
        # Under noise low values are luck; else they are what the walls of a valley must not outweigh.
        self._surrogate = estimator.reaching(s["spread"], self._apart, low=s["noise"] == 0.0)
        if s["tried"] is not None:  # not before: a descent that is restored between the two has no surrogate yet
            self._surrogate.remember(s["tried"], s["told"])
            s["tried"] = s["told"] = None
        return self._surrogate

    def take(self, estimate: Estimate, probes: Probes, values: Values) -> None:
        """Prepare the step to the model's minimum.

        Raises:
            ArgumentError: When the surrogate is a linear one.
        """
        s, x, surrogate = self._now, self.center.detach(), self._surrogate
        d = len(x)
        fit = surrogate.fit(x) if surrogate is not None else None  # which `gradient` has just made
        if surrogate is None or fit is None:
            raise ArgumentError(
                f"`estimator` must fit a quadratic, found a linear model of {d} parameters. Pass "
                "degree='diagonal', or take torch.optim.Adam with betas=(0, 0.999).",
                argument="estimator",
            )
        told = array(values)
        known = told[np.isfinite(told)]
        if (known == known[0]).all() and (s["value"] is None or float(known[0]) >= s["value"]):
            s["spread"] = min(FLAT * s["spread"], max(WIDEST, s["spread"]))
            return
        move, s["predicted"] = step_within(fit, RADIUS * d**0.5)
        s["length"] = float(np.linalg.norm(move)) / d**0.5
        s["fresh"], s["needed"] = s["fresh"] + len(told) + 1, surrogate.coefficients(d)
        step = torch.from_numpy(move * surrogate.lengths(d)).to(x)
        target = self._snapped((x + step).clamp(self._lower, self._upper))
        row = int(np.where(np.isfinite(told), told, np.inf).argmin())
        s["best"] = probes[row : row + 1].points()[0]
        s["best_value"] = float(told[row])
        s["settled"] = fit.value
        repeats = 2 if s["waves"] == 0 else 1 if s["noise"] > 0 or s["value"] is None else 0
        trial = (target - x)[None]
        s["trials"] = torch.cat([x.new_zeros(repeats, d), trial]) if repeats else trial

    def settle(self, values: Values) -> None:
        """Move, and set the next spread."""
        s, x = self._now, self.center.detach().clone()
        trials, told = s["trials"], array(values)
        told = np.where(np.isfinite(told), told, np.inf)
        s["trials"] = None
        repeats = len(trials) - 1
        s["tried"], s["told"] = x + trials, values.clone()
        if s["waves"] == 0:
            spread = abs(float(values[0] - values[1])) / 2**0.5
            s["noise"] = spread if np.isfinite(spread) else 0.0
        s["waves"] += 1
        if repeats:
            s["value"] = float(told[:repeats].mean())
        level, found = s["value"], float(told[-1])
        ratio = (level - found) / max(s["predicted"], 1e-300) if np.isfinite(level) else 0.0
        if s["noise"] > 0:
            if found < level + s["noise"]:
                self._follow(x + trials[-1], found)
        elif min(found, s["best_value"]) < level:
            self._follow(*((x + trials[-1], found) if found <= s["best_value"] else (s["best"], s["best_value"])))
        self._resize(ratio)

    def _resize(self, ratio: float) -> None:
        """The next spread, knowing actual over predicted decrease."""
        s = self._now
        if s["before"] is None:
            s["before"] = s["value"]
        clear = s["noise"] == 0.0 or s["predicted"] > CLEAR * s["noise"]
        # On a smooth landscape, a quadratic that is not complete yet is mostly good enough to go by.
        complete = clear and (s["depth"] == DEPTH or s["fresh"] >= s["needed"])
        spread, length = s["spread"], s["length"]
        if ratio > GOOD and length > 1:
            s["spread"] *= GROW
            s["vain"] = max(0, s["vain"] - 1)
        elif complete and ratio < BAD:
            s["spread"] *= SHRINK
            s["vain"] = s["vain"] + 1 if s["before"] - s["value"] < VAIN * s["predicted"] else 0
        elif complete and length < 0.5:
            s["spread"] *= max(0.4, ROOM * length)
            s["vain"] = 0
        if s["noise"] == 0.0 and s["vain"] >= s["depth"]:
            s["spread"] = max(s["widest"], s["spread"])
            s["vain"], s["depth"] = 0, s["depth"] + 1
        if s["spread"] != spread:
            s["fresh"], s["before"] = 0, s["value"]
        s["spread"] = min(max(s["spread"], NARROWEST), max(WIDEST, spread))

    def _follow(self, point: Vector, value: float) -> None:
        with torch.no_grad():
            self.center.copy_(point.clamp(self._lower, self._upper))
        self._now["value"] = value

    def _settled(self) -> tuple[Vector, float] | None:
        """The centre and the model's value there."""
        settled = self._now["settled"]
        return None if settled is None else (self.center.detach().clone(), float(settled))


def step_within(fit: Fit, radius: float) -> tuple[Array, float]:
    """The minimum of a quadratic within a ball around its centre, and the decrease that it promises."""
    bends, axes = np.linalg.eigh(fit.curvature)
    slope = axes.T @ fit.slope
    size = float(np.linalg.norm(slope))
    lift = max(0.0, -float(bends[0])) + 1e-12 * (abs(float(bends[-1])) + size)

    def step(more: float) -> Array:
        return np.asarray(-slope / np.maximum(bends + more, 1e-300))

    inside = bends[0] > 0 and np.linalg.norm(step(0.0)) <= radius
    more = 0.0 if inside else lift
    move = step(more)
    # Newton's method on 1/length - 1/radius, which is concave: from below it never steps past the root.
    for _ in range(0 if inside else 50):
        length = float(np.linalg.norm(move))
        if length <= ROUND * radius:
            break
        more += (length / radius - 1) * length**2 / float((move * move / np.maximum(bends + more, 1e-300)).sum())
        move = step(more)
    promised = -float(slope @ move + 0.5 * (bends * move * move).sum())
    return axes @ move, promised
