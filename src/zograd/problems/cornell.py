"""Find the lamp and the blocks of a room from its picture: shadows and edges jump, and carry most of what there is."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

import zograd as zo
from zograd.problems._arguments import whole
from zograd.problems._problem import Picture, Problem
from zograd.problems._raycaster import Room

LOWER = {"light": [-0.8, 0.2, -0.8], "tall": [-0.65, -0.6, -60.0], "short": [-0.65, -0.6, -60.0]}
UPPER = {"light": [0.8, 0.9, 0.8], "tall": [0.65, 0.6, 60.0], "short": [0.65, 0.6, 60.0]}
WANTED = {"light": [0.15, 0.65, -0.3], "tall": [-0.4, 0.35, -18.0], "short": [0.4, -0.35, 20.0]}
START = {"light": [-0.5, 0.4, 0.3], "tall": [0.05, 0.1, 25.0], "short": [0.1, -0.6, -15.0]}


def cornell(size: int = 64) -> Problem:
    r"""Find the lamp and the blocks of a room from its picture.

    .. math:: f(x) = \frac{1}{3 n^2} \sum_{\text{pixels, channels}} \left(\text{render}(x) - \text{picture}\right)^2

    for pictures of n x n pixels whose channels are in [0, 1]. The nine parameters: where the lamp is (x, y, z), and
    where each of two blocks stands and how it is turned (x, z, degrees). A pixel is cast one ray, and one more to the
    lamp, so that edges and shadows are hard: a pixel's brightness jumps when one of them passes over it. Automatic
    differentiation of this renderer works, and sees the shading alone.

    **Cost**: one picture an evaluation, which costs less in batches; two rays a pixel.

    Args:
        size: Pixels along each side of the picture.

    Raises:
        ArgumentError: When the size is none.

    References:
        Goral, Torrance, Greenberg and Battaile, Modeling the interaction of light between diffuse surfaces, SIGGRAPH
        1984 (the room).
    """
    whole("size", size, 8, 1024, "It is the number of pixels along each side; try 64.")
    room = Room(size)
    wanted = pictures(room, batch(WANTED))[0]

    def residuals(points: dict[str, Any]) -> Tensor:
        return pictures(room, points) - wanted

    def draw(point: dict[str, Any], side: int) -> Picture:
        picture: Picture = (255 * pictures(Room(side), batch(point))[0]).round().byte().numpy()
        return picture

    return Problem(
        name="cornell",
        summary="find the lamp and the blocks of a room from its picture",
        fun=zo.batched(lambda points: residuals(points).square().mean((1, 2, 3))),
        residuals=zo.batched(residuals),
        x0={name: np.array(values) for name, values in START.items()},
        bounds={name: (np.array(LOWER[name]), np.array(UPPER[name])) for name in START},
        loss="mean squared error of the pixels",
        evaluations=3000,
        minimum=0.0,
        draw=draw,
        target=lambda side: draw(WANTED, side),
        details={"parameters": "9", "pixels compared": f"{size} x {size}, RGB", "shadows": "hard, one lamp"},
    )


def pictures(room: Room, points: dict[str, Any]) -> Tensor:
    """The pictures of a batch of points, shape (n, size, size, 3)."""
    light, tall, short = (torch.as_tensor(points[name]).float() for name in ("light", "tall", "short"))
    return room(light, tall, short)


def batch(point: dict[str, Any]) -> dict[str, Tensor]:
    """One point as a batch of one."""
    return {name: torch.as_tensor(values)[None] for name, values in point.items()}
