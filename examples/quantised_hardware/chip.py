"""A simulated analogue chip that multiplies by a matrix, and the network around it."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import zograd as zo

INPUTS, OUTPUTS, HIDDEN = 24, 16, 10
Digits = tuple[Tensor, Tensor, Tensor, Tensor]


class Chip:
    """A crossbar of conductances. It can be told weights and shown voltages; it answers currents, and nothing else.

    Weights are set to one of ``2**bits`` levels between -1 and 1, each cell a little wrong in its own way; inputs leak
    into their neighbours; outputs have noise. Nobody outside knows any of this.

    Args:
        bits: Of each weight.
        noise: The standard deviation of an output.
        seed: Of the errors of this one chip, and of its noise.
    """

    def __init__(self, bits: int = 4, noise: float = 0.02, seed: int = 0) -> None:
        self._drawn = np.random.default_rng(seed)
        self._levels = 2**bits - 1
        self._noise = noise
        self._cells = 1 + 0.4 * self._drawn.standard_normal((OUTPUTS, INPUTS))
        self._leak = np.eye(INPUTS) + 0.5 * np.eye(INPUTS, k=1) + 0.15 * self._drawn.standard_normal((INPUTS, INPUTS))
        self.programmed, self.shown = 0, 0

    def measure(self, weights: np.ndarray, voltages: np.ndarray) -> np.ndarray:
        """Set the weights, shape (16, 24), show voltages, shape (n, 24), and read currents, shape (n, 16)."""
        self.programmed += 1
        self.shown += len(voltages)
        set_to = (np.clip(weights, -1, 1) + 1) / 2 * self._levels
        set_to = np.round(set_to) / self._levels * 2 - 1
        currents = voltages @ self._leak.T @ (set_to * self._cells).T
        return currents + self._noise * self._drawn.standard_normal(currents.shape)


class Programmed(nn.Module):
    """The chip with its weights, which are kept here and set before each measurement: no graph goes through it."""

    def __init__(self, chip: Chip) -> None:
        super().__init__()
        self.chip = chip
        self.weight = nn.Parameter(0.4 * torch.randn(OUTPUTS, INPUTS))

    def forward(self, voltages: Tensor) -> Tensor:
        """What the chip answers."""
        currents = self.chip.measure(self.weight.detach().numpy(), voltages.detach().numpy())
        return torch.from_numpy(currents).float()


class Weighted(nn.Module):
    """The chip as two `zo.differentiable` layers: one of the voltages, one of the weights."""

    def __init__(self, programmed: Programmed, samples: int) -> None:
        super().__init__()
        self.programmed = programmed
        self.samples = samples
        self.by_voltages = zo.differentiable(zo.batched(programmed), estimator=zo.CoordinateGradient(step=0.5))

    def forward(self, voltages: Tensor) -> Tensor:
        """Its answer; in training, with the graphs of both."""
        currents: Tensor = self.by_voltages(voltages)
        if not torch.is_grad_enabled():
            return currents
        weight, chip = self.programmed.weight, self.programmed.chip

        def by_weights(point: Tensor) -> np.ndarray:
            return chip.measure(point.reshape(OUTPUTS, INPUTS).numpy(), voltages.detach().numpy()).ravel()

        estimator = zo.RandomGradient(samples=self.samples, step=0.1, directions="rademacher")
        layer = zo.differentiable(by_weights, estimator=estimator, seed=chip.programmed)
        told = layer(weight.flatten()).reshape(currents.shape)
        return currents + told - told.detach()


class Ideal(torch.autograd.Function):
    """The chip forwards; backwards the chip as its maker meant it: no error, no leak, no levels (straight through)."""

    @staticmethod
    def forward(ctx, voltages: Tensor, weight: Tensor, programmed: Programmed) -> Tensor:
        """The chip."""
        ctx.save_for_backward(voltages, weight)
        return programmed(voltages)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        """Of a product of matrices."""
        voltages, weight = ctx.saved_tensors
        return gradient @ weight, gradient.T @ voltages, None


class StraightThrough(nn.Module):
    """`Ideal` as a layer."""

    def __init__(self, programmed: Programmed) -> None:
        super().__init__()
        self.programmed = programmed

    def forward(self, voltages: Tensor) -> Tensor:
        """What the chip answers."""
        return Ideal.apply(voltages, self.programmed.weight, self.programmed)


def network(layer: nn.Module) -> nn.Sequential:
    """Digits to classes: a digital layer, the chip, a digital layer."""
    return nn.Sequential(nn.Linear(64, INPUTS), nn.Tanh(), layer, nn.ReLU(), nn.Linear(OUTPUTS, HIDDEN))


def digits(limit: int | None = None) -> Digits:
    """scikit-learn's digits: 1,437 to train with and their classes, 360 to test with and theirs."""
    images, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x, y = torch.from_numpy(images[order] / 16).float(), torch.from_numpy(classes[order]).long()
    return x[360:][:limit], y[360:][:limit], x[:360], y[:360]
