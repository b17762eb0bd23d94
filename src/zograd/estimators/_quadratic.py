"""Weighted least squares with a quadratic, in units in which the samples are about one away."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import numpy as np

from zograd.estimators._replay import Array

LINEAR, CURVED = 1e-9, 1e-6
"""The ridge on slopes and on curvatures: what few samples cannot tell is told by slopes first."""
FAR = 2.0
"""Samples further away than so many spreads count less and less."""

LOW = 0.5
"""Where low values are wanted, those above the lowest by so many median excesses count half."""


@final
@dataclass(frozen=True)
class Fit:
    """A quadratic ``value + slope . z + z . curvature . z / 2`` and how sure its slopes are.

    Args:
        value: At the centre.
        slope: Shape (d,), per unit of z.
        curvature: Shape (d, d).
        errors: The expected squared error of each slope, shape (d,), ``None`` where no sample is to spare.
    """

    value: float
    slope: Array
    curvature: Array
    errors: Array | None

    def __call__(self, z: Array) -> Array:
        """The values at z of shape (n, d)."""
        predicted: Array = self.value + z @ self.slope + 0.5 * (z @ self.curvature * z).sum(1)
        return predicted


@lru_cache(maxsize=32)
def _products(dimension: int, full: bool) -> tuple[Any, Any, Any, Any]:
    """The pairs of coordinates whose products are features, the factor of each, and the ridge of all coefficients."""
    across, along = np.triu_indices(dimension) if full else (np.arange(dimension), np.arange(dimension))
    ridge = np.array([LINEAR] * (1 + dimension) + [CURVED] * len(across))
    return across, along, np.where(across == along, 0.5, 1.0), ridge


def size(dimension: int, full: bool) -> int:
    """The number of coefficients."""
    return 1 + dimension + (dimension * (dimension + 1) // 2 if full else dimension)


def fit(z: Array, values: Array, full: bool, low: bool = False) -> Fit:
    """Fit a quadratic, full or diagonal, to values at z of shape (n, d); near samples count most, and ``low`` ones."""
    n, d = z.shape
    across, along, factors, ridge = _products(d, full)
    features = np.empty((n, len(ridge)))
    features[:, 0], features[:, 1 : d + 1] = 1, z
    np.multiply(z.take(across, 1) * z.take(along, 1), factors, out=features[:, d + 1 :])
    weight = 1 / (1 + (np.einsum("ni,ni->n", z, z) / (d * FAR**2)) ** 2)
    if low:
        above = values - values.min()
        ranked = np.sort(above)  # for np.median takes ten times as long
        median = float(ranked[(n - 1) // 2] + ranked[n // 2]) / 2
        weight /= 1 + (above / (LOW * median or 1.0)) ** 2
    total = float(weight.sum())
    level = float(weight @ values) / total
    told = values - level
    scale = (float(weight @ told**2) / total) ** 0.5 or 1.0
    told /= scale
    ridge = total * ridge
    heavy = (features * weight[:, None]).T
    matrix = heavy @ features
    matrix.flat[:: len(ridge) + 1] += ridge
    inverse = np.linalg.inv(matrix)
    found = inverse @ (heavy @ told)
    # Once more on what is left: the inverse of a matrix near singular is not exact.
    found += inverse @ (heavy @ (told - features @ found) - ridge * found)
    left = told - features @ found
    spare = total - len(found)
    errors = None
    if spare >= 1:
        errors = scale**2 * float(weight @ left**2) / spare * inverse.diagonal()[1 : d + 1]
    curvature = np.zeros((d, d))
    curvature[across, along] = curvature[along, across] = scale * found[d + 1 :]
    return Fit(level + scale * float(found[0]), scale * found[1 : d + 1], curvature, errors)
