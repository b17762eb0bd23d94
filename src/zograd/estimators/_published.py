"""ZeroGrads as it was released: for comparison, not for use."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from zograd._arrays import array
from zograd._checks import count, instance, positive, require
from zograd._errors import ArgumentError, GradientError
from zograd._probes import Dense, Probes
from zograd._typing import Values, Vector
from zograd.estimators._average import scalars
from zograd.estimators._estimator import Estimate, GradientEstimator
from zograd.estimators._network import Array, Network


@final
@dataclass(eq=False)
class PublishedSurrogate(GradientEstimator):
    r"""ZeroGrads (Fischer and Ritschel 2024) as released, weight for weight: a network is fitted to past samples.

    .. math:: g = \nabla_x h_\phi(x / u), \qquad
       \phi \leftarrow \operatorname{Adam}\Big(\nabla_\phi \tfrac1n \sum_i \big(h_\phi((x + o_i) / u)
       - f(x + o_i + \tau_i)\big)^2\Big), \quad o \sim N(0, \sigma^2), \ \tau \sim N(0, (s \sigma)^2)

    As in the released code, the gradient is that of the network **before** it has seen the new samples (at first an
    untrained one), the values are not normalised, the output is rectified (a slope of 0.01 below zero), and the spread
    is constant. The first weights are drawn from the generator at the first `propose`.

    **Cost**: ``2 samples`` evaluations antithetic, else ``samples``. **Bias**: of any size; it falls only as fast as
    the network learns. **Variance**: small, for the network remembers. **When**: to compare with the paper;
    `NeuralSurrogate` is what came of it. With more than one step on the same network (the released ``k_theta``) take
    `zograd.optim.SurrogateAdam`.

    Rows: ``o_1, -o_1, o_2, -o_2, ..``, each less a smoothing offset of its own. Lost rows are left out.

    Args:
        spread: The standard deviation of the samples (the paper's outer sigma), in units of the parameters.
        samples: The number of offsets drawn.
        smoothing: The standard deviation of the smoothing offsets over the spread (inner sigma); 0 for none.
        layers: Hidden layers: 3 in low dimensions, 8 in high ones.
        width: Neurons in each: 64 or 128.
        bands: Frequencies of the positional encoding: 0 in low dimensions, 6 in high ones.
        fits: Adam updates of the network a gradient (``k_phi``).
        rate: Their learning rate (``lr_phi``).
        unit: The network sees the parameters divided by this.
        antithetic: Whether to mirror each offset.

    Raises:
        ArgumentError: When an argument is out of its range.

    Example:
        >>> import torch, zograd as zo
        >>> estimator, generator = zo.PublishedSurrogate(spread=0.3), torch.Generator().manual_seed(0)
        >>> for _ in range(300):
        ...     probes = estimator.propose(torch.ones(2), generator)
        ...     gradient = estimator.gradient(probes, probes.points().square().sum(1)).gradient
        >>> bool((gradient > 1).all())  # of [2, 2]
        True

    References:
        - Fischer and Ritschel, ZeroGrads: learning local surrogates for non-differentiable graphics, SIGGRAPH 2024;
          the code at github.com/mfischer-ucl/zerograds.
    """

    spread: float = 0.33
    samples: int = 4
    smoothing: float = 0.1
    layers: int = 3
    width: int = 64
    bands: int = 0
    fits: int = 3
    rate: float = 1e-3
    unit: float = 1.0
    antithetic: bool = True

    def __post_init__(self) -> None:
        positive("spread", self.spread, "It is the standard deviation of the samples, such as 0.33.")
        count("samples", self.samples, hint="It is the number of offsets drawn; the released settings are 4 and 10.")
        require(self.smoothing >= 0, "smoothing", "be 0 or more", self.smoothing, "It is a share of the spread.")
        for name, least in (("layers", 1), ("width", 1), ("bands", 0), ("fits", 1)):
            count(name, getattr(self, name), least)
        positive("rate", self.rate, "It is Adam's learning rate for the network, such as 1e-3.")
        positive("unit", self.unit, "The network sees the parameters divided by it.")
        instance("antithetic", self.antithetic, bool, "True (mirror each offset) or False")
        self._network: Network | None = None
        self._unsmoothed: Tensor | None = None
        # Points, values, and what the network makes of the points before it has learned from them.
        self._unseen: tuple[Array, Array, list[Array]] | None = None

    def propose(self, center: Vector, generator: torch.Generator) -> Probes:
        """Fit the network to what the last `gradient` saw, then draw new offsets, mirrored and smoothed."""
        center = center.detach()
        if self._network is None:
            self._network = self._made(len(center), generator)
        self._learn(self._network)
        # In float32 whatever the centre is, as the released code: another dtype draws other numbers.
        drawn = self.spread * torch.randn(self.samples, len(center), generator=generator)
        # The released code takes its samples away from the centre, the negated one of each pair first.
        drawn = torch.stack([drawn, -drawn], 1).flatten(0, 1) if self.antithetic else -drawn
        self._unsmoothed = drawn
        if self.smoothing:
            drawn = drawn - self.smoothing * self.spread * torch.randn(drawn.shape, generator=generator)
        return Probes(center, Dense(drawn.to(center)))

    def gradient(self, probes: Probes, values: Values) -> Estimate:
        """The network's own slope at the centre; it learns the values at the next `propose`.

        Raises:
            GradientError: When every value is lost.
        """
        values = scalars(probes, values)
        network = self._network
        if network is None or self._unsmoothed is None:
            must = "`probes` must be what `propose` of this estimator gave"
            raise ArgumentError(f"{must}, found {probes!r}.", argument="probes", found=probes)
        finite = np.isfinite(array(values))
        known = array(values)[finite]
        if not len(known):
            raise GradientError(
                f"no gradient can be told: all {len(values)} evaluations were lost. Check that the program runs at the "
                "centre, or make the spread smaller."
            )
        seen = probes.center.cpu() + self._unsmoothed
        points = self._inputs(seen if len(known) == len(seen) else seen[torch.from_numpy(finite)])
        told = known.astype(np.float32)
        activations = network.forward(points)
        above, left = told - told.mean(), activations[-1][:, 0] - told
        scatter = float(above @ above)
        numbers = {"lost": float(len(values) - len(known))}
        if scatter > 0:
            numbers["r_squared"] = 1 - float(left @ left) / scatter
        self._unseen = (points, told, activations)
        return Estimate(self.slope(probes.center), None, float(known.mean()), diagnostics=numbers)

    def slope(self, point: Vector) -> Vector:
        """The network's gradient anywhere, shape (d,), as it is now; zero before the first `propose`."""
        if self._network is None:
            return torch.zeros_like(point)
        slope = self._network.slope(self._inputs(point.detach().cpu()[None]))
        return torch.from_numpy(slope).to(point) / self.unit

    def evaluations(self, dimension: int) -> int:
        """``2 samples`` antithetic, else ``samples``, whatever the dimension."""
        return 2 * self.samples if self.antithetic else self.samples

    def state_dict(self) -> dict[str, Any]:
        """The network, and the samples that it has not yet seen."""
        if self._network is None:
            return {}
        unseen = None if self._unseen is None else [torch.from_numpy(part) for part in self._unseen[:2]]
        return {"inputs": self._network.inputs, "network": self._network.state(), "unseen": unseen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._network = self._unseen = self._unsmoothed = None
        if state:
            self._network = self._made(state["inputs"], torch.Generator())
            self._network.load(state["network"])
            if state["unseen"] is not None:
                points, told = (part.numpy() for part in state["unseen"])
                self._unseen = (points, told, self._network.forward(points))

    def _made(self, dimension: int, generator: torch.Generator) -> Network:
        return Network(dimension, self.layers, self.width, self.bands, generator)

    def _learn(self, network: Network) -> None:
        if self._unseen is not None:
            _, told, activations = self._unseen
            network.fit(activations, told, self.rate, self.fits)
            self._unseen = None

    def _inputs(self, points: Tensor) -> Array:
        """What the network sees of a point."""
        inputs: Array = (points / self.unit).float().numpy()
        return inputs
