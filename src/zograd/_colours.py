"""Columns that share no row, in one colour: what may be moved at once (Curtis, Powell and Reid, 1974)."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def colours(items: int, item: Int[Tensor, " entries"], cell: Int[Tensor, " entries"], cells: int) -> Tensor:
    """A colour for each item, such that no two of one colour share a cell: greedy, the largest first.

    Args:
        items: How many.
        item: Sorted, shape (entries,).
        cell: What it touches.
        cells: How many there are.

    Returns:
        Shape (items,), integer; -1 for items that touch nothing.
    """
    counts = torch.bincount(item, minlength=items)
    starts = (counts.cumsum(0) - counts).tolist()
    sizes = counts.tolist()
    places = cell.numpy()
    taken: list[np.ndarray[Any, np.dtype[np.bool_]]] = []
    chosen = [-1] * items
    for each in torch.argsort(counts, descending=True, stable=True).tolist():
        if sizes[each] == 0:
            break
        own = places[starts[each] : starts[each] + sizes[each]]
        colour = next((place for place, full in enumerate(taken) if not full[own].any()), len(taken))
        if colour == len(taken):
            taken.append(np.zeros(cells, dtype=np.bool_))
        taken[colour][own] = True
        chosen[each] = colour
    return torch.tensor(chosen, dtype=torch.long)
