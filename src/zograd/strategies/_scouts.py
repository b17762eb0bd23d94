"""How far to look, found on a few parameters before all of them are measured."""

from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SCOUTS = 16
"""Parameters that are looked at first: one of them is the share that may stay behind."""
FARTHEST = 8.0
"""Probes of a parameter that has shown no effect so far reach up to so many times farther."""
PAYS = 0.25
"""What shows nothing is moved farther for as long as this share of those moved last has shown something."""


@final
class Scouts:
    """The first measurement in portions: a few parameters ever farther, then all others as far as most of these needed.

    A switch that is moved by a tenth of its range mostly shows nothing, and a measurement that moves all switches so is
    wasted. Sixteen of them, the silent ones moved to the other side and twice as far each time, tell how far to go.
    Where all show something at once, nothing is spent: these sixteen have then been measured, as all others will be.

    Args:
        signs: The side to which each parameter is moved first, shape (k,).

    Attributes:
        portion: The parameters to measure next; empty once all are measured.
        first: Whether these are the few.
    """

    def __init__(self, signs: Float[Tensor, " k"]) -> None:
        self.signs = signs.clone()
        # A draw of its own: where all show something, the measurement is the one that it would be without scouts.
        order = torch.randperm(len(signs), generator=torch.Generator().manual_seed(len(signs)))
        self.portion: Int[Tensor, " some"] = order[:SCOUTS].sort().values
        self.first = True

    def told(self, seen: Bool[Tensor, " k"], farther: Float[Tensor, " k"]) -> None:
        """Choose the next portion, and set how far each parameter is moved from now on.

        Args:
            seen: Whether each parameter has shown an effect.
            farther: How many times the reach each is moved; changed in place.
        """
        unseen = self.portion[~seen[self.portion]]
        again = unseen[farther[unseen] < FARTHEST]
        farther[unseen] = (2 * farther[unseen]).clamp(max=FARTHEST)
        self.signs[unseen] *= -1
        if not self.first:
            paid = len(self.portion) - len(unseen) >= PAYS * len(self.portion)
            self.portion = again if paid else again[:0]
        elif len(again) > 1:
            self.portion = again
        else:
            known = farther[seen]
            # One that needs more than the others shall not make all go as far; where none shows anything, all do.
            most = float(torch.quantile(known, 1 - 1 / SCOUTS, interpolation="lower")) if len(known) else FARTHEST
            self.portion, self.first = (~seen).nonzero()[:, 0], False
            farther[self.portion] = farther[self.portion].clamp(min=most)

    def state_dict(self) -> dict[str, Any]:
        """The fields."""
        return {"signs": self.signs.clone(), "portion": self.portion, "first": self.first}

    @classmethod
    def of(cls, state: dict[str, Any]) -> "Scouts":
        """What `state_dict` gave, made again."""
        scouts = cls(state["signs"])
        scouts.portion, scouts.first = state["portion"], state["first"]
        return scouts
