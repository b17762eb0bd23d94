"""Whose outputs are whose, found in 2 log2(d) evaluations where each output belongs to one parameter."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

UNCLEAR = 0.01
"""The share of the moved outputs that may seem to belong to more than one parameter."""
NEGLIGIBLE = 1e-4
"""Changes below this share of the largest count as none."""


def addresses(items: int) -> Bool[Tensor, "rows items"]:
    """Which items each probe moves: those with a 1 at a place of their binary number, then those with a 0 there."""
    places = max(1, (items - 1).bit_length())
    number = torch.arange(items)
    ones = torch.stack([(number >> place) & 1 for place in range(places)]).bool()
    return torch.cat([ones, ~ones])


def owners(change: Float[Tensor, "rows outputs"], items: int) -> Int[Tensor, " outputs"] | None:
    r"""The item that each output belongs to, read from what moved it; ``None`` where outputs belong to several.

    An output of one item moves with exactly one of the two probes of every binary place, and which of them it is
    spells the item's number. An output of two items moves with both at some place, for their numbers differ.

    Args:
        change: What became of the outputs at the probes of `addresses`.
        items: How many items there are.

    Returns:
        Shape (outputs,): the item's number, -1 for an output that nothing moves and for the few that are unclear.
    """
    size = change.abs()
    moved = size > NEGLIGIBLE * size.amax()
    ones, zeros = moved.chunk(2)
    clear = (ones ^ zeros).all(0)
    still = ~moved.any(0)
    number = (ones.long() << torch.arange(len(ones))[:, None]).sum(0)
    clear &= number < items
    unclear = int((~clear & ~still).sum())
    if not bool(clear.any()) or unclear > UNCLEAR * int((~still).sum()):
        return None
    return torch.where(clear, number, -1)
