"""The shapes that flow through zograd, checked at run time in the tests only.

``d`` is the number of parameters, ``n`` the number of rows (evaluations), ``out`` the shape of one output.
"""

from typing import TypeAlias

from jaxtyping import Float, Int
from torch import Tensor

Vector: TypeAlias = Float[Tensor, " d"]
"""One point: a floating tensor of shape (d,)."""

Points: TypeAlias = Float[Tensor, "n d"]
"""A batch of points: shape (n, d)."""

Values: TypeAlias = Float[Tensor, "n *out"]
"""What a black box says of n points: shape (n, *out); NaN marks a lost evaluation."""

Weights: TypeAlias = Float[Tensor, " n"]
"""One number a row: shape (n,)."""

Indices: TypeAlias = Int[Tensor, " n"]
"""One integer a row: shape (n,)."""
