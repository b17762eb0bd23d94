"""A small network that remembers, as a control variate: ZeroGrads without its bias."""

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from zograd._checks import count, positive
from zograd._probes import Probes
from zograd._typing import Vector
from zograd.estimators._average import half_cosine
from zograd.estimators._estimator import Estimate
from zograd.estimators._network import Array, Network
from zograd.estimators._polynomial import ROOM
from zograd.estimators._replay import Array as Wide
from zograd.estimators._replay import Replay
from zograd.estimators._span import Span
from zograd.estimators._surrogate import Surrogate, pairs

FEW = 8
"""The most parameters for which there is a network; above, the surrogate is linear, in the span of past samples."""
NEAR = 2.0
"""Remembered samples further away than so many spreads count less and less."""
FURTHEST = 10.0
"""Targets further away than so many scales are taken to be there: one cliff must not tear the network."""
CALM = 0.9
"""The weight of what was known of a scale, against what the new samples tell."""


@final
@dataclass(eq=False)
class NeuralSurrogate(Surrogate):
    r"""Neural surrogate as a control variate (after ZeroGrads): it may lower the variance, and adds no bias.

    With h the network as it was **before** these samples, :math:`\delta_k, \delta^h_k` half the differences of f and of
    h over the pairs, and :math:`\beta \in [0, 1]` how well h foretold the differences of earlier gradients,

    .. math:: g = \beta\, \overline{\nabla h} + \frac{1}{q} \sum_{k=1}^{q} (\delta_k - \beta\, \delta^h_k)
       \frac{o_k}{\sigma^2}, \qquad o_k \sim N(0, \sigma^2 I)

    whose mean is the gradient of f smoothed with the spread, for any h: the mean of :math:`\nabla h` over the samples
    is that of its smoothed slope. Then h learns the new samples. It is a small network (hyperbolic tangents, linear
    output, which starts at zero) trained on a replay of past samples, near ones first, by Adam written out on one flat
    buffer. Its inputs are relative to the centre in units of the spread, its targets relative to the level and scale
    around here; when these change, its weights are changed so that it stays the same function of the parameters.
    Above 8 parameters h is the linear model of `PolynomialSurrogate`, without any layer as wide as the parameters.

    **Cost**: ``2 samples`` evaluations. **Bias**: none for the smoothed program; O(spread^2) for a smooth one.
    **Variance**: that of `RandomGradient`, times the share of the differences that h does not foretell,
    :math:`1 - R^2`; ``Estimate.squared_error`` tells it. **When**: the unbiased gradient of a smoothed program is
    wanted, with less noise, in a few parameters and over many steps. To only get down, `PolynomialSurrogate` costs
    fewer evaluations; see ``benchmarks/surrogates_ablation.py``.

    Args:
        spread: The standard deviation of the samples, in units of the parameters.
        samples: The number of mirrored pairs a gradient.
        width: Neurons in each of the two hidden layers.
        window: Samples that the network remembers, or pairs that the linear model does.
        fits: Adam updates a gradient.
        rate: Their learning rate.

    Raises:
        ArgumentError: When an argument is out of its range.

    Example:
        >>> import torch, zograd as zo
        >>> estimator, generator = zo.NeuralSurrogate(spread=0.3, samples=8), torch.Generator().manual_seed(0)
        >>> for _ in range(400):
        ...     probes = estimator.propose(torch.ones(2).double(), generator)
        ...     estimate = estimator.gradient(probes, probes.points().sin().sum(1))
        >>> estimate.diagnostics["r_squared"] > 0.8
        True

    References:
        - Fischer and Ritschel, ZeroGrads: learning local surrogates for non-differentiable graphics, SIGGRAPH 2024.
        - Grathwohl, Choi, Wu, Roeder and Duvenaud, Backpropagation through the void, ICLR 2018 (a network as control
          variate).
    """

    spread: float = 0.1
    samples: int = 8
    width: int = 24
    window: int = 64
    fits: int = 2
    rate: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "window", "fits"):
            count(name, getattr(self, name))
        positive("rate", self.rate, "It is Adam's learning rate for the network, such as 0.01.")
        self._memory |= {"network": None, "replay": None, "span": None, "products": [0.0, 0.0], "frame": None}

    def propose(self, center: Vector, generator: torch.Generator) -> Probes:
        """Gaussian offsets and their mirror images; the network's first weights are drawn at the first call."""
        m, d = self._memory, len(center)
        if d > FEW and m["span"] is None:
            m["span"] = self._span(d)
        elif d <= FEW and m["network"] is None:
            m["network"], m["replay"] = self._network(d, generator), Replay(self.window)
        return super().propose(center, generator)

    def state_dict(self) -> dict[str, Any]:
        """The surrogate, the samples that it remembers, and how far it is believed."""
        m = self._memory
        if m["network"] is None and m["span"] is None:
            return {}
        state = {**self._common_state(), "products": list(m["products"]), "frame": m["frame"]}
        if m["span"] is not None:
            return {**state, "span": m["span"].state(), "dimension": m["span"].rows.shape[1]}
        return {
            **state,
            "network": m["network"].state(),
            "replay": m["replay"].state(),
            "dimension": m["network"].inputs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.__post_init__()
        if not state:
            return
        m, d = self._memory, state["dimension"]
        self._load_common(state)
        m["products"], m["frame"] = list(state["products"]), state["frame"]
        if "span" in state:
            m["span"] = self._span(d)
            m["span"].load(state["span"])
        else:
            m["network"], m["replay"] = self._network(d, torch.Generator()), Replay(self.window)
            m["network"].load(state["network"])
            m["replay"].load(state["replay"])

    def _learn(self, probes: Probes, told: Wide, kept: NDArray[np.bool_]) -> Estimate:
        m = self._memory
        rows, half = pairs(probes, told)
        numbers = half_cosine(rows, half)
        known = told if kept.all() else told[kept]
        if m["span"] is not None:
            guesses, slope = self._linear(rows, half)
        else:
            guesses, slope = self._neural(probes.center, known, rows)
        cross, own = m["products"]
        belief = min(max(cross / own, 0.0), 1.0) if own > 0 else 0.0
        left, total = half - belief * guesses, float(half @ half)
        if total > 0:
            if own > 0:
                numbers["r_squared"] = 1 - float(left @ left) / total
            # In units of the differences, so that steep places weigh no more than gentle ones.
            new = (float(guesses @ half) / total, float(guesses @ guesses) / total)
            m["products"] = [CALM * old + (1 - CALM) * now for old, now in zip((cross, own), new, strict=True)]
        numbers["belief"] = belief
        count, factors = len(rows), left / self.spread**2
        rest = (factors / count).astype(np.float32) @ rows
        error = None
        if count > 1:
            squares = float(np.square(factors) @ np.square(rows).sum(1, dtype=np.float64))
            error = max(squares / count - float(np.square(rest).sum(dtype=np.float64)), 0.0) / (count - 1)
        if m["network"] is not None:
            self._train(probes, known, kept)
        gradient = torch.from_numpy(rest + np.float32(belief) * slope).to(probes.center)
        return Estimate(gradient, error, diagnostics=numbers)

    def _linear(self, rows: Array, half: Wide) -> tuple[Wide, Array]:
        """What the linear model foretells of the half differences, and its slope; then it learns them."""
        span: Span = self._memory["span"]
        slope = span.gradient()
        span.add(rows / np.float32(self.spread), half / self.spread)
        return (rows @ slope).astype(np.float64), slope

    def _neural(self, center: Vector, told: Wide, rows: Array) -> tuple[Wide, Array]:
        """What the network foretells of the half differences, and its mean slope over the samples."""
        m = self._memory
        network: Network = m["network"]
        self._settle(center, told)
        scale = m["frame"][2]
        z = rows / np.float32(self.spread)
        ends = np.concatenate([z, -z])
        found, slope = network.look(ends)
        found = found.astype(np.float64)
        guesses = scale / 2 * (found[: len(z)] - found[len(z) :])
        return guesses, slope * np.float32(scale / self.spread)

    def _settle(self, center: Vector, told: Wide) -> None:
        """Take the network to this centre, spread, level and scale, without changing the function that it is."""
        m = self._memory
        level = float(told.sum()) / len(told)
        above = told - level
        scale = math.sqrt(float((above * above).sum()) / len(told))
        here = center.detach().cpu().double()
        if m["frame"] is None:
            m["frame"] = (here, level, scale or 1.0, self.spread)
            return
        origin, before, size, spread = m["frame"]
        level, scale = CALM * before + (1 - CALM) * level, (CALM * size**2 + (1 - CALM) * scale**2) ** 0.5
        shift = ((here.numpy() - origin.numpy()) / spread).astype(np.float32)
        m["network"].transport(shift, self.spread / spread, (level - before) / size, scale / size)
        m["frame"] = (here, level, scale, self.spread)

    def _train(self, probes: Probes, told: Wide, kept: NDArray[np.bool_]) -> None:
        """Fit the network to the values ``told`` of the rows ``kept``, and to those that are remembered."""
        m = self._memory
        replay: Replay = m["replay"]
        origin, level, scale, spread = m["frame"]
        here = origin.numpy()
        offsets = probes.offsets.dense(probes.center).detach().cpu().double().numpy()
        rows = here + (offsets if len(told) == len(offsets) else offsets[kept])
        replay.add(rows, told[:, None])
        z = (replay.rows - here) / spread
        trust = 1 / (1 + ((z * z).sum(1) / (z.shape[1] * NEAR**2)) ** 2)
        targets = np.minimum(np.maximum((replay.numbers[:, 0] - level) / scale, -FURTHEST), FURTHEST)
        weights = (trust / trust.sum()).astype(np.float32)
        activations = m["network"].forward(z.astype(np.float32))
        m["network"].fit(activations, targets.astype(np.float32), self.rate, self.fits, weights)

    def _network(self, dimension: int, generator: torch.Generator) -> Network:
        return Network(dimension, 2, self.width, 0, generator, smooth=True)

    def _span(self, dimension: int) -> Span:
        return Span(max(self.samples, min(self.window, ROOM // (4 * dimension))), dimension)
