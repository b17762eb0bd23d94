"""Finite differences along random directions."""

from dataclasses import dataclass
from typing import final

import torch

from zograd._checks import count, instance, one_of, positive
from zograd._probes import Probes
from zograd._typing import Values, Vector
from zograd.estimators._average import average, lost, mean_of_finite, mean_of_others, scalars
from zograd.estimators._directions import DIRECTIONS, Directions, scatter
from zograd.estimators._estimator import Estimate, GradientEstimator


@final
@dataclass(frozen=True)
class RandomGradient(GradientEstimator):
    r"""Random gradient estimation (RGE; with ``"rademacher"`` SPSA, with ``"gaussian"`` the ES gradient).

    .. math:: g = \frac1q \sum_{k=1}^{q} \frac{f(x + h u_k) - f(x - h u_k)}{2h}\, u_k,
       \qquad \operatorname{E}[u u^\top] = I

    or with :math:`(f(x + h u_k) - f(x)) / h` when not ``central``. Directions are scaled so that there is no
    factor of d to forget: ``sphere`` and ``orthogonal`` ones have length sqrt(d).

    **Cost**: ``2 samples`` evaluations, or ``samples + 1`` when not central. **Bias**: O(step^2) in both forms,
    since the directions are symmetric; it is the gradient of f smoothed over the directions. **Variance**: about
    ``(d + 1) / samples`` times the squared length of the gradient for ``gaussian``, ``(d - 1) / samples`` for
    ``sphere`` and ``rademacher``, ``d / samples - 1`` for ``orthogonal`` up to d samples; forward differences
    add O(step^2) for curvature, and a value with noise s adds ``d s^2 / (2 samples step^2)`` when central.
    **When**: many parameters and a budget far below d evaluations a step; `CoordinateGradient` when it is not.

    Rows: ``[+u_1 .. +u_q, -u_1 .. -u_q]`` when central, else ``[centre, +u_1 .. +u_q]``. A pair with a lost half
    is left out. If the centre of forward differences is lost, the mean of the other rows stands in: no bias, more
    variance. ``Estimate.value`` is the value at the centre, or the mean of the pairs (above it by
    O(step^2 trace of the Hessian)). ``Estimate.squared_error`` comes from the sample variance of the
    contributions; for ``orthogonal`` directions it sees the space that they leave out but not the noise.

    Args:
        samples: The number of directions, q.
        step: The distance h of a probe from the centre, in units of the parameters, per unit of direction.
            Large against the rounding and noise of f, small against its features.
        directions: ``"gaussian"``, ``"sphere"``, ``"rademacher"`` (a sign for each coordinate) or
            ``"orthogonal"`` (on the sphere, mutually orthogonal in blocks of d).
        central: Whether to look both ways.

    Raises:
        ArgumentError: When an argument is out of its range.

    Example:
        >>> import torch, zograd as zo
        >>> estimator = zo.RandomGradient(samples=3, directions="orthogonal")
        >>> probes = estimator.propose(torch.tensor([1.0, 2.0, 3.0]).double(), torch.Generator().manual_seed(0))
        >>> values = probes.points().square().sum(1)
        >>> estimator.gradient(probes, values).gradient.round(decimals=4)
        tensor([2., 4., 6.], dtype=torch.float64)

    References:
        - Nesterov and Spokoiny, Random gradient-free minimization of convex functions, Found. Comput. Math. 2017.
        - Spall, Multivariate stochastic approximation using a simultaneous perturbation gradient approximation,
          IEEE Trans. Autom. Control 1992 (``rademacher``, samples=1).
        - Duchi, Jordan, Wainwright and Wibisono, Optimal rates for zero-order convex optimization, IEEE Trans.
          Inf. Theory 2015.
        - Choromanski et al., Structured evolution with compact architectures, ICML 2018 (``orthogonal``).
        - Liu et al., A primer on zeroth-order optimization in signal processing and machine learning, IEEE Signal
          Process. Mag. 2020.
    """

    samples: int = 16
    step: float = 1e-3
    directions: Directions = "gaussian"
    central: bool = True

    def __post_init__(self) -> None:
        count("samples", self.samples, hint="It is the number of random directions; try 16.")
        positive("step", self.step, "It is the distance of a probe from the centre; try 1e-3.")
        one_of("directions", self.directions, DIRECTIONS)
        instance("central", self.central, bool, "True (look both ways) or False (forward differences)")

    def propose(self, center: Vector, generator: torch.Generator) -> Probes:
        """Pairs ``+step u_k, -step u_k``; or the centre and ``step u_k``."""
        scale = torch.full((self.samples,), self.step, dtype=center.dtype)
        offsets = scatter(
            self.directions, scale, center, generator, mirrored=self.central, with_center=not self.central
        )
        return Probes(center.detach(), offsets)

    def gradient(self, probes: Probes, values: Values) -> Estimate:
        """The mean of slope times direction over the directions that came back.

        Raises:
            GradientError: When none did.
        """
        values = scalars(probes, values)
        if self.central:
            directions, (ahead, behind) = probes[: self.samples], values.chunk(2)
            slopes, value = (ahead - behind) / (2 * self.step), mean_of_finite((ahead + behind) / 2)
        else:
            directions, base, ahead = probes[1:], values[:1], values[1:]
            value = mean_of_finite(base)
            slopes = (ahead - (mean_of_others(ahead) if value is None else base)) / self.step
        block = probes.dimension if self.directions == "orthogonal" else None
        gradient, error, agreement = average(directions, slopes / self.step, block)
        return Estimate(gradient, error, value, diagnostics={"lost": lost(values)} | agreement)

    def evaluations(self, dimension: int) -> int:
        """``2 samples``, or ``samples + 1`` when not central, whatever the dimension."""
        return 2 * self.samples if self.central else self.samples + 1
