"""Random directions, as offsets: shared by the estimators that look along them."""

from typing import Literal

import torch
from torch import Tensor

from zograd._checks import vector
from zograd._probes import Dense, Offsets, Seeded, draw
from zograd._typing import Points, Vector, Weights

Directions = Literal["gaussian", "sphere", "rademacher", "orthogonal"]
DIRECTIONS: tuple[Directions, ...] = ("gaussian", "sphere", "rademacher", "orthogonal")

SEEDED_ENTRIES = 2**22
"""More entries than this (samples x d) are regenerated from seeds instead of being kept."""

SEEDED_DIMENSION = 2**10
"""Below this many parameters a row costs less than the seeding of a generator, so rows are kept."""


def scatter(
    directions: Directions,
    scale: Weights,
    center: Vector,
    generator: torch.Generator,
    *,
    mirrored: bool = False,
    with_center: bool = False,
) -> Offsets:
    """Offsets ``scale[k] u_k`` with ``E[u u^T] = I``; a row of zeros before them, or the mirrored rows after them.

    `Dense` while they are few, `Seeded` (16 bytes a row) when there are more than `SEEDED_ENTRIES` entries;
    orthogonal directions depend on one another and are always `Dense`.
    """
    vector("center", center, "It is the point where the gradient is wanted.")
    samples, dimension = len(scale), len(center)
    if directions != "orthogonal" and samples * dimension > SEEDED_ENTRIES and dimension >= SEEDED_DIMENSION:
        seed = torch.randint(2**62, (samples,), generator=generator)
        if mirrored:
            seed, scale = torch.cat([seed, seed]), torch.cat([scale, -scale])
        if with_center:
            seed, scale = torch.cat([seed[:1], seed]), torch.cat([scale.new_zeros(1), scale])
        return Seeded(seed, scale, directions)
    if directions == "orthogonal":
        unit = orthogonal(samples, dimension, center.dtype, generator)
    else:
        unit = draw(directions, samples, dimension, center.dtype, generator)
    rows = unit * scale.to(unit)[:, None]
    if mirrored:
        rows = torch.cat([rows, -rows])
    if with_center:
        rows = torch.cat([rows.new_zeros(1, dimension), rows])
    return Dense(rows.to(center.device))


def orthogonal(samples: int, dimension: int, dtype: torch.dtype, generator: torch.Generator) -> Points:
    """Directions of length sqrt(d) in blocks of at most d, mutually orthogonal in a block, uniform on the sphere."""
    blocks: list[Tensor] = []
    for start in range(0, samples, dimension):
        size = min(dimension, samples - start)
        q, r = torch.linalg.qr(torch.randn(dimension, size, dtype=dtype, generator=generator))
        # QR alone is not uniform (its signs follow the algorithm); this makes it so: Mezzadri 2007, section 5.
        blocks.append((q * r.diagonal().sign()).T * dimension**0.5)
    return torch.cat(blocks)
