"""Digits as one stroke of a pen: a hard renderer, a network that tells it where to go, and the files of MNIST."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SIDE = 28
CONTROLS = 12
"""Control points of a stroke; a point of the renderer has two numbers for each, and one for the pen's width."""
NUMBERS = 2 * CONTROLS + 1
SPOTS = 64
"""Places along the curve where the pen is put down."""
THIN, THICK = 0.7, 1.5
"""The pen's radius in pixels."""
LATENT, HIDDEN = 8, 128


def basis(controls: int, spots: int) -> Tensor:
    """Uniform cubic B-spline weights, shape (spots, controls); the end points are repeated, so that it reaches them."""
    padded = controls + 4
    place = torch.linspace(0, padded - 3 - 1e-4, spots)
    first, t = place.long(), place % 1
    cubic = torch.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1) / 6
    weights = torch.zeros(spots, padded).scatter_(1, first[:, None] + torch.arange(4), cubic)
    repeated = (torch.arange(padded) - 2).clamp(0, controls - 1)
    return torch.zeros(spots, controls).index_add_(1, repeated, weights)


BASIS = basis(CONTROLS, SPOTS)


def drawn(numbers: Tensor) -> Tensor:
    """Strokes to pictures: shape (n, 25) to (n, 784), each pixel 0 or 1: ink lies where a disc of the pen reaches.

    Args:
        numbers: In [0, 1]: the control points' x and y, in sides of the picture, then the width from thin to thick.
    """
    n = len(numbers)
    controls = numbers[:, :-1].reshape(n, CONTROLS, 2).clamp(0, 1)
    radius = THIN + (THICK - THIN) * numbers[:, -1:, None].clamp(0, 1)
    # A border of two pixels all around holds what lies outside, and is cut off in the end.
    pen = (BASIS @ controls) * SIDE + 2
    near = (pen - 2).ceil()[:, :, None] + torch.arange(4.0)[:, None]
    squared = (near + 0.5 - pen[:, :, None]).square()
    inked = squared[..., None, 0] + squared[..., None, :, 1] <= (radius**2)[..., None]
    width = SIDE + 4
    pixel = near[..., None, 0] + width * near[..., None, :, 1]
    # Pixel 0 is in the border: where the pen does not reach is written there.
    pixel = torch.where(inked, pixel.clamp(0, width**2 - 1), 0.0).long().flatten(1)
    paper = torch.zeros(n, width * width).scatter_(1, pixel, 1.0)
    return paper.reshape(n, width, width)[:, 2:-2, 2:-2].reshape(n, -1).to(numbers)


class Writer(nn.Module):
    """A variational autoencoder whose decoder says where the pen goes.

    Args:
        renderer: From numbers, shape (n, 25), to pictures, shape (n, 784).
    """

    def __init__(self, renderer: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(SIDE**2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, NUMBERS))
        self.renderer = renderer
        # The first strokes are rings, from which every digit is near: a straight line does not close by itself.
        turn = torch.linspace(-0.5, 1.5, CONTROLS) * torch.pi
        ring = torch.stack([turn.cos(), turn.sin()], 1).flatten()
        with torch.no_grad():
            self.decoder[-1].bias.copy_(torch.cat([ring, torch.zeros(1)]))

    def strokes(self, latent: Tensor) -> Tensor:
        """Where the pen goes, shape (n, 25)."""
        return torch.sigmoid(self.decoder(latent))

    def forward(self, digits: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures, shape (n, 784), and how far the codes are from a normal distribution, shape (n,)."""
        mean, spread = self.encoder(digits).chunk(2, 1)
        divergence = 0.5 * (mean.square() + spread.exp() - spread - 1).sum(1)
        return self.renderer(self.strokes(mean + noise * (0.5 * spread).exp())), divergence


def error(pictures: Tensor, digits: Tensor) -> Tensor:
    """The squared error of each picture, summed over its pixels, shape (n,).

    A pixel is 0 or 1, so that its square is itself and the error is linear in the picture. Written so, its derivative
    says what a pixel costs that changes altogether; that of (picture - digit)^2 is for changes that are small.
    """
    return (pictures * (1 - 2 * digits) + digits.square()).sum(1)


def load(folder: Path, part: str) -> Tensor:
    """Digits of MNIST, shape (n, 784), in [0, 1].

    Args:
        folder: Where the idx files are, as they come (``.gz``) or unpacked; also the folder that torchvision was given.
        part: ``"train"`` or ``"t10k"``.
    """
    name = f"{part}-images-idx3-ubyte"
    for place in (folder, folder / "MNIST" / "raw", folder / "raw"):
        for path, opener in ((place / name, open), (place / f"{name}.gz", gzip.open)):
            if path.exists():
                with opener(path, "rb") as file:
                    data = np.frombuffer(file.read(), np.uint8)
                count, height, width = data[4:16].view(">i4")
                return torch.from_numpy(data[16:].reshape(count, height * width) / np.float32(255))
    raise FileNotFoundError(f"{name} or {name}.gz is not in {folder}, {folder}/MNIST/raw or {folder}/raw")
