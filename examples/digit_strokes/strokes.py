"""A network that tells a pen where to go, and what its writing costs; the pen is that of `zograd.problems.strokes`."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from zograd.nn import read_mnist
from zograd.problems.strokes import FAINT, NUMBERS, POOLED, SIDE, drawn, pooled, ring

__all__ = ["LATENT", "NUMBERS", "SIDE", "Writer", "drawn", "error", "load"]

LATENT, HIDDEN = 4, 24
NARROW = -4.0
"""The logarithm of the codes' variance at the start: wide ones would drown what tells a digit from another."""


class Layer(nn.Module):
    """A linear layer whose weights are all of size one: a step of one length then suits every layer.

    Args:
        inputs: Numbers in.
        outputs: Numbers out.
        bias: Where the outputs start, shape (outputs,).
        size: The standard deviation of the weights at the start.
    """

    def __init__(self, inputs: int, outputs: int, bias: Tensor, size: Tensor | float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(size * torch.randn(inputs, outputs))
        self.bias = nn.Parameter(bias)
        self.root = math.sqrt(inputs)

    def forward(self, values: Tensor) -> Tensor:
        """The outputs, shape (n, outputs)."""
        return values @ self.weight / self.root + self.bias


class Writer(nn.Module):
    """A variational autoencoder whose decoder says where the pen goes.

    Args:
        renderer: From numbers, shape (n, 25), to pictures, shape (n, 784).
        latent: Numbers of a code.
        hidden: Neurons of the decoder.
    """

    def __init__(self, renderer: nn.Module, latent: int = LATENT, hidden: int = HIDDEN) -> None:
        super().__init__()
        quiet = torch.cat([torch.ones(latent), 0.1 * torch.ones(latent)])
        narrow = torch.cat([torch.zeros(latent), torch.full((latent,), NARROW)])
        self.encoder = Layer((SIDE // POOLED) ** 2, 2 * latent, narrow, quiet)
        first, last = Layer(latent, hidden, torch.zeros(hidden)), Layer(hidden, NUMBERS, ring(), FAINT)
        self.decoder = nn.Sequential(first, nn.Tanh(), last)
        self.renderer, self.latent = renderer, latent

    def codes(self, digits: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of each digit's code and the logarithm of its variance, each of shape (n, latent)."""
        mean, spread = self.encoder(pooled(digits)).chunk(2, 1)
        return mean, spread

    def strokes(self, latent: Tensor) -> Tensor:
        """Where the pen goes, shape (n, 25)."""
        return torch.sigmoid(self.decoder(latent))

    def forward(self, digits: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures, shape (n, 784), and how far the codes are from a normal distribution, shape (n,)."""
        mean, spread = self.codes(digits)
        divergence = 0.5 * (mean.square() + spread.exp() - spread - 1).sum(1)
        return self.renderer(self.strokes(mean + noise * (0.5 * spread).exp())), divergence


def error(pictures: Tensor, digits: Tensor) -> Tensor:
    """The squared error of each picture, summed over its pixels, shape (n,).

    A pixel is 0 or 1, so that its square is itself and the error is linear in the picture. Written so, its derivative
    says what a pixel costs that changes altogether; that of (picture - digit)^2 is for changes that are small.
    """
    return (pictures * (1 - 2 * digits) + digits.square()).sum(1)


def load(folder: Path, train: bool) -> Tensor:
    """Digits of MNIST, shape (n, 784), in [0, 1], from the folder of its files or the one given to torchvision."""
    inside = folder / "MNIST" / "raw"
    return read_mnist(inside if inside.is_dir() else folder, train)[0].flatten(1)
