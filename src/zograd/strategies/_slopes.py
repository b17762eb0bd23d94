"""Per-output slopes: how each output moves with each direction, all of them or only those that are not zero."""

from dataclasses import dataclass, replace
from typing import Any, TypeAlias, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

Amounts: TypeAlias = Float[Tensor, " k"]
"""One number a direction: shape (k,)."""

Outcomes: TypeAlias = Float[Tensor, " m"]
"""One number an output: shape (m,)."""

STILL = 1e-6
"""Moves with squares below this share of the largest count as none."""
EXACT = 2**22
"""Slopes up to so many are kept in float64, more in float32."""


@final
@dataclass(frozen=True, eq=False, slots=True)
class Slopes:
    """The Jacobian of m outputs along k directions: as a matrix, or as those entries that are known not to be zero.

    Args:
        directions: How many, k.
        outputs: How many, m.
        value: Shape (k, m), or (entries,) where the places of the entries are given.
        direction: The direction of each entry, shape (entries,); ``None`` for a matrix.
        output: The output of each entry, shape (entries,); ``None`` for a matrix.
    """

    directions: int
    outputs: int
    value: Tensor
    direction: Int[Tensor, " entries"] | None = None
    output: Int[Tensor, " entries"] | None = None

    @classmethod
    def zeros(cls, directions: int, outputs: int) -> "Slopes":
        """A matrix of zeros."""
        dtype = torch.float64 if directions * outputs <= EXACT else torch.float32
        return cls(directions, outputs, torch.zeros(directions, outputs, dtype=dtype))

    def times(self, step: Amounts) -> Outcomes:
        """How the outputs change along ``step``, shape (m,)."""
        if self.direction is None or self.output is None:
            return (step.to(self.value) @ self.value).double()
        amounts = self.value * step.to(self.value)[self.direction]
        return torch.zeros(self.outputs, dtype=torch.float64).index_add_(0, self.output, amounts.double())

    def transposed(self, outputs: Outcomes) -> Amounts:
        """The sum of the outputs' slopes, each times its entry of ``outputs``, shape (k,)."""
        if self.direction is None or self.output is None:
            return (self.value @ outputs.to(self.value)).double()
        amounts = self.value * outputs.to(self.value)[self.output]
        return torch.zeros(self.directions, dtype=torch.float64).index_add_(0, self.direction, amounts.double())

    def squares(self) -> Amounts:
        """The sum of the squared slopes of each direction, shape (k,)."""
        if self.direction is None:
            return self.value.square().sum(1).double()
        zeros = torch.zeros(self.directions, dtype=torch.float64)
        return zeros.index_add_(0, self.direction, self.value.double().square())

    def lengths(self) -> Outcomes:
        """The length of each output's slopes, shape (m,)."""
        if self.output is None:
            return self.value.square().sum(0).sqrt().double()
        zeros = torch.zeros(self.outputs, dtype=torch.float64)
        return zeros.index_add_(0, self.output, self.value.double().square()).sqrt()

    def corrected(self, step: Amounts, error: Outcomes) -> "Slopes":
        r"""The least change after which ``step`` leads to ``error`` more: Broyden's, and Schubert's where sparse.

        .. math:: J_{ij} \leftarrow J_{ij} + \frac{s_i e_j}{\sum_{i' \in S_j} s_{i'}^2}
        """
        if self.direction is None or self.output is None:
            amount = error.to(self.value) / step.square().sum().to(self.value)
            return replace(self, value=torch.addr(self.value, step.to(self.value), amount))
        own = step.double()[self.direction]
        total = torch.zeros(self.outputs, dtype=torch.float64).index_add_(0, self.output, own.square())
        # An output whose parameters hardly moved has not changed because of them.
        moved = total > STILL * step.double().square().max()
        share = torch.where(moved, error / torch.where(moved, total, 1.0), 0.0)
        return replace(self, value=self.value + (own * share[self.output]).to(self.value))

    def dense(self) -> "Slopes":
        """The same as a matrix."""
        if self.direction is None or self.output is None:
            return self
        matrix = Slopes.zeros(self.directions, self.outputs)
        matrix.value[self.direction, self.output] = self.value.to(matrix.value)
        return matrix

    def thinned(self, negligible: float, most: float) -> "Slopes":
        """Only the entries above ``negligible`` of their direction's largest, if they are ``most`` of all at most."""
        size = self.value.abs()
        there = size > negligible * size.amax(1, keepdim=True)
        if float(there.sum()) > most * there.numel():
            return self
        direction, output = there.nonzero(as_tuple=True)
        return Slopes(self.directions, self.outputs, self.value[there].float(), direction, output)

    def renewed(self, stale: Tensor, direction: Tensor, output: Tensor, value: Tensor) -> "Slopes":
        """New entries, and of the old ones only those of ``stale`` directions, sorted by direction."""
        if self.direction is None or self.output is None:  # pragma: no cover - only entries are renewed
            return self
        old = stale[self.direction]
        direction = torch.cat([direction, self.direction[old]])
        output = torch.cat([output, self.output[old]])
        value = torch.cat([value.float(), self.value[old]])
        order = torch.argsort(direction, stable=True)
        return Slopes(self.directions, self.outputs, value[order], direction[order], output[order])

    def state_dict(self) -> dict[str, Any]:
        """The fields."""
        return {name: getattr(self, name) for name in ("directions", "outputs", "value", "direction", "output")}
