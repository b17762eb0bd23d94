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
        predicted: Array = self.value + z @ self.slope + 0.5 * np.einsum("ni,ij,nj->n", z, self.curvature, z)
        return predicted


@lru_cache(maxsize=32)
def _products(dimension: int, full: bool) -> tuple[Any, Any, Any]:
    """The pairs of coordinates whose products are features, and the factor of each."""
    across, along = np.triu_indices(dimension) if full else (np.arange(dimension), np.arange(dimension))
    return across, along, np.where(across == along, 0.5, 1.0)


def size(dimension: int, full: bool) -> int:
    """The number of coefficients."""
    return 1 + dimension + (dimension * (dimension + 1) // 2 if full else dimension)


def fit(z: Array, values: Array, full: bool, low: bool = False) -> Fit:
    """Fit a quadratic, full or diagonal, to values at z of shape (n, d); near samples count most, and ``low`` ones."""
    n, d = z.shape
    across, along, factors = _products(d, full)
    curved = z[:, across] * z[:, along] * factors
    features = np.concatenate([np.ones((n, 1)), z, curved], axis=1)
    weight = 1 / (1 + (np.square(z).sum(1) / (d * FAR**2)) ** 2)
    if low:
        above = values - values.min()
        weight /= 1 + (above / (LOW * float(np.median(above)) or 1.0)) ** 2
    level = float((weight * values).sum() / weight.sum())
    told = values - level
    scale = float(np.sqrt((weight * told**2).sum() / weight.sum())) or 1.0
    ridge = np.full(features.shape[1], CURVED)
    ridge[: d + 1] = LINEAR
    heavy = features * weight[:, None]
    matrix = heavy.T @ features
    matrix.flat[:: len(ridge) + 1] += ridge * weight.sum()
    inverse = np.linalg.inv(matrix)
    target = heavy.T @ (told / scale)
    found = inverse @ target
    # Once more on what is left: the inverse of a matrix near singular is not exact.
    left = told / scale - features @ found
    found = found + inverse @ (heavy.T @ left - (matrix - heavy.T @ features) @ found)
    left = told / scale - features @ found
    spare = float(weight.sum()) - len(found)
    errors = None
    if spare >= 1:
        errors = scale**2 * float((weight * left**2).sum()) / spare * inverse.diagonal()[1 : d + 1]
    curvature = np.zeros((d, d))
    curvature[across, along] = curvature[along, across] = scale * found[d + 1 :]
    return Fit(level + scale * float(found[0]), scale * found[1 : d + 1], curvature, errors)
