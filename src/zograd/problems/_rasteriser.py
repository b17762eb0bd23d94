"""A hard rasteriser: a pixel shows the nearest triangle that its centre lies in, and no derivative."""

import torch
from torch import Tensor

LIGHT = (0.5, 0.6, 0.62)
"""Where the light comes from, as the camera sees it: right, up, towards."""
DARK = 0.2
"""The brightness of a face that looks away from the light; the background is 0."""
DEPTHS = 1 << 20
"""Depths that are told apart."""


def turned(yaw: float, pitch: float) -> Tensor:
    """The rotation of the world for a camera at these angles, in radians, shape (3, 3): rows right, up, towards."""
    (a, b), (c, d) = ((torch.tensor(angle).cos(), torch.tensor(angle).sin()) for angle in (yaw, pitch))
    zero = torch.tensor(0.0)
    around = torch.stack([torch.stack([a, zero, -b]), torch.tensor([0.0, 1.0, 0.0]), torch.stack([b, zero, a])])
    over = torch.stack([torch.tensor([1.0, 0.0, 0.0]), torch.stack([zero, c, -d]), torch.stack([zero, d, c])])
    return over @ around


def rasterised(vertices: Tensor, faces: Tensor, cameras: Tensor, size: int) -> Tensor:
    """Shaded pictures of meshes without perspective, shape (n, views, size, size): brightness in [0, 1].

    Triangles and the pixels of their bounding boxes are tested all at once, without a loop over either; the nearest is
    found by a minimum over whole numbers, so that the result does not depend on the order.

    Args:
        vertices: Shape (n, v, 3); what is within 1 of the origin is seen.
        faces: Shape (f, 3), counterclockwise from outside; others face away and are left out.
        cameras: Rotations, shape (views, 3, 3), as `turned` makes them.
        size: Pixels along each side.
    """
    n, views = len(vertices), len(cameras)
    seen = torch.einsum("nvi,cji->ncvj", vertices, cameras).flatten(0, 1)
    # In pixels, from the upper left corner; depth grows away from the camera.
    spots = torch.stack([(1 + seen[..., 0]) * size / 2, (1 - seen[..., 1]) * size / 2, -seen[..., 2]], 2)
    corners = spots[:, faces.flatten()].reshape(n * views, -1, 3, 3)
    a, b, c = corners.unbind(2)
    twice = (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])
    flat = corners[..., :2]
    low = (flat.amin(2) - 0.5).ceil().clamp(min=0).long()
    wide = ((flat.amax(2) - 0.5).floor().clamp(max=size - 1).long() - low + 1).clamp(min=0)
    number = wide.prod(2) * (twice < 0)
    image, face = number.nonzero(as_tuple=True)
    number, low, wide, a, b, c = (tensor[image, face] for tensor in (number, low, wide, a, b, c))

    # One row for each pixel of each bounding box.
    which = torch.arange(len(number)).repeat_interleave(number)
    within = torch.arange(len(which)) - (number.cumsum(0) - number)[which]
    column = low[which, 0] + within % wide[which, 0]
    line = low[which, 1] + torch.div(within, wide[which, 0], rounding_mode="floor")
    x, y = column + 0.5, line + 0.5
    weights = [_side(p[which], q[which], x, y) for p, q in ((b, c), (c, a), (a, b))]
    hit = (torch.stack(weights).amax(0) <= 0).nonzero()[:, 0]
    which, weights = which[hit], [weight[hit] for weight in weights]
    total = weights[0] + weights[1] + weights[2]
    depth = sum(weight * p[which, 2] for weight, p in zip(weights, (a, b, c), strict=True)) / total.clamp(max=-1e-12)
    code = ((depth + 4) / 8 * DEPTHS).long().clamp(0, DEPTHS - 1) * len(faces) + face[which]
    pixel = (image[which] * size + line[hit]) * size + column[hit]
    empty = DEPTHS * len(faces)
    nearest = torch.full((n * views * size * size,), empty).scatter_reduce(0, pixel, code, "amin")

    shades = _shades(vertices, faces, cameras)
    covered = (nearest < empty).nonzero()[:, 0]
    picture = torch.zeros(len(nearest))
    found = covered // (size * size)
    picture[covered] = shades.flatten(0, 1)[found, nearest[covered] % len(faces)]
    return picture.reshape(n, views, size, size)


def _side(p: Tensor, q: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """On which side of the line from p to q a pixel's centre lies: negative inside."""
    return (q[:, 0] - p[:, 0]) * (y - p[:, 1]) - (q[:, 1] - p[:, 1]) * (x - p[:, 0])


def _shades(vertices: Tensor, faces: Tensor, cameras: Tensor) -> Tensor:
    """How bright each face is for each camera, whose light turns with it: shape (n, views, f)."""
    a, b, c = vertices[:, faces.flatten()].reshape(len(vertices), -1, 3, 3).unbind(2)
    normals = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=2)
    lights = torch.tensor(LIGHT) / torch.tensor(LIGHT).norm() @ cameras
    return DARK + (1 - DARK) * torch.einsum("nfi,ci->ncf", normals, lights).clamp(min=0)
