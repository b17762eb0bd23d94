"""A sphere of triangles, and its vertices as a hierarchy: each level refines the one before."""

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WEIGHTS = torch.tensor([1 / 2] * 2 + [1 / 8] * 2 + [-1 / 16] * 4)
"""Of the butterfly scheme: the ends of an edge, the corners across from it, and those of the faces around these."""

Stencils = list[NDArray[np.int64]]


def icosphere(level: int) -> tuple[Stencils, NDArray[np.int64], NDArray[np.float64]]:
    """A regular icosahedron whose edges are halved again and again.

    Args:
        level: How often; 0 has 12 vertices, and each next one four times as many faces.

    Returns:
        For each level after 0 the eight vertices that each of its own is interpolated from, shape (k, 8), in the order
        of `WEIGHTS`; the faces, shape (f, 3), counterclockwise from outside; and where the vertices are on the unit
        sphere, shape (v, 3).
    """
    golden = (1 + 5**0.5) / 2
    corners = [(0.0, s, t * golden) for s, t in itertools.product((-1.0, 1.0), repeat=2)]
    places = np.array([np.roll(corner, turn) for turn in range(3) for corner in corners])
    # Three corners are a face where all are neighbours, at distance 2.
    faces = np.array(
        [
            three if np.linalg.det(places[list(three)]) > 0 else three[::-1]
            for three in itertools.combinations(range(12), 3)
            if all(np.linalg.norm(places[a] - places[b]) < 2.1 for a, b in itertools.combinations(three, 2))
        ]
    )
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    stencils = []
    for _ in range(level):
        pairs, which = _edges(faces)
        stencils.append(_stencil(faces, pairs, which))
        first, second, third = which + len(places)
        middles = places[pairs].sum(1)
        places = np.concatenate([places, middles / np.linalg.norm(middles, axis=1, keepdims=True)])
        a, b, c = faces.T
        smaller = [(a, first, third), (first, b, second), (third, second, c), (first, second, third)]
        faces = np.concatenate([np.stack(three, 1) for three in smaller])
    return stencils, faces, places


def refined(offsets: list[Tensor], stencils: Stencils) -> Tensor:
    """All vertices' displacements: those of one level, interpolated for the next and what it adds, and so on.

    Args:
        offsets: One tensor a level, each of shape (n, k, 3).
        stencils: As `icosphere` returns them.

    Returns:
        Shape (n, v, 3). Each offset moves the surface around its vertex smoothly, those of the first levels widely.
    """
    total = offsets[0]
    for stencil, own in zip(stencils, offsets[1:], strict=True):
        total = torch.cat([total, _interpolated(total, stencil) + own], 1)
    return total


def hierarchy(displacements: Tensor, stencils: Stencils) -> list[Tensor]:
    """The inverse of `refined`: shape (n, v, 3) to one tensor a level."""
    found, start = [displacements[:, :12]], 12
    for stencil in stencils:
        stop = start + len(stencil)
        found.append(displacements[:, start:stop] - _interpolated(displacements, stencil))
        start = stop
    return found


def _interpolated(total: Tensor, stencil: NDArray[np.int64]) -> Tensor:
    """The middles of edges on a smooth surface through the vertices, shape (n, k, 3)."""
    around = total[:, torch.from_numpy(stencil.ravel())].reshape(len(total), -1, 8, 3)
    return torch.einsum("nkwi,w->nki", around, WEIGHTS)


def _edges(faces: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ends of each edge, shape (e, 2), and the three edges of each face, shape (3, f)."""
    sides = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    pairs, which = np.unique(sides, axis=0, return_inverse=True)
    return pairs, which.reshape(3, -1).astype(np.int64)


def _stencil(faces: NDArray[np.int64], pairs: NDArray[np.int64], which: NDArray[np.int64]) -> NDArray[np.int64]:
    """The eight vertices around each edge, shape (e, 8)."""
    order = np.argsort(which.ravel(), kind="stable")
    across = faces[:, [2, 0, 1]].T.ravel()[order].reshape(-1, 2)
    number = {(int(a), int(b)): edge for edge, (a, b) in enumerate(pairs)}

    def beyond(end: int, corner: int, other: int) -> int:
        """The corner on the far side of the edge between an end and a corner."""
        two = across[number[min(end, corner), max(end, corner)]]
        return int(two[0] + two[1] - other)

    wings = [
        [beyond(a, c, b), beyond(b, c, a), beyond(a, d, b), beyond(b, d, a)]
        for (a, b), (c, d) in zip(pairs.tolist(), across.tolist(), strict=True)
    ]
    return np.concatenate([pairs, across, np.array(wings)], 1)
