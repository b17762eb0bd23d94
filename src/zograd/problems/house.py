"""Find the rule that a picture of a house was made by: how many floors, windows and pickets, and how large."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

import zograd as zo
from zograd.problems._arguments import whole
from zograd.problems._problem import Picture, Problem

SKY, GROUND, WALL, ROOF = (0.80, 0.89, 0.96), (0.55, 0.68, 0.42), (0.88, 0.76, 0.62), (0.66, 0.26, 0.20)
GLASS, DOOR, FENCE = (0.22, 0.32, 0.47), (0.36, 0.22, 0.14), (0.99, 0.98, 0.94)
HORIZON, PLINTH = 0.18, 0.17
"""Where the house stands; how high its ground floor is, which has no windows."""

BOUNDS: dict[str, tuple[float, float]] = {
    "floors": (1, 9),
    "windows": (1, 9),
    "pickets": (4, 30),
    "middle": (0.3, 0.7),
    "width": (0.25, 0.9),
    "height": (0.25, 0.7),
    "roof": (0.02, 0.3),
    "window_width": (0.15, 0.9),
    "window_height": (0.15, 0.9),
    "door": (0.04, 0.25),
    "picket_width": (0.15, 0.9),
    "fence": (0.03, 0.16),
}
INTEGERS = ("floors", "windows", "pickets")
WANTED = dict(zip(BOUNDS, (4, 5, 17, 0.54, 0.62, 0.52, 0.17, 0.5, 0.6, 0.1, 0.5, 0.11), strict=True))
START = dict(zip(BOUNDS, (2, 3, 9, 0.45, 0.45, 0.38, 0.08, 0.7, 0.4, 0.16, 0.3, 0.07), strict=True))


def house(size: int = 64) -> Problem:
    r"""Find how many floors, windows and pickets a house was made with, and how large all is.

    .. math:: f(x) = \frac{1}{3 n^2} \sum_{\text{pixels, channels}} \left(\text{draw}(x) - \text{picture}\right)^2

    for pictures of n x n pixels whose channels are in [0, 1]. It is procedural modelling the other way round: the
    generator draws a house from three whole numbers (floors, windows on each, pickets of the fence) and nine real ones
    (shares and lengths), and the picture is given. A pixel has one colour or another, so that f is a staircase in
    every parameter; a wrong count puts every window where there is wall, and one more may be worse before the right one
    is better.

    **Cost**: one drawing an evaluation, which costs less in batches.

    Args:
        size: Pixels along each side of the picture.

    Raises:
        ArgumentError: When the size is none.
    """
    whole("size", size, 8, 1024, "It is the number of pixels along each side; try 64.")
    wanted = drawn(batch(WANTED), size)[0]

    def residuals(points: dict[str, Any]) -> Tensor:
        return drawn(points, size) - wanted

    def draw(point: dict[str, Any], side: int) -> Picture:
        picture: Picture = (255 * drawn(batch(point), side)[0]).round().byte().numpy()
        return picture

    return Problem(
        name="house",
        summary="find how many floors, windows and pickets a house was made with, and how large all is",
        fun=zo.batched(lambda points: residuals(points).square().mean((1, 2, 3))),
        residuals=zo.batched(residuals),
        x0=dict(START),
        bounds=dict(BOUNDS),
        integers=INTEGERS,
        loss="mean squared error of the pixels",
        evaluations=4000,
        minimum=0.0,
        draw=draw,
        target=lambda side: draw(WANTED, side),
        details={"whole numbers": "3", "real numbers": "9", "pixels compared": f"{size} x {size}, RGB"},
    )


def drawn(points: dict[str, Any], size: int) -> Tensor:
    """Houses, shape (n, size, size, 3): each pixel has the colour of what its centre lies in."""
    value = {name: torch.as_tensor(points[name]).float()[:, None, None] for name in BOUNDS}
    spots = (torch.arange(size) + 0.5) / size
    across, up = spots[None, None, :], 1 - spots[None, :, None] - HORIZON
    aside = across - value["middle"]
    left = aside + value["width"] / 2
    inside = (left > 0) & (left < value["width"]) & (up > 0) & (up < value["height"])

    column = left / value["width"] * value["windows"]
    row = (up - PLINTH) / (value["height"] - PLINTH).clamp(min=1e-3) * value["floors"]
    pane = ((column % 1 - 0.5).abs() < value["window_width"] / 2) & ((row % 1 - 0.5).abs() < value["window_height"] / 2)
    window = inside & pane & (row > 0)
    above = (up - value["height"]) / value["roof"]
    roof = (above > 0) & (aside.abs() < (value["width"] / 2 + 0.04) * (1 - above))
    door = (up > 0) & (up < 0.8 * PLINTH) & (aside.abs() < value["door"] / 2)
    upright = (across * value["pickets"] % 1 - 0.5).abs() < value["picket_width"] / 2
    rail = (up + 0.06 - 0.65 * value["fence"]).abs() < 0.012
    fence = (up > -0.06) & (up < value["fence"] - 0.06) & (upright | rail) & (aside.abs() > value["door"])

    picture = torch.where((up > 0)[..., None], torch.tensor(SKY), torch.tensor(GROUND))
    layers = [(inside, WALL), (window, GLASS), (roof, ROOF), (door, DOOR), (fence, FENCE)]
    for mask, color in layers:
        picture = torch.where(mask[..., None], torch.tensor(color), picture)
    return picture


def batch(point: dict[str, Any]) -> dict[str, Tensor]:
    """One point as a batch of one."""
    return {name: torch.tensor([np.asarray(value).item()]) for name, value in point.items()}
