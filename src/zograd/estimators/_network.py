"""A small multilayer perceptron on one flat buffer: forward, backward and Adam by hand, without autograd's overhead."""

import itertools
import math
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float32]

LEAK = np.float32(0.01)
"""The slope of a leaky rectifier below zero."""
FIRST, SECOND, EPSILON = 0.9, 0.999, np.float32(1e-8)
"""Adam's usual constants."""
BLOCK = 2**14
"""Weights that Adam updates at a time: what it reads and writes of so many stays in the cache from pass to pass."""


@final
class Network:
    """Hidden layers and one number out, float32: as in the released ZeroGrads, or smooth.

    The released network has leaky rectifiers, also on the output. The smooth one has hyperbolic tangents, and a linear
    output whose weights start at zero. Otherwise weights start as those of ``torch.nn.Linear``, drawn from
    ``generator`` in the same order. One flat buffer holds all of them, so that Adam is ten passes over a block
    of it, whatever the number of layers.

    Args:
        inputs: The number of inputs, d.
        layers: Hidden layers.
        width: Neurons in each.
        bands: Frequencies ``1, 2, 4, ...`` whose sines and cosines are inputs too; 0 for none.
        generator: Where the first weights come from.
        smooth: Whether it is the smooth one.
    """

    def __init__(
        self, inputs: int, layers: int, width: int, bands: int, generator: torch.Generator, smooth: bool = False
    ) -> None:
        self.inputs, self.smooth = inputs, smooth
        self.bands = [np.float32(2.0**power) for power in range(bands)]
        sizes = [inputs * (1 + 2 * bands), *[width] * layers, 1]
        pieces: list[torch.Tensor] = []
        for before, after in itertools.pairwise(sizes):
            weight = math.sqrt(3.0) * (math.sqrt(2.0 / (1 + math.sqrt(5.0) ** 2)) / math.sqrt(before))
            bias = 1 / math.sqrt(before)
            pieces.append(torch.empty(after * before).uniform_(-weight, weight, generator=generator))
            pieces.append(torch.empty(after).uniform_(-bias, bias, generator=generator))
        self.weights: Array = torch.cat(pieces).numpy()
        self.slopes: Array = np.zeros_like(self.weights)
        self.mean: Array = np.zeros_like(self.weights)
        self.square: Array = np.zeros_like(self.weights)
        self.updates = 0
        self._layers = _views(self.weights, sizes)
        self._slopes = _views(self.slopes, sizes)
        if smooth:
            for part in self._layers[-1]:
                part[:] = 0

    def __call__(self, points: Array) -> Array:
        """The outputs at points of shape (n, d): shape (n,)."""
        return self.forward(points)[-1][:, 0]

    def slope(self, points: Array) -> Array:
        """The mean gradient of the output with respect to points of shape (n, d): shape (d,)."""
        return self.look(points)[1]

    def look(self, points: Array) -> tuple[Array, Array]:
        """The outputs at points of shape (n, d), and their mean gradient, from one pass."""
        activations = self.forward(points)
        flow = np.full((len(points), 1), 1 / len(points), np.float32)
        for place in range(len(self._layers) - 1, -1, -1):
            flow = self._through(flow, activations[place + 1], place) @ self._layers[place][0]
        d = self.inputs
        total = flow[:, :d].copy()
        for place, frequency in enumerate(self.bands):
            sines, cosines = (flow[:, d * (2 * place + part) :][:, :d] for part in (1, 2))
            angle = points * frequency
            total += frequency * (sines * np.cos(angle) - cosines * np.sin(angle))
        return activations[-1][:, 0], total.sum(0)

    def fit(
        self, activations: list[Array], values: Array, rate: float, updates: int, trust: Array | None = None
    ) -> None:
        """So many Adam updates on the mean squared error at points of shape (n, d), weighted by ``trust`` of sum 1.

        Args:
            activations: What `forward` makes of the points.
            values: What the outputs there should be, shape (n,).
            rate: The learning rate.
            updates: How many.
            trust: Shape (n,).
        """
        encoded = activations[0]
        share = np.float32(2 / len(values)) if trust is None else 2 * trust
        for update in range(updates):
            if update:
                activations = self._forward(encoded)
            flow = (share * (activations[-1][:, 0] - values))[:, None]
            for place in range(len(self._layers) - 1, -1, -1):
                flow = self._through(flow, activations[place + 1], place)
                weight, bias = self._slopes[place]
                np.matmul(flow.T, activations[place], out=weight)
                np.add.reduce(flow, 0, out=bias)
                if place:
                    flow = flow @ self._layers[place][0]
            self._adam(rate)

    def transport(self, shift: Array, stretch: float, level: float, scale: float) -> None:
        """Stay the same function of new inputs ``(z - shift) / stretch`` and new outputs ``(y - level) / scale``."""
        weight, bias = self._layers[0]
        bias += weight @ shift
        weight *= np.float32(stretch)
        weight, bias = self._layers[-1]
        bias -= np.float32(level)
        weight /= np.float32(scale)
        bias /= np.float32(scale)

    def state(self) -> dict[str, Any]:
        """Weights and Adam's memory."""
        names = ("weights", "mean", "square")
        return {"updates": self.updates, **{name: torch.from_numpy(getattr(self, name).copy()) for name in names}}

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.updates = state["updates"]
        for name in ("weights", "mean", "square"):
            getattr(self, name)[:] = state[name].numpy()

    def forward(self, points: Array) -> list[Array]:
        """What the network sees of points of shape (n, d), then what each layer makes of it."""
        return self._forward(self._encoded(points))

    def _encoded(self, points: Array) -> Array:
        if not self.bands:
            return points
        waves = [wave(points * frequency) for frequency in self.bands for wave in (np.sin, np.cos)]
        return np.concatenate([points, *waves], axis=1)

    def _forward(self, encoded: Array) -> list[Array]:
        """The inputs, then what each layer makes of them."""
        activations, last = [encoded], len(self._layers) - 1
        for place, (weight, bias) in enumerate(self._layers):
            before = activations[-1] @ weight.T
            before += bias
            if not self.smooth:
                np.maximum(before, LEAK * before, out=before)
            elif place < last:
                np.tanh(before, out=before)
            activations.append(before)
        return activations

    def _through(self, flow: Array, after: Array, place: int) -> Array:
        """A derivative after a layer's activation, taken to before it."""
        if not self.smooth:
            return flow * np.maximum(after > 0, LEAK)
        return flow if place == len(self._layers) - 1 else flow * (1 - after * after)

    def _adam(self, rate: float) -> None:
        self.updates += 1
        unbiased = np.float32(math.sqrt(1 - SECOND**self.updates))
        length = np.float32(rate / (1 - FIRST**self.updates))
        for start in range(0, len(self.weights), BLOCK):
            block = slice(start, start + BLOCK)
            slopes, mean, square = self.slopes[block], self.mean[block], self.square[block]
            mean += np.float32(1 - FIRST) * (slopes - mean)
            square *= np.float32(SECOND)
            square += np.float32(1 - SECOND) * slopes * slopes
            size = np.sqrt(square)
            size /= unbiased
            size += EPSILON
            np.divide(mean, size, out=size)
            size *= length
            self.weights[block] -= size


def _views(flat: Array, sizes: list[int]) -> list[tuple[Array, Array]]:
    """The weight (after, before) and bias (after,) of each layer, as windows on the flat buffer."""
    views, start = [], 0
    for before, after in itertools.pairwise(sizes):
        middle, end = start + after * before, start + after * before + after
        views.append((flat[start:middle].reshape(after, before), flat[middle:end]))
        start = end
    return views
