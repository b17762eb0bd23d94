"""Make a sphere the shape that several shaded views show."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

import zograd as zo
from zograd.problems._arguments import whole
from zograd.problems._icosphere import hierarchy, icosphere, refined
from zograd.problems._problem import Picture, Problem
from zograd.problems._rasteriser import rasterised, turned

RADIUS = 0.55
"""Of the sphere at the start."""
VIEWS = [(0.0, 0.2), (1.05, 0.2), (2.1, 0.2), (3.14, 0.2), (4.19, 0.2), (5.24, 0.2)]
"""Where the cameras are: yaw and pitch in radians."""
LUMPS = [
    ((0.62, 0.72, 0.1), 0.34, 0.07),
    ((-0.62, 0.72, 0.1), 0.34, 0.07),
    ((0.0, -0.2, 0.98), 0.22, 0.12),
    ((0.0, -0.08, 1.0), 0.07, 0.008),
    ((0.36, 0.3, 0.88), -0.06, 0.01),
    ((-0.36, 0.3, 0.88), -0.06, 0.01),
]
"""The target is a fox's head: a ball with ears, a snout with a nose, and eyes: direction, height, width squared."""


def mesh(level: int = 4, size: int = 48) -> Problem:
    r"""Make a sphere the shape that six shaded views show.

    .. math:: f(x) = \frac{1}{6 n^2} \sum_{\text{views, pixels}} \left(\text{render}(x) - \text{view}\right)^2

    for views of n x n pixels whose brightness is in [0, 1]. The surface is an icosahedron whose edges are halved four
    times: 2,562 vertices, 5,120 faces, 7,686 parameters. These are the displacements of its vertices in levels: each
    level adds to what a smooth surface through the one before it has in the middles of its edges, so that the first 12
    vertices move the whole and the last ones details. A pixel shows the nearest triangle that its centre lies in,
    shaded by the triangle's slope towards the light: contours jump from pixel to pixel.

    **Cost**: one rendering of six views an evaluation.

    Args:
        level: How often the edges are halved; 0 has 36 parameters, each level about four times as many.
        size: Pixels along each side of a view.

    Raises:
        ArgumentError: When an argument is out of its range.

    References:
        Laine et al., Modular primitives for high-performance differentiable rendering, SIGGRAPH Asia 2020 (what a
        rasteriser that can be differentiated takes).
    """
    whole("level", level, 0, 6, "Each level has four times the faces; try 4.")
    whole("size", size, 8, 512, "It is the number of pixels along each side of a view; try 48.")
    stencils, corners, sphere = icosphere(level)
    faces = torch.from_numpy(corners)
    ball = torch.from_numpy(sphere).float()
    cameras = torch.stack([turned(*view) for view in VIEWS])
    wanted = hierarchy((fox(ball) - RADIUS * ball)[None], stencils)
    names = [f"level {index}" for index in range(level + 1)]

    def shapes(points: dict[str, Any]) -> Tensor:
        offsets = [torch.as_tensor(points[name]).float() for name in names]
        return RADIUS * ball + refined(offsets, stencils)

    views = rasterised(shapes(dict(zip(names, wanted, strict=True))), faces, cameras, size)[0]

    def residuals(points: dict[str, Any]) -> Tensor:
        return (rasterised(shapes(points), faces, cameras, size) - views).flatten(1)

    def draw(point: dict[str, Any], side: int) -> Picture:
        one = {name: torch.as_tensor(values)[None] for name, values in point.items()}
        pictures = rasterised(shapes(one), faces, cameras[[0, 1, 3]], side // 3)[0]
        sheet = torch.cat([*pictures, torch.zeros(side // 3, side % 3)], 1)
        tint = torch.tensor([0.93, 0.78, 0.6])
        drawn = torch.where((sheet > 0)[..., None], sheet[..., None] * tint, torch.tensor([0.96, 0.97, 0.98]))
        picture: Picture = (255 * drawn).round().byte().numpy()
        return picture

    target = {name: values[0].double().numpy() for name, values in zip(names, wanted, strict=True)}
    return Problem(
        name="mesh",
        summary="make a sphere the shape that six shaded views show",
        fun=zo.batched(lambda points: residuals(points).square().mean(1)),
        residuals=zo.batched(residuals),
        x0={name: np.zeros_like(values) for name, values in target.items()},
        scale={name: 0.5 / 4**index for index, name in enumerate(names)},
        loss="mean squared error of the pixels",
        evaluations=20_000,
        settings={"estimator": zo.SmoothedGradient(spread=0.03, samples=20)},
        minimum=0.0,
        draw=draw,
        target=lambda side: draw(target, side),
        details={
            "vertices": f"{len(sphere):,}",
            "parameters": f"{3 * len(sphere):,}",
            "pixels compared": f"{len(VIEWS)} views of {size} x {size}",
        },
    )


def fox(directions: Tensor) -> Tensor:
    """The target's vertices, from where they are on the unit sphere."""
    radius = torch.full(directions.shape[:1], 0.52)
    for towards, height, width in LUMPS:
        axis = torch.tensor(towards) / torch.tensor(towards).norm()
        radius = radius + height * ((directions @ axis - 1) / width).exp()
    return radius[:, None] * directions
