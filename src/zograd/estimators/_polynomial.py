"""A polynomial fitted to samples, new and remembered ones."""

import math
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray

from zograd._arrays import array, tensor_like
from zograd._checks import count, one_of
from zograd._probes import Dense, Probes
from zograd._typing import Points, Values, Vector
from zograd.estimators import _quadratic
from zograd.estimators._average import half_cosine
from zograd.estimators._estimator import Estimate
from zograd.estimators._quadratic import Fit
from zograd.estimators._replay import Array, Replay
from zograd.estimators._span import Span
from zograd.estimators._surrogate import Surrogate, foretold, pairs

Degree = Literal["auto", "linear", "diagonal", "quadratic"]
DEGREES: tuple[Degree, ...] = ("auto", "linear", "diagonal", "quadratic")
QUADRATIC, DIAGONAL = 16, 48
"""The most parameters for which ``auto`` fits a full or a diagonal quadratic."""
DIRECTIONS = 128
"""Directions that a linear model remembers."""
ROOM = 2**25
"""Bytes that it may take for that."""
SPARE = 3
"""Rows that a quadratic remembers for each of its coefficients."""


@final
@dataclass(eq=False)
class PolynomialSurrogate(Surrogate):
    r"""Polynomial surrogate: ridge regression on replayed samples (regression gradient, model-based ES).

    Few parameters: a quadratic, full or diagonal, fitted by weighted least squares to the last ``window`` values,

    .. math:: \min_{a, g, H} \sum_i w_i \Big(f_i - a - g \cdot z_i - \tfrac12 z_i^\top H z_i\Big)^2, \quad
       z_i = \frac{x_i - x}{\sigma}, \quad w_i = \frac{1}{1 + (\lVert z_i \rVert^2 / 4 d)^2}

    with the gradient :math:`g / \sigma`. Many: a linear model of the half differences :math:`\delta_k = (f(x + o_k) -
    f(x - o_k)) / 2` of the last ``window`` pairs, in their span,

    .. math:: g = O^\top (O O^\top + \lambda D)^{-1} \delta, \qquad D_{kk} = \rho^{-\text{age of } k}

    where :math:`\rho` (how long it remembers) and :math:`\lambda` are those with which each of the latest differences
    is foretold best by all others.
    No (d, d) matrix is made: memory O(window x d).

    **Cost**: ``2 samples`` evaluations. **Bias**: O(spread^2) for the quadratic once it has samples to spare; the
    linear model is **short** where it has seen fewer than d directions (it tells only its share of the gradient, which
    is the estimate of least squared error), and late where the gradient has changed. **Variance**: less than that of
    the new samples alone: none on a quadratic program with the quadratic, or on a linear one after d pairs.
    **When**: with `zograd.optim.TrustRegion` for up to 16 parameters; with ``torch.optim.Adam(betas=(0, 0.999))`` (the
    surrogate has a memory, and momentum is a second one) for more. A program that changes course faster than it
    can be looked at, or whose values are mostly noise, gains little: `RandomGradient` then costs less arithmetic.

    Args:
        spread: The standard deviation of the samples, in units of the parameters.
        samples: The number of mirrored pairs a gradient.
        degree: ``"linear"``, ``"diagonal"``, ``"quadratic"``, or ``"auto"``: quadratic up to 16 parameters, diagonal up
            to 48.
        window: How much is remembered: rows of values for a quadratic (by default three times its coefficients),
            pairs for a linear model (128, or what fits in 32 MiB).

    Raises:
        ArgumentError: When an argument is out of its range.

    Example:
        >>> import torch, zograd as zo
        >>> estimator, generator = zo.PolynomialSurrogate(spread=0.5, samples=4), torch.Generator().manual_seed(0)
        >>> for _ in range(3):
        ...     probes = estimator.propose(torch.tensor([1.0, 2.0]).double(), generator)
        ...     estimate = estimator.gradient(probes, probes.points().square().sum(1))
        >>> estimate.gradient.round(decimals=3), estimate.curvature.round(decimals=3)
        (tensor([2., 4.], dtype=torch.float64), tensor([2., 2.], dtype=torch.float64))

    References:
        - Conn, Scheinberg and Vicente, Introduction to derivative-free optimization, SIAM 2009, chapters 2 to 4.
        - Hoerl and Kennard, Ridge regression, Technometrics 1970.
        - Fischer and Ritschel, ZeroGrads, SIGGRAPH 2024 (surrogates that remember).
    """

    spread: float = 0.1
    samples: int = 8
    degree: Degree = "auto"
    window: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("degree", self.degree, DEGREES)
        if self.window is not None:
            count("window", self.window, 2, "It is how much is remembered; leave it out for a fitting size.")
        self._memory |= {"span": None, "replay": None, "fit": None, "before": None}
        self._least: Array | None = None
        self._low = False

    def propose(self, center: Vector, generator: torch.Generator) -> Probes:
        """Offsets and their mirror images; for a quadratic orthogonal ones of several lengths, which tell its bend."""
        if not self.curved(len(center)):
            return super().propose(center, generator)
        d, frames = len(center), math.ceil(self.samples / len(center))
        # All frames at once: one call for each would cost more than the fit.
        axes = torch.linalg.qr(torch.randn(frames, d, d, dtype=torch.float64, generator=generator)).Q
        far = d**0.5 * (0.5 + torch.rand(self.samples, 1, dtype=torch.float64, generator=generator))
        rows = far.numpy() * axes.mT.reshape(-1, d).numpy()[: self.samples] * self.lengths(d)
        return Probes(center.detach(), Dense(tensor_like(np.concatenate([rows, -rows]), center)))

    def reaching(self, spread: float, least: Array, low: bool) -> "PolynomialSurrogate":
        """The same surrogate, with the same memory, that looks ``spread`` far, and at least ``least`` along each axis.

        Args:
            spread: As in the constructor.
            least: Shape (d,): how far whole numbers lie apart, for nearer by nothing is seen; 0 for a real one.
            low: Whether low values count more than high ones: for a minimum at the foot of steep walls.
        """
        other = self.with_spread(spread)
        other._least, other._low = least, low
        return other

    def lengths(self, dimension: int) -> Array:
        """How far it looks along each axis, shape (d,): the units in which `fit` sees the samples."""
        return np.full(dimension, self.spread) if self._least is None else np.maximum(self._least, self.spread)

    def coefficients(self, dimension: int) -> int:
        """How many numbers it fits."""
        return _quadratic.size(dimension, self._model(dimension) == "quadratic")

    def curved(self, dimension: int) -> bool:
        """Whether it fits curvature for so many parameters, so that `zograd.optim.TrustRegion` can use it."""
        return self._model(dimension) != "linear"

    def remember(self, points: Points, values: Values) -> None:
        """Take in values that were found elsewhere, such as at trial steps; a linear model does not need them."""
        if self.curved(points.shape[1]):
            told = array(values.detach()).astype(np.float64)
            kept = np.isfinite(told)
            self._replay(points.shape[1]).add(array(points.detach())[kept], told[kept, None])

    def fit(self, center: Vector) -> Fit | None:
        """The quadratic around any centre, in units of `lengths`; ``None`` for a linear model or before any value.

        Args:
            center: Shape (d,).
        """
        replay = self._memory["replay"]
        if replay is None or not len(replay):
            return None
        here = array(center.detach()).astype(np.float64)
        lengths = self.lengths(len(here))
        key = (replay.added, self._low, here.tobytes(), lengths.tobytes())
        known = self._memory["fit"]
        if known is None or known[0] != key:
            z = (replay.rows - here) / lengths
            fitted = _quadratic.fit(z, replay.numbers[:, 0], self._model(len(here)) == "quadratic", self._low)
            known = self._memory["fit"] = (key, fitted)
        fit: Fit = known[1]
        return fit

    def state_dict(self) -> dict[str, Any]:
        """The samples that are remembered, and what is known of them."""
        span, replay = self._memory["span"], self._memory["replay"]
        if span is None and replay is None:
            return {}
        kept = span.state() if span is not None else replay.state()
        return {**self._common_state(), "span": span is not None, "kept": kept, "before": self._before_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.__post_init__()
        if not state:
            return
        self._load_common(state)
        rows = state["kept"]["rows"]
        if state["span"]:
            self._span(rows.shape[1]).load(state["kept"])
        else:
            self._replay(rows.shape[1]).load(state["kept"])
        if state["before"] is not None:
            value, *arrays = state["before"]
            slope, curvature, there, lengths = (each.double().numpy() for each in arrays)
            self._memory["before"] = Fit(value, slope, curvature, None), there, lengths

    def _before_state(self) -> list[Any] | None:
        """The last fit, its centre and its units: with it the next values are foretold."""
        before = self._memory["before"]
        if before is None:
            return None
        fit, there, lengths = before
        return [fit.value, *(torch.tensor(each) for each in (fit.slope, fit.curvature, there, lengths))]

    def _learn(self, probes: Probes, told: Array, kept: NDArray[np.bool_]) -> Estimate:
        return self._curved(probes, told, kept) if self.curved(probes.dimension) else self._linear(probes, told)

    def _linear(self, probes: Probes, told: Array) -> Estimate:
        rows, half = pairs(probes, told)
        numbers = half_cosine(rows, half)
        span = self._span(probes.dimension)
        # In units of the spread, so that pairs of one spread and another weigh the same.
        directions, slopes = rows / np.float32(self.spread), half / self.spread
        explained = span.forecast(directions, slopes)
        if explained is not None:
            numbers["r_squared"] = explained
        span.add(directions, slopes)
        return Estimate(torch.from_numpy(span.gradient()).to(probes.center), diagnostics=numbers)

    def _curved(self, probes: Probes, told: Array, kept: NDArray[np.bool_]) -> Estimate:
        center, lengths = probes.center, self.lengths(probes.dimension)
        offsets, half = array(probes.offsets.dense(center)).astype(np.float64), len(told) // 2
        numbers = {}
        if kept.all():
            numbers = half_cosine(offsets[:half], told[:half] - told[half:], len(center))
        else:
            offsets, told = offsets[kept], told[kept]
        here = array(center).astype(np.float64)
        rows = here + offsets
        if self._memory["before"] is not None:
            # The last fit, around the last centre: another around this one would cost as much as the fit to come.
            last, there, scale = self._memory["before"]
            numbers |= foretold(last((rows - there) / scale), told)
        self._replay(len(center)).add(rows, told[:, None])
        fit = self.fit(center)
        if fit is None:  # there is at least one value, so that this is for the type checker
            return Estimate(torch.zeros_like(center), diagnostics=numbers)
        self._memory["before"] = fit, here, lengths
        slope = torch.from_numpy(fit.slope / lengths).to(center)
        curvature = torch.from_numpy(fit.curvature.diagonal() / lengths**2).to(center)
        error = None if fit.errors is None else float((fit.errors / lengths**2).sum())
        return Estimate(slope, error, fit.value, curvature, numbers)

    def _model(self, dimension: int) -> Degree:
        if self.degree != "auto":
            return self.degree
        return "quadratic" if dimension <= QUADRATIC else "diagonal" if dimension <= DIAGONAL else "linear"

    def _replay(self, dimension: int) -> Replay:
        replay: Replay | None = self._memory["replay"]
        if replay is None:
            rows = max(SPARE * self.coefficients(dimension), 4 * self.samples)
            replay = self._memory["replay"] = Replay(self.window or rows)
        return replay

    def _span(self, dimension: int) -> Span:
        span: Span | None = self._memory["span"]
        if span is None:
            room = max(self.samples, min(DIRECTIONS, ROOM // (4 * dimension)))
            span = self._memory["span"] = Span(self.window or room, dimension)
        return span
