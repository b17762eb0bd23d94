"""The steps of a run in memory, whose best points do not fill it."""

import math
from dataclasses import replace
from typing import final

import torch

from zograd._typing import Vector
from zograd.strategies import Step

MOST_BYTES = 2**26
"""Best points kept, at most: 64 MiB, and the newest."""


@final
class Steps:
    """Collects steps; of best points beyond `MOST_BYTES` it keeps the newest, and of the rest every second or fourth.

    The best points are counted in the order in which they were found, and those whose number is no multiple of a
    stride are forgotten: their steps hold NaN in their place, as those of a durable run do. The stride doubles whenever
    what is kept exceeds the limit. Steps that improve nothing share the tensor of the step before.

    Cost: a step is rewritten once at most.

    Attributes:
        steps: All of them, in order; the same list throughout.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._stride = 1
        self._count = 0
        self._newest: Vector | None = None
        self._unknown = torch.zeros(0)
        self._kept: list[tuple[int, int]] = []  # number of the point, place of the first step that has it

    def append(self, step: Step) -> None:
        """One more."""
        if step.best_point is not self._newest:
            if self._kept and self._kept[-1][0] % self._stride:
                self._forget(self._kept.pop()[1], len(self.steps))
            self._newest = step.best_point
            self._kept.append((self._count, len(self.steps)))
            self._count += 1
        self.steps.append(step)
        while len(self._kept) > 2 and len(self._kept) * step.best_point.nbytes > MOST_BYTES:
            self._thin()

    def _thin(self) -> None:
        self._stride *= 2
        kept, ends = [], [place for _, place in self._kept[1:]]
        for (number, place), end in zip(self._kept[:-1], ends, strict=True):
            if number % self._stride:
                self._forget(place, end)
            else:
                kept.append((number, place))
        self._kept = [*kept, self._kept[-1]]

    def _forget(self, start: int, end: int) -> None:
        point = self.steps[start].best_point
        if self._unknown.shape != point.shape:
            self._unknown = torch.full((1,), math.nan, dtype=point.dtype).expand(point.shape)
        for place in range(start, end):
            self.steps[place] = replace(self.steps[place], best_point=self._unknown)
