"""Exact directional derivatives along random directions."""

from dataclasses import dataclass
from typing import final

import torch

from zograd._checks import count, one_of
from zograd._probes import Probes
from zograd._typing import Values, Vector
from zograd.estimators._average import average, lost, scalars
from zograd.estimators._directions import DIRECTIONS, Directions, scatter
from zograd.estimators._estimator import Estimate, GradientEstimator


@final
@dataclass(frozen=True)
class ForwardGradient(GradientEstimator):
    r"""Forward gradient (forward-mode AD along random directions, no backward pass).

    .. math:: g = \frac1q \sum_{k=1}^{q} (\nabla f(x) \cdot u_k)\, u_k, \qquad \operatorname{E}[u u^\top] = I

    **Cost**: ``samples`` evaluations, each a Jacobian-vector product (about 2 forward passes of time, no stored
    activations). **Bias**: none. **Variance**: ``(d + 1) / samples`` times the squared length of the gradient for
    ``gaussian``, ``(d - 1) / samples`` for ``sphere`` and ``rademacher``, ``d / samples - 1`` for
    ``orthogonal`` up to d samples. **When**: the function is made of torch operations but a backward pass
    does not fit in memory or does not exist. Its rows ask for derivatives: it needs a black box made with
    ``zo.torch_function``.

    A lost derivative is left out. ``Estimate.squared_error`` needs two samples.

    Args:
        samples: The number of directions, q.
        directions: ``"gaussian"`` (the paper's), ``"sphere"``, ``"rademacher"`` or ``"orthogonal"``.

    Raises:
        ArgumentError: When an argument is out of its range.

    Example:
        >>> import torch, zograd as zo
        >>> estimator = zo.ForwardGradient(samples=3, directions="orthogonal")
        >>> probes = estimator.propose(torch.tensor([1.0, 2.0, 3.0]).double(), torch.Generator().manual_seed(0))
        >>> exact = probes.offsets.dense(probes.center) @ torch.tensor([2.0, 4.0, 6.0]).double()
        >>> estimator.gradient(probes, exact).gradient.round(decimals=4)
        tensor([2., 4., 6.], dtype=torch.float64)

    References:
        - Baydin, Pearlmutter, Syme, Wood and Torr, Gradients without backpropagation, arXiv:2202.08587, 2022.
    """

    samples: int = 1
    directions: Directions = "gaussian"

    def __post_init__(self) -> None:
        count("samples", self.samples, hint="It is the number of random directions; try 1.")
        one_of("directions", self.directions, DIRECTIONS)

    def propose(self, center: Vector, generator: torch.Generator) -> Probes:
        """One row for each direction, asking for the derivative along it."""
        scale = torch.ones(self.samples, dtype=center.dtype)
        return Probes(center.detach(), scatter(self.directions, scale, center, generator), quantity="derivative")

    def gradient(self, probes: Probes, values: Values) -> Estimate:
        """The mean of derivative times direction over the directions that came back.

        Raises:
            GradientError: When none did.
        """
        slopes = scalars(probes, values)
        block = probes.dimension if self.directions == "orthogonal" else None
        gradient, error, agreement = average(probes, slopes, block)
        return Estimate(gradient, error, diagnostics={"lost": lost(slopes)} | agreement)

    def evaluations(self, dimension: int) -> int:
        """``samples``, whatever the dimension."""
        return self.samples
