"""The gradient of the function blurred by a Gaussian."""

import math
from dataclasses import dataclass
from typing import Literal, final

import torch

from zograd._checks import count, instance, one_of, positive
from zograd._probes import Probes
from zograd._typing import Values, Vector, Weights
from zograd.estimators._average import average, lost, mean_of_finite, mean_of_others, scalars
from zograd.estimators._directions import scatter
from zograd.estimators._estimator import Estimate, GradientEstimator

Importance = Literal["kernel", "derivative"]


@final
@dataclass(frozen=True)
class SmoothedGradient(GradientEstimator):
    r"""Gaussian-smoothing gradient (score function, ES; with ``"derivative"`` plateau-reduced, PRDPT).

    The gradient of f convolved with :math:`\kappa = N(0, \sigma^2 I)`, which exists where f has plateaus and jumps:

    .. math:: \nabla \operatorname{E}_{o \sim \kappa} f(x + o)
       = \operatorname{E}_{\kappa}\!\left[ f(x + o)\, \frac{o}{\sigma^2} \right]
       = C \operatorname{E}_{p}\!\left[ f(x + o)\, \frac{o}{\lVert o \rVert} \right], \quad
       p \propto \lVert o \rVert\, \kappa, \quad
       C = \frac{\operatorname{E}_\kappa \lVert o \rVert}{\sigma^2}
         = \frac{\sqrt2\, \Gamma(\frac{d+1}{2})}{\sigma\, \Gamma(\frac d2)}

    ``"kernel"`` samples :math:`\kappa`; ``"derivative"`` samples p, the magnitude of the kernel's derivative:
    a uniform direction and a radius :math:`\sigma \chi_{d+1}`, in one dimension a signed Rayleigh variable.

    **Cost**: ``2 samples`` evaluations antithetic, else ``samples``. **Bias**: none for the smoothed function;
    O(spread^2) for f where f is smooth. **Variance**: with f its odd part (antithetic) or less its mean (else), the
    mean squared length of a contribution is :math:`\operatorname{E}_\kappa[f^2 \lVert o \rVert^2] / \sigma^4` for
    ``"kernel"`` and :math:`\operatorname{E}_\kappa[\lVert o \rVert]\,\operatorname{E}_\kappa[f^2 \lVert o \rVert]
    / \sigma^4` for ``"derivative"``: smaller when f is as large or larger far from the centre (a step, a plateau,
    a slope), larger when it is concentrated near it (a feature much narrower than the spread). In one dimension
    and antithetic, a step at the centre leaves no variance at all and a slope ``4/pi - 1`` instead of 2 times the
    squared gradient; the two become equal as d grows.
    **When**: the function has plateaus (visibility, counts, 8-bit pixels) and `spread` must reach over them.
    Antithetic ``"kernel"`` is `RandomGradient` with gaussian directions and ``step=spread``.

    Rows: ``[+o_1 .. +o_q, -o_1 .. -o_q]`` antithetic, else ``[o_1 .. o_q]`` with the mean of the other rows as
    baseline, which adds no bias. A pair with a lost half is left out. ``Estimate.value`` is the mean of the values,
    within O(spread^2) of the value at the centre.

    Args:
        spread: The standard deviation of the blur, in units of the parameters.
        samples: The number of offsets drawn; at least 2 when not antithetic.
        importance: ``"kernel"`` or ``"derivative"``.
        antithetic: Whether to mirror each offset.

    Raises:
        ArgumentError: When an argument is out of its range.

    Example:
        >>> import torch, zograd as zo
        >>> estimator = zo.SmoothedGradient(spread=0.5, samples=4000, importance="derivative")
        >>> probes = estimator.propose(torch.zeros(1).double(), torch.Generator().manual_seed(0))
        >>> step = (probes.points()[:, 0] > 0).double()  # its derivative is zero everywhere, and undefined at 0
        >>> estimator.gradient(probes, step).gradient.round(decimals=3)  # the density of N(0, 0.5^2) at 0
        tensor([0.7980], dtype=torch.float64)

    References:
        - Fischer and Ritschel, Plateau-reduced differentiable path tracing, CVPR 2023, section 3 (one dimension; its
          code draws each coordinate by itself, which blurs the others with p instead of the Gaussian).
        - Salimans, Ho, Chen, Sidor and Sutskever, Evolution strategies as a scalable alternative to reinforcement
          learning, arXiv:1703.03864, 2017.
        - Mohamed, Rosca, Figurnov and Mnih, Monte Carlo gradient estimation in machine learning, JMLR 2020 (score
          function, baselines).
    """

    spread: float = 0.1
    samples: int = 16
    importance: Importance = "kernel"
    antithetic: bool = True

    def __post_init__(self) -> None:
        positive("spread", self.spread, "It is the standard deviation of the blur; try the width of a plateau.")
        instance("antithetic", self.antithetic, bool, "True (mirror each offset) or False")
        hint = "It is the number of offsets drawn; without antithetic pairs each needs another as its baseline."
        count("samples", self.samples, 1 if self.antithetic else 2, hint)
        one_of("importance", self.importance, ("kernel", "derivative"))

    def propose(self, center: Vector, generator: torch.Generator) -> Probes:
        """Offsets from the kernel, or from the magnitude of its derivative; then their mirror images."""
        if self.importance == "kernel":
            scale = torch.full((self.samples,), self.spread, dtype=center.dtype)
            offsets = scatter("gaussian", scale, center, generator, mirrored=self.antithetic)
        else:
            scale = self._radii(center, generator) / len(center) ** 0.5
            offsets = scatter("sphere", scale, center, generator, mirrored=self.antithetic)
        return Probes(center.detach(), offsets)

    def gradient(self, probes: Probes, values: Values) -> Estimate:
        """The mean of difference times weighted offset over the offsets that came back.

        Raises:
            GradientError: When none did, or only one without its mirror image.
        """
        values = scalars(probes, values)
        if self.antithetic:
            ahead, behind = values.chunk(2)
            differences, levels = (ahead - behind) / 2, (ahead + behind) / 2
        else:
            differences, levels = values - mean_of_others(values), values
        drawn = probes[: self.samples]
        gradient, error, agreement = average(drawn, differences * self._weights(drawn).to(values))
        return Estimate(gradient, error, mean_of_finite(levels), diagnostics={"lost": lost(values)} | agreement)

    def evaluations(self, dimension: int) -> int:
        """``2 samples`` antithetic, else ``samples``, whatever the dimension."""
        return 2 * self.samples if self.antithetic else self.samples

    def _radii(self, center: Vector, generator: torch.Generator) -> Weights:
        """Lengths distributed as ``spread chi_{d+1}``: one long vector at a time, so that memory stays O(d)."""
        lengths = [
            torch.randn(len(center) + 1, dtype=center.dtype, generator=generator).norm() for _ in range(self.samples)
        ]
        return self.spread * torch.stack(lengths)

    def _weights(self, probes: Probes) -> Weights:
        """What a difference along each offset is multiplied with: ``1 / sigma^2`` or ``C / ||o||``."""
        if self.importance == "kernel":
            return torch.full((len(probes),), self.spread**-2, dtype=probes.center.dtype)
        half = probes.dimension / 2
        constant = math.sqrt(2) * math.exp(math.lgamma(half + 0.5) - math.lgamma(half)) / self.spread
        return constant / probes.offsets.squared_norms(probes.center).sqrt()
