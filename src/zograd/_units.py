"""The map between values in the user's units and a vector in units of each parameter's scale."""

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from zograd._checks import require
from zograd._leaves import LARGEST
from zograd._typing import Vector


@final
class Units:
    """Values x to a vector z and back, entry by entry, clipped and rounded; the equations are those of `Parameters`.

    Args:
        start: The values of x0, shape (d,), as all that follows.
        lower: The lower bounds, in the units of x0.
        upper: The upper bounds.
        least: What the dtypes can hold: it clips, and does not count as a bound.
        most: The same, above.
        log: Which entries have a log scale.
        unit: One unit, where it was given, else NaN.
        integer: Which entries are whole numbers.
        name: Names an entry, for errors.
        rounded: Rounds values to the dtypes of their leaves.

    Raises:
        ArgumentError: When the bounds leave nothing, or x0 is outside them.

    Attributes:
        initial: The vector of x0.
        lower, upper: The bounds of the vector.
        granularity: The width of one whole number or option in the vector, at x0 on a log scale; 0 for a real one.
        start: The values of x0.
        least, most: The bounds of the values.
        width: One unit of the vector, on a log scale as a logarithm.
        integer, log: Which entries are whole numbers, and which have a log scale; ``None`` where none is.
        bounded: Which entries have both bounds.
    """

    def __init__(
        self,
        start: Vector,
        lower: Vector,
        upper: Vector,
        least: Vector,
        most: Vector,
        log: Tensor,
        unit: Vector,
        integer: Tensor,
        *,
        name: Callable[[int], str],
        rounded: Callable[[Vector], Vector],
    ) -> None:
        self._name = name
        lower, upper, least, most, log, unit, integer = (
            each.to(start.device) for each in (lower, upper, least, most, log, unit, integer)
        )
        least = torch.where(integer & log, least.clamp(min=1.0), least)
        lower, upper = torch.where(integer, lower.ceil(), lower), torch.where(integer, upper.floor(), upper)
        self._refuse(lower > upper, "bounds", "leave a whole number within them", lower)
        lower = torch.where(lower.isfinite(), lower.maximum(least), lower)
        upper = torch.where(upper.isfinite(), upper.minimum(most), upper)
        self.start, self.least, self.most = start, lower.maximum(least), upper.minimum(most)
        self.integer = integer if bool(integer.any()) else None
        self.log = log if bool(log.any()) else None
        self.check("x0", start)
        hint = "Give a bound above zero, None, or a linear scale."
        self._refuse(log & (lower <= 0) & lower.isfinite(), "bounds", "be positive on a log scale", lower, hint)

        fixed = lower == upper
        half = 0.5 * integer
        both = lower.isfinite() & upper.isfinite()
        low, high = (_logged(side, log) for side in (lower - half, upper + half))
        # A hair wider than the bounds where rounding would fall short of them: clipping then returns them exactly.
        slack = 4 * torch.finfo(torch.float64).eps * (1.0 + low.abs() + high.abs())
        low, high = torch.where(both & log, low - slack, low), torch.where(both & log, high + slack, high)
        width = torch.where(both, high - low, torch.where(log, math.log(10.0), 1.0))
        width = torch.where(both & (low + width < high), width.nextafter(high), width)
        self.width = torch.where(fixed, 1.0, torch.where(unit.isnan(), width, unit))
        self._shift = torch.where(fixed, _logged(start, log), torch.where(both, low, 0.0))
        self._refuse(self.width.isinf(), "bounds", "be a finite distance apart", upper, "Pass None for no bound.")

        ends = (_logged(side, log) for side in (self.least - half, self.most + half))
        below, above = ((end - self._shift) / self.width for end in ends)
        unity = both & unit.isnan()
        self.lower = torch.where(fixed | unity, 0.0, below)
        self.upper = torch.where(fixed, 0.0, torch.where(unity, 1.0, above))
        self.bounded = both
        self._clips = bool((self.least.isfinite() | self.most.isfinite()).any())
        self._moves = bool((self.width != 1.0).any() or (self._shift != 0.0).any())
        step = (_logged(start + half, log) - _logged(start - half, log)) / self.width
        self.granularity = torch.where(integer & ~fixed, step, 0.0)

        self.initial = self.encoded(start)
        self._restores = False
        self._restores = not torch.equal(rounded(self.values(self.initial).cpu()), start.cpu())

    def encoded(self, numbers: Vector) -> Vector:
        """The vector of values in the user's units, within the bounds."""
        logged = numbers if self.log is None else _logged(numbers, self.log)
        return self.clip((logged - self._shift) / self.width)

    def clip(self, points: Tensor) -> Tensor:
        """The nearest points within the bounds, d last."""
        return points.clamp(self.lower.to(points), self.upper.to(points)) if self._clips else points

    def values(self, points: Tensor) -> Tensor:
        """The values that points stand for, in float64, clipped and rounded; never the same memory."""
        vector = points.to(self.start.device, torch.float64)
        values = torch.addcmul(self._shift, self.width, vector) if self._moves else vector
        if self.log is not None:
            values = torch.where(self.log, torch.where(self.log, values, 0.0).exp(), values)
        if self._restores:
            values = self._restored(vector, values)
        if self.integer is not None:
            finite = bool(values.isfinite().all())
            require(finite, "points", "be finite, for there are integers or choices among the parameters", points)
            values = torch.where(self.integer, values.round(), values)
        if self._clips:
            values = values.clamp(self.least, self.most)
        return values.clone() if values is points else values

    def _restored(self, vector: Tensor, values: Tensor) -> Tensor:
        """Give x0 back what rounding takes from it on the way there and back; derivatives stay as they are."""
        if vector.ndim == 1:
            try:
                return values - values.detach() + self.start if torch.equal(vector, self.initial) else values
            except RuntimeError:  # torch.vmap has no rule for this comparison, which costs a quarter of the other
                pass
        there = (vector == self.initial).all(-1, keepdim=True)
        if vector.ndim > 1 and not there.any():
            return values
        return torch.where(there, values - values.detach() + self.start, values)

    def check(self, argument: str, numbers: Vector) -> None:
        """Refuse values that are not finite, not whole, not positive or outside the bounds."""
        self._refuse(~numbers.isfinite(), argument, "be finite", numbers)
        if self.integer is not None:
            broken = self.integer & ((numbers != numbers.round()) | (numbers.abs() > LARGEST))
            self._refuse(broken, argument, "be a whole number", numbers, "It is listed as an integer.")
        if self.log is not None:
            self._refuse(self.log & (numbers <= 0), argument, "be positive on a log scale", numbers)
        outside = (numbers < self.least) | (numbers > self.most)
        if bool(outside.any()):
            entry = int(outside.byte().argmax())
            within = f"lie within its bounds [{float(self.least[entry]):.17g}, {float(self.most[entry]):.17g}]"
            self._refuse(outside, argument, within, numbers, "Move the value inside, or widen the bounds.")

    def _refuse(self, bad: Tensor, argument: str, must: str, numbers: Vector, hint: str = "") -> None:
        """Raise for the first bad entry, by name."""
        if bool(bad.any()):
            entry = int(bad.byte().argmax())
            require(False, argument, f"{must} at {self._name(entry)!r}", float(numbers[entry]), hint)


def _logged(numbers: Tensor, log: Tensor) -> Tensor:
    """The logarithm where the scale is logarithmic; -inf for what has none."""
    return torch.where(log, numbers.clamp(min=0.0).log(), numbers)
