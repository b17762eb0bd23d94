"""Damped Gauss-Newton steps for any damping at once, from one Krylov space."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from zograd._typing import Vector
from zograd.strategies._slopes import Amounts, Outcomes, Slopes

ROUNDING = 1e-13
"""A direction this much shorter than the longest is rounding."""
EXACT = 80
"""Up to so many directions are solved for exactly."""
LARGEST = 40
"""Dimensions of the Krylov space where there are more."""


def damped_steps(
    slopes: Slopes,
    residuals: Outcomes,
    dampings: Sequence[float],
    scale: Amounts,
    filtered: Callable[[Outcomes], Outcomes] | None = None,
) -> Float[Tensor, "dampings k"]:
    r"""Levenberg-Marquardt steps, one for each damping, shape (len(dampings), k).

    .. math:: s_\lambda = \arg\min_s \| W (r + J^T s) \|^2 + \lambda \bar\sigma^2 \| s / D \|^2

    Golub-Kahan bidiagonalisation (as in LSQR) of W J^T D, with full reorthogonalisation: two products with J a
    dimension, then every damping for the price of a small singular value decomposition.

    Args:
        slopes: J, of k directions and m outputs.
        residuals: r, shape (m,).
        dampings: The factors lambda, in units of the mean squared length of the columns.
        scale: D, shape (k,); zero holds a direction still.
        filtered: W, symmetric; ``None`` for the identity.

    References:
        Paige, Saunders: LSQR. ACM TOMS 8 (1982).
    """
    weigh = filtered or (lambda outputs: outputs)
    right = -weigh(residuals)
    beta = float(right.norm())
    nothing = torch.zeros(len(dampings), slopes.directions, dtype=torch.float64)
    if beta == 0.0:
        return nothing
    u = right / beta
    v = scale * slopes.transposed(weigh(u))
    alpha = float(v.norm())
    if alpha == 0.0:
        return nothing
    v = v / alpha
    moving = int((scale != 0).sum())
    space = moving if moving <= EXACT else LARGEST
    # Both sides where the answer is to be exact; for a few dimensions of many the one is enough.
    exact = moving <= EXACT and space * len(residuals) <= 2**24
    rights = torch.zeros(space, len(v), dtype=torch.float64)
    lefts = torch.zeros(space if exact else 0, len(u), dtype=torch.float64)
    rights[0], diagonal, below = v, [alpha], []
    for size in range(1, space + 1):
        if exact:
            lefts[size - 1] = u
        u = _orthogonal(weigh(slopes.times(scale * v)) - alpha * u, lefts[:size])
        beta_next = float(u.norm())
        below.append(beta_next)
        if beta_next <= ROUNDING * max(*diagonal, *below) or size == space:
            break
        u = u / beta_next
        v = _orthogonal(scale * slopes.transposed(weigh(u)) - beta_next * v, rights[:size])
        alpha = float(v.norm())
        if alpha <= ROUNDING * max(*diagonal, *below):
            break
        v = v / alpha
        rights[size] = v
        diagonal.append(alpha)
    size = len(diagonal)
    small = torch.zeros(size + 1, size, dtype=torch.float64)
    small[range(size), range(size)] = torch.tensor(diagonal, dtype=torch.float64)
    small[range(1, len(below) + 1), range(len(below))] = torch.tensor(below, dtype=torch.float64)
    left, singular, turned = torch.linalg.svd(small, full_matrices=False)
    mean = float(singular.square().sum()) / max(1, int((scale != 0).sum()))
    first = left[0] * beta
    factors = torch.stack([singular * first / (singular.square() + damping * mean) for damping in dampings])
    steps: Tensor = (factors @ turned) @ rights[:size] * scale
    return steps


def _orthogonal(vector: Vector, basis: Tensor) -> Vector:
    """``vector`` without its part in the span of the rows of ``basis``."""
    return vector - (basis @ vector) @ basis if len(basis) else vector
