"""Probes: a batch of points that remembers how it was made.

A probe is ``center + offset``. Every finite-difference gradient is a weighted sum of the offsets,
``g = sum_i w_i o_i``, so `Probes.weighted_sum` is written once, here, and an estimator has only its
weights to get wrong. The structure of the offsets is kept because it is worth a lot: a tenth of ResNet-20's
coordinates are 29 GB as dense rows and 0.3 MB as `Coordinates`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zograd._checks import count, one_of, require
from zograd._typing import Points, Vector, Weights

Quantity = Literal["value", "derivative"]
BLOCK_ENTRIES = 2**15
"""Entries of a direction that are drawn from one seed."""
GOLDEN = 0x9E3779B97F4A7C15
Distribution = Literal["gaussian", "sphere", "rademacher"]


class Offsets(ABC):
    """Where n probes lie, relative to their centre."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows, n."""

    @abstractmethod
    def __getitem__(self, rows: slice) -> "Offsets":
        """The same structure, of some of the rows."""

    @abstractmethod
    def dense(self, center: Vector) -> Points:
        """The offsets as a tensor of shape (n, d), in the centre's dtype and device: O(n d) memory."""

    @abstractmethod
    def weighted_sum(self, weights: Weights, center: Vector) -> Vector:
        """``sum_i weights[i] * offset[i]``, shape (d,)."""

    @abstractmethod
    def squared_norms(self, center: Vector) -> Weights:
        """``||offset[i]||^2``, shape (n,)."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory held by the structure, in bytes."""


@final
@dataclass(frozen=True, eq=False, slots=True)
class Dense(Offsets):
    """Any offsets, row by row.

    Args:
        rows: Shape (n, d).
    """

    rows: Float[Tensor, "n d"]

    def __len__(self) -> int:
        return self.rows.shape[0]

    def __getitem__(self, rows: slice) -> "Dense":
        return Dense(self.rows[rows])

    def dense(self, center: Vector) -> Points:
        """The rows themselves."""
        return self.rows.to(center)

    def weighted_sum(self, weights: Weights, center: Vector) -> Vector:
        """One matrix-vector product."""
        return weights.to(center) @ self.rows.to(center)

    def squared_norms(self, center: Vector) -> Weights:
        """Row norms, squared."""
        return self.rows.to(center).square().sum(1)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        return self.rows.nbytes


@final
@dataclass(frozen=True, eq=False, slots=True)
class Coordinates(Offsets):
    """Offsets along one coordinate axis each: 12 bytes a row, whatever d is.

    Args:
        index: Which coordinate, shape (n,), integer.
        step: How far, signed, shape (n,). A step of zero is the centre itself.
    """

    index: Int[Tensor, " n"]
    step: Float[Tensor, " n"]

    def __len__(self) -> int:
        return self.index.shape[0]

    def __getitem__(self, rows: slice) -> "Coordinates":
        return Coordinates(self.index[rows], self.step[rows])

    def dense(self, center: Vector) -> Points:
        """Rows with one nonzero entry each."""
        rows = center.new_zeros(len(self), len(center))
        rows[torch.arange(len(self), device=center.device), self.index.to(center.device)] = self.step.to(center)
        return rows

    def weighted_sum(self, weights: Weights, center: Vector) -> Vector:
        """A scatter-add: O(n + d)."""
        return torch.zeros_like(center).index_add_(
            0, self.index.to(center.device), weights.to(center) * self.step.to(center)
        )

    def squared_norms(self, center: Vector) -> Weights:
        """The steps, squared."""
        return self.step.to(center).square()

    @property
    def nbytes(self) -> int:
        """Bytes of the indices and steps."""
        return self.index.nbytes + self.step.nbytes


