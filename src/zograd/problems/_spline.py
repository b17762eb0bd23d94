"""Uniform cubic B-splines over a grid of control points, as matrices."""

import torch
from torch import Tensor


def basis(places: Tensor, count: int) -> tuple[Tensor, Tensor]:
    r"""The matrices that take control points to a spline's values and to its slopes, each of shape (n, count).

    The control points lie at 0, 1/(count - 1), ..., 1, and one more at either end continues the last two in a straight
    line. In two dimensions the surface of control points C is A C A^T, and its slopes are A' C A^T and A C A'^T.

    Args:
        places: Where, shape (n,), in [0, 1]; others are moved to the nearest end.
        count: The number of control points, at least 2.
    """
    inside = places.clamp(0.0, 1.0) * (count - 1)
    first = inside.floor().clamp(max=count - 2)
    t = inside - first
    weights = torch.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1) / 6
    slopes = torch.stack([-((1 - t) ** 2), 3 * t**2 - 4 * t, -3 * t**2 + 2 * t + 1, t**2], 1) / 2 * (count - 1)
    columns = first.long()[:, None] + torch.arange(4)
    padded = torch.zeros(2, len(places), count + 2, dtype=places.dtype)
    padded[0].scatter_(1, columns, weights)
    padded[1].scatter_(1, columns, slopes)
    values = padded[:, :, 1:-1].clone()
    for added, end, next_to_it in ((padded[:, :, :1], 0, 1), (padded[:, :, -1:], -1, -2)):
        values[:, :, end] += 2 * added[:, :, 0]
        values[:, :, next_to_it] -= added[:, :, 0]
    return values[0], values[1]
