"""A digest for every row of a wave: what tells a point from another one when a run is replayed."""

from hashlib import blake2b

import torch
from torch import Tensor

from zograd._probes import Coordinates, Dense, Probes, Seeded

SIZE = 16
"""Bytes of a digest."""
AT_ONCE_BYTES = 8 * 2**20


def digests(probes: Probes) -> list[bytes]:
    """One digest a row, 16 bytes each.

    `Dense` rows: BLAKE2b of the bytes of the point. `Coordinates` and `Seeded` rows, whose points may be far too
    large to be made only for this: of the digest of the centre and the bytes of what the row holds. A wave that asks
    for derivatives has digests of its own.

    Cost: one hash a row, and O(d) a point of dense ones.
    """
    person = probes.quantity.encode()
    if isinstance(probes.offsets, Dense):
        rows = max(1, AT_ONCE_BYTES // max(1, probes.dimension * probes.center.element_size()))
        return [_digest(row, person) for piece in probes.split(rows) for row in _bytes(piece.points())]
    salt = _digest(_bytes(probes.center[None])[0], person)
    if isinstance(probes.offsets, Coordinates):
        columns = (probes.offsets.index, probes.offsets.step)
    elif isinstance(probes.offsets, Seeded):
        columns = (probes.offsets.seed, probes.offsets.scale)
        salt = _digest(salt, probes.offsets.distribution.encode())
    else:  # pragma: no cover - offsets of somebody else's making
        return digests(Probes(probes.center, Dense(probes.offsets.dense(probes.center)), probes.quantity))
    parts = zip(*(_bytes(column[:, None]) for column in columns), strict=True)
    return [_digest(salt + first.tobytes() + second.tobytes(), person) for first, second in parts]


def _digest(data: "bytes | memoryview", person: bytes) -> bytes:
    return blake2b(data, digest_size=SIZE, person=person).digest()


def _bytes(rows: Tensor) -> list[memoryview]:
    """The bytes of each row, whatever the dtype."""
    flat = rows.detach().cpu().contiguous().view(torch.uint8).numpy()
    return [row.data for row in flat]