@final
@dataclass(frozen=True, eq=False, slots=True)
class Seeded(Offsets):
    """Random offsets that are regenerated from a seed whenever they are needed: 16 bytes a row, whatever d is.

    Row i is ``scale[i]`` times a direction drawn by a CPU generator seeded with ``seed[i]``, so that it is the
    same on every device. Directions have ``E[u u^T] = I``: a ``sphere`` direction has length sqrt(d). They are drawn in
    blocks of `BLOCK_ENTRIES`, each from a seed of its own, so that a `piece` costs no more than its own blocks.

    Args:
        seed: Shape (n,), integer. Rows with one seed share one direction (antithetic pairs).
        scale: How far, signed, shape (n,). Zero is the centre itself.
        distribution: ``"gaussian"``, ``"sphere"`` or ``"rademacher"``.
    """

    seed: Int[Tensor, " n"]
    scale: Float[Tensor, " n"]
    distribution: Distribution = "gaussian"
    _generator: torch.Generator = field(default_factory=torch.Generator, repr=False)

    def __post_init__(self) -> None:
        one_of("distribution", self.distribution, ("gaussian", "sphere", "rademacher"))

    def __len__(self) -> int:
        return self.seed.shape[0]

    def __getitem__(self, rows: slice) -> "Seeded":
        return Seeded(self.seed[rows], self.scale[rows], self.distribution)

    def direction(self, seed: int, center: Vector) -> Vector:
        """The direction of ``seed``, shape (d,)."""
        whole = torch.cat([piece for _, piece in self.pieces(seed, 0, len(center), len(center), center.dtype)])
        if self.distribution == "sphere":
            whole *= len(center) ** 0.5 / whole.norm()
        return whole.to(center.device)

    def pieces(
        self, seed: int, start: int, stop: int, dimension: int, dtype: torch.dtype
    ) -> Iterator[tuple[int, Vector]]:
        """Entries ``start`` to ``stop`` of the direction of ``seed``, in O(`BLOCK_ENTRIES`) memory, on the CPU.

        A ``sphere`` direction is given before it is scaled to its length, which depends on all entries.

        Args:
            seed: Which direction.
            start: The first entry.
            stop: One past the last.
            dimension: The number of entries of the whole direction, d.
            dtype: Of the entries.

        Yields:
            Where a piece starts, and its entries.
        """
        distribution = "gaussian" if self.distribution == "sphere" else self.distribution
        for block in range(start // BLOCK_ENTRIES, -(-stop // BLOCK_ENTRIES)):
            first = block * BLOCK_ENTRIES
            # An odd multiplier keeps the blocks' seeds apart; the first block's is the direction's own.
            self._generator.manual_seed((seed + block * GOLDEN) % 2**63)
            size = min(BLOCK_ENTRIES, dimension - first)
            entries = draw(distribution, 1, size, dtype, self._generator)[0]
            low, high = max(start, first), min(stop, first + size)
            yield low, entries[low - first : high - first]

    def dense(self, center: Vector) -> Points:
        """All rows at once: O(n d) memory, so ask for a few at a time (`Probes.split`)."""
        known: dict[int, Vector] = {}
        for seed in self.seed.tolist():
            if seed not in known:
                known[seed] = self.direction(seed, center)
        rows = torch.stack([known[seed] for seed in self.seed.tolist()])
        return rows * self.scale.to(center)[:, None]

    def weighted_sum(self, weights: Weights, center: Vector) -> Vector:
        """One direction at a time: O(d) memory; rows that share a seed are added up first."""
        total = torch.zeros_like(center)
        seeds, group = torch.unique(self.seed, return_inverse=True)
        amounts = torch.zeros(len(seeds), dtype=torch.float64)
        amounts.index_add_(0, group.cpu(), (weights.cpu() * self.scale.cpu()).double())
        for seed, amount in zip(seeds.tolist(), amounts.tolist(), strict=True):
            total.add_(self.direction(seed, center), alpha=amount)
        return total

    def squared_norms(self, center: Vector) -> Weights:
        """``scale^2 d``: exact for sphere and rademacher, the expectation for gaussian."""
        return self.scale.to(center).square() * len(center)

    @property
    def nbytes(self) -> int:
        """Bytes of the seeds and scales."""
        return self.seed.nbytes + self.scale.nbytes


@final
@dataclass(frozen=True, eq=False, slots=True)
class Probes:
    """A batch of n points around a centre: the value that flows from an estimator to a black box and back.

    Args:
        center: The centre, shape (d,).
        offsets: Where the points lie, relative to it: `Dense`, `Coordinates` or `Seeded`.
        quantity: What is asked at each row: the ``"value"`` f(center + offset), or the exact directional
            ``"derivative"`` of f at the centre along the offset (forward-mode AD; torch functions only).
    """

    center: Vector
    offsets: Offsets
    quantity: Quantity = "value"

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, rows: slice) -> "Probes":
        return replace(self, offsets=self.offsets[rows])

    @property
    def dimension(self) -> int:
        """The number of parameters, d."""
        return self.center.shape[0]

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes: the centre and the structure of the offsets, never n x d unless they are `Dense`."""
        return self.center.nbytes + self.offsets.nbytes

    def points(self) -> Points:
        """The points, shape (n, d): O(n d) memory. `split` first where that is too much."""
        return self.center + self.offsets.dense(self.center)

    def split(self, rows: int) -> Iterator["Probes"]:
        """The same probes in pieces of at most ``rows`` rows, in order."""
        if count("rows", rows) >= len(self) > 0:
            yield self
            return
        for start in range(0, len(self), rows):
            yield self[start : start + rows]

    def weighted_sum(self, weights: Weights) -> Vector:
        """``sum_i weights[i] * offset[i]``, shape (d,): every finite-difference gradient is one of these.

        Args:
            weights: Shape (n,).

        Raises:
            ArgumentError: When there is not one weight a row.
        """
        if weights.shape != (len(self),):  # worded only when it fails
            require(False, "weights", f"have one entry for each of the {len(self)} rows", weights)
        return self.offsets.weighted_sum(weights, self.center)


def draw(
    distribution: Distribution, samples: int, dimension: int, dtype: torch.dtype, generator: torch.Generator
) -> Points:
    """Random directions with ``E[u u^T] = I``, shape (samples, dimension), on the CPU."""
    shape = (samples, dimension)
    if distribution == "rademacher":
        return torch.randint(2, shape, generator=generator).to(dtype).mul_(2).sub_(1)
    directions = torch.randn(shape, dtype=dtype, generator=generator)
    if distribution == "sphere":
        directions *= dimension**0.5 / directions.norm(dim=-1, keepdim=True)
    return directions
