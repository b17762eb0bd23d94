"""Parameters: any structure of numbers, to and from one flat vector in units of each parameter's scale."""

import bisect
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, final

import numpy as np
import optree
import torch
from torch import Tensor, nn

from zograd._bounds import leaf_names, read_bounds, read_choices, read_integers, read_scale
from zograd._checks import require
from zograd._errors import ArgumentError
from zograd._leaves import LARGEST, leaf_of, shape_of
from zograd._typing import Points, Vector


@final
class Parameters:
    r"""Any structure of numbers, to and from one flat vector whose entries are in units of each parameter's scale.

    A step of 0.1 in the vector then means the same for radians and for metres. With x a parameter and z its entry

    .. math:: x = l + (u - l) z \qquad x = l (u / l)^z \qquad x = s z \qquad x = 10^z

    for a parameter with two bounds (l, u), which is z in [0, 1]; the same on a log scale; one without two bounds, with
    s its scale (1 unless it is given); the same on a log scale, where one unit is one decade. A scale that is given as
    a number always wins: one unit is that far, bounds or not.

    **What goes in comes out**: the same containers, leaf types, dtypes, shapes and devices. Tensors come out detached
    from any ``nn.Parameter``; an ``nn.Module`` comes out as a dict of its trained parameters by name, which
    ``torch.func.functional_call`` takes. The ``dict`` keeps its order. ``None`` is no parameter, and is handed through.
    A Python int that is not among ``integers`` is a starting value like any other and comes out as a float.

    **Bounds hold**: `decode` clips, so that the black box never sees a point outside, and what is optimised is
    f(clip(z)). Bounds are first rounded to the dtype of their leaf. Equal bounds fix a parameter: it has no effect.

    **Integers and choices** are rounded to the nearest, with all of them equally wide: the bounds of the vector
    lie half a unit outside the first and the last. The landscape is then a staircase, on which a step below half of
    `granularity` may find no slope.

    Decoding costs a few vector operations of O(d); it is differentiable by torch where parameters are real tensors.

    Args:
        x0: The starting values: a number, tensor, array, any nesting of dicts, lists and tuples of these, or an
            ``nn.Module``.
        bounds: In the units of x0: a pair (lower, upper) with ``None`` for no bound, a pair of arrays, a sequence of d
            pairs, a ``scipy.optimize.Bounds``, or a structure like x0 of these.
        scale: ``"linear"``, ``"log"``, a positive number (one unit of the vector, in the units of x0), or a structure
            like x0 of these. A log scale needs positive values and positive bounds.
        integers: Names of whole-number parameters, true for all, or a structure like x0 of true and false.
        choices: For parameters that are one of some options: a structure like x0 of sequences of options.
        names: A name for each of the d entries, in place of those made from the structure.

    Each structure may be only the leading part of that of x0, and a dict may leave names out.

    Raises:
        ArgumentError: When a leaf is no finite number, x0 is outside the bounds, or a keyword does not fit x0.

    Example:
        >>> import zograd as zo
        >>> parameters = zo.Parameters(
        ...     {"width": 2e-5, "angle": 0.5, "count": 3, "texture": "wood"},
        ...     bounds={"width": (1e-6, 4e-4), "count": (1, 8)},
        ...     scale={"width": "log", "angle": 0.1},
        ...     integers=("count",),
        ...     choices={"texture": ("wood", "stone")},
        ... )
        >>> parameters
        Parameters(dimension=4)
          name     kind     value   bounds           scale   one unit
          width    real     2e-05   [1e-06, 0.0004]  log     x 400
          angle    real     0.5     -                linear  0.1
          count    integer  3       [1, 8]           linear  8
          texture  choice   'wood'  wood | stone     linear  2
        >>> parameters.decode(parameters.initial)
        {'width': 2e-05, 'angle': 0.5, 'count': 3, 'texture': 'wood'}
    """

    dimension: int
    """The number of entries of the vector, d."""
    initial: Vector
    """The starting values as a vector, shape (d,), float64."""
    lower: Vector
    """The least value of each entry, shape (d,): -inf where there is none."""
    upper: Vector
    """The greatest value of each entry, shape (d,): inf where there is none."""
    granularity: Vector
    """The width of one whole number or option, shape (d,), at x0 on a log scale; 0 for a real or fixed parameter."""
    device: torch.device
    """Where the vector lives: with the tensors of x0 if they are all in one place, else on the CPU."""

    def __init__(
        self,
        x0: Any,
        *,
        bounds: Any = None,
        scale: Any = None,
        integers: Any = None,
        choices: Any = None,
        names: Sequence[str] | None = None,
    ) -> None:
        # In insertion order, which optree offers by namespace: the order in which the user named the parameters.
        with optree.dict_insertion_ordered(True, namespace="zograd"):
            values, self._tree = optree.tree_flatten(_opened(x0), none_is_leaf=True, namespace="zograd")
        places = leaf_names(self._tree)
        options = read_choices(choices, self._tree, places)
        shapes = [() if chosen else shape_of(value) for value, chosen in zip(values, options, strict=True)]
        whole = read_integers(integers, self._tree, shapes, places)
        self._leaves = []
        start = single = 0
        for value, name, chosen, flags in zip(values, places, options, whole, strict=True):
            leaf = leaf_of(value, name, start, single, chosen, bool(flags.all()))
            self._leaves.append(leaf)
            start += leaf.size
            single += leaf.is_single
        self.dimension, self._shape = start, torch.Size([start])
        require(start > 0, "x0", "hold at least one number", x0, "There is nothing to optimise.")
        self._given_names = None if names is None else tuple(names)
        if self._given_names is not None:
            right = len(self._given_names) == len(set(self._given_names)) == start
            right = right and all(isinstance(name, str) for name in self._given_names)
            require(right, "names", f"hold {start} different strings, one for each entry", names)
        self._starts = [leaf.start for leaf in self._leaves]
        devices = {leaf.device for leaf in self._leaves if leaf.device is not None}
        # MPS has no float64.
        self.device = devices.pop() if len(devices) == 1 and "mps" not in str(devices) else torch.device("cpu")
        singles = [leaf.start for leaf in self._leaves if leaf.is_single]
        self._has_singles = bool(singles)
        self._singles = None if single == start else torch.tensor(singles, dtype=torch.long, device=self.device)

        pairs = read_bounds(bounds, self._tree, shapes, places)
        scales = read_scale(scale, self._tree, shapes, places)
        log = torch.from_numpy(np.concatenate([log for log, _ in scales]))
        unit = torch.from_numpy(np.concatenate([unit for _, unit in scales]))
        integer = torch.from_numpy(np.concatenate(whole))
        lower, upper = torch.full((start,), -math.inf).double(), torch.full((start,), math.inf).double()
        least, most = lower.clone(), upper.clone()
        for leaf, pair in zip(self._leaves, pairs, strict=True):
            place = slice(leaf.start, leaf.start + leaf.size)
            if leaf.form == "choice":
                free = pair is None or pair[2] or bool(np.isinf(pair[:2]).all())
                require(free, "bounds", f"say nothing of {leaf.name!r}, which is a choice", bounds)
                lower[place], upper[place], integer[place] = 0.0, len(leaf.options) - 1.0, True
                log[place], unit[place] = False, math.nan
            elif pair is not None:
                lower[place], upper[place] = (leaf.rounded(torch.from_numpy(side)) for side in pair[:2])
            if leaf.whole is not None:
                least[place], most[place] = leaf.whole
        self._lay_out(self._read("x0", values), lower, upper, least, most, log, unit, integer)

    def encode(self, structure: Any) -> Vector:
        """The vector of a structure like x0: shape (d,).

        Args:
            structure: Values in the structure of x0, or a module where x0 was one.

        Raises:
            ArgumentError: When it is not like x0, or holds what is no finite number, or is outside the bounds.
        """
        try:
            values = self._tree.flatten_up_to(_opened(structure))
        except (ValueError, TypeError) as error:
            raise ArgumentError(
                f"`structure` must have the structure of x0: {str(error).splitlines()[0]}",
                argument="structure",
                found=structure,
            ) from error
        numbers = self._read("structure", values)
        self._check("structure", numbers)
        return self._encoded(numbers)

    def decode(self, vector: Vector) -> Any:
        """The structure that a vector stands for, clipped into the bounds.

        Args:
            vector: Shape (d,).

        Raises:
            ArgumentError: When its shape is another, or it is not finite and there are integers or choices.
        """
        if vector.shape != self._shape:  # worded only when it fails: decoding is what every evaluation pays
            require(False, "vector", f"have shape ({self.dimension},)", vector)
        values = self._values(vector)
        singles: list[float] = []
        if self._has_singles:
            singles = (values if self._singles is None else values[self._singles]).tolist()
        return self._tree.unflatten([leaf.one(values, singles) for leaf in self._leaves])

    def decode_each(self, points: Points) -> Iterator[Any]:
        """`decode` of each of n vectors, one after the other, at a fraction of the cost.

        Args:
            points: Shape (n, d).

        Raises:
            ArgumentError: When the shape is another, or a row is not finite and there are integers or choices.
        """
        self._must_fit(points)
        values = self._values(points)
        singles: list[list[float]] = [[]] * len(points)
        if self._has_singles:
            singles = (values if self._singles is None else values[:, self._singles]).tolist()
        for row, numbers in zip(values, singles, strict=True):
            own = row if self._singles is None else row.clone()  # the program may keep or change what it is given
            yield self._tree.unflatten([leaf.one(own, numbers) for leaf in self._leaves])

    def decode_batch(self, points: Points) -> Any:
        """The structure that n vectors stand for: each leaf has a leading n.

        A Python float becomes a float64 tensor of shape (n,), an int an int64 tensor, a choice a list of n options; a
        tensor or array keeps its kind and dtype.

        Args:
            points: Shape (n, d).

        Raises:
            ArgumentError: When the shape is another, or a row is not finite and there are integers or choices.
        """
        self._must_fit(points)
        values = self._values(points)
        return self._tree.unflatten([leaf.many(values) for leaf in self._leaves])

    def clip(self, points: Tensor) -> Tensor:
        """The nearest points within the bounds.

        Args:
            points: Shape (d,) or (n, d), or any with d last.
        """
        if points.shape[-1:] != self._shape:
            require(False, "points", f"have {self.dimension} entries a row", points)
        return points.clamp(self.lower.to(points), self.upper.to(points)) if self._clips else points

    @property
    def bounded(self) -> Tensor:
        """Which entries have both bounds: bool, shape (d,)."""
        return self._bounded

    @property
    def fixed(self) -> Tensor:
        """Which entries have equal bounds, so that they have no effect: bool, shape (d,)."""
        return self.lower == self.upper

    @property
    def integer(self) -> Tensor:
        """Which entries are whole numbers or choices: bool, shape (d,)."""
        return self._integer if self._integer is not None else torch.zeros_like(self.fixed)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """One readable name for each entry, such as ``lens.radius[3]``; made when first asked for."""
        return self._given_names or tuple(self.name(entry) for entry in range(self.dimension))

    def name(self, entry: int) -> str:
        """The name of one entry, without making those of the others."""
        if self._given_names is not None:
            return self._given_names[entry]
        leaf = self._leaves[bisect.bisect_right(self._starts, entry) - 1]
        if not leaf.shape:
            return leaf.name
        return f"{leaf.name}[{','.join(map(str, np.unravel_index(entry - leaf.start, leaf.shape)))}]"

    def __len__(self) -> int:
        return self.dimension

    def __repr__(self) -> str:
        shown = list(range(self.dimension))
        if self.dimension > 12:
            shown = [*range(8), *range(self.dimension - 2, self.dimension)]
        rows = [("name", "kind", "value", "bounds", "scale", "one unit"), *(self._row(entry) for entry in shown)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        if len(shown) < self.dimension:
            lines.insert(9, f"... {self.dimension - len(shown):,} more")
        return f"Parameters(dimension={self.dimension})\n" + "\n".join(f"  {line}" for line in lines)

    def _row(self, entry: int) -> tuple[str, ...]:
        leaf = self._leaves[bisect.bisect_right(self._starts, entry) - 1]
        value, lower, upper = (float(vector[entry]) for vector in (self._start, self._least, self._most))
        kind, shown = "integer" if self.integer[entry] else "real", f"{value:.6g}"
        nowhere = LARGEST if kind == "integer" else math.inf
        bounds = f"[{lower:.6g}, {upper:.6g}]" if max(lower, -upper) > -nowhere else "-"
        if leaf.form == "choice":
            kind, shown, bounds = "choice", repr(leaf.options[int(value)]), " | ".join(map(str, leaf.options))
        if self.fixed[entry]:
            return self.name(entry), "fixed", shown, bounds, "-", "-"
        width = float(self._width[entry])
        if self._log is not None and self._log[entry]:
            return self.name(entry), kind, shown, bounds, "log", f"x {math.exp(width):.6g}"
        return self.name(entry), kind, shown, bounds, "linear", f"{width:.6g}"

    def _must_fit(self, points: Points) -> None:
        """Refuse points of another length; worded only when it fails."""
        if points.shape[1:] != self._shape:
            require(False, "points", f"have shape (n, {self.dimension})", points)

    def _read(self, argument: str, values: Sequence[Any]) -> Vector:
        """The numbers of all leaves in one float64 vector."""
        pairs = zip(self._leaves, values, strict=True)
        return torch.cat([leaf.read(argument, value).to(self.device) for leaf, value in pairs])

    def _lay_out(
        self,
        start: Vector,
        lower: Vector,
        upper: Vector,
        least: Vector,
        most: Vector,
        log: Tensor,
        unit: Vector,
        integer: Tensor,
    ) -> None:
        """Find the map between values and vector.

        Args:
            start: The values of x0.
            lower: The lower bounds, in the units of x0.
            upper: The upper bounds.
            least: What the dtypes can hold: it clips, and does not count as a bound.
            most: The same, above.
            log: Which entries have a log scale.
            unit: One unit, where it was given, else NaN.
            integer: Which entries are whole numbers.
        """
        lower, upper, least, most, log, unit, integer = (
            each.to(self.device) for each in (lower, upper, least, most, log, unit, integer)
        )
        least = torch.where(integer & log, least.clamp(min=1.0), least)
        lower, upper = torch.where(integer, lower.ceil(), lower), torch.where(integer, upper.floor(), upper)
        self._refuse(lower > upper, "bounds", "leave a whole number within them", lower)
        lower = torch.where(lower.isfinite(), lower.maximum(least), lower)
        upper = torch.where(upper.isfinite(), upper.minimum(most), upper)
        self._start, self._least, self._most = start, lower.maximum(least), upper.minimum(most)
        self._integer = integer if bool(integer.any()) else None
        self._log = log if bool(log.any()) else None
        self._check("x0", start)
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
        self._width = torch.where(fixed, 1.0, torch.where(unit.isnan(), width, unit))
        self._shift = torch.where(fixed, _logged(start, log), torch.where(both, low, 0.0))
        self._refuse(self._width.isinf(), "bounds", "be a finite distance apart", upper, "Pass None for no bound.")

        ends = (_logged(side, log) for side in (self._least - half, self._most + half))
        below, above = ((end - self._shift) / self._width for end in ends)
        unity = both & unit.isnan()
        self.lower = torch.where(fixed | unity, 0.0, below)
        self.upper = torch.where(fixed, 0.0, torch.where(unity, 1.0, above))
        self._bounded = both
        self._clips = bool((self._least.isfinite() | self._most.isfinite()).any())
        self._moves = bool((self._width != 1.0).any() or (self._shift != 0.0).any())
        step = (_logged(start + half, log) - _logged(start - half, log)) / self._width
        self.granularity = torch.where(integer & ~fixed, step, 0.0)

        self.initial = self._encoded(start)
        self._restores = False
        there, back = start.cpu(), self._values(self.initial).cpu()
        places = (slice(leaf.start, leaf.start + leaf.size) for leaf in self._leaves)
        rounded = [leaf.rounded(back[place]) for leaf, place in zip(self._leaves, places, strict=True)]
        self._restores = not torch.equal(torch.cat(rounded), there)

    def _encoded(self, numbers: Vector) -> Vector:
        logged = numbers if self._log is None else _logged(numbers, self._log)
        return self.clip((logged - self._shift) / self._width)

    def _values(self, points: Tensor) -> Tensor:
        """The values that points stand for, in float64, clipped and rounded; never the same memory."""
        vector = points.to(self.device, torch.float64)
        values = torch.addcmul(self._shift, self._width, vector) if self._moves else vector
        if self._log is not None:
            values = torch.where(self._log, torch.where(self._log, values, 0.0).exp(), values)
        if self._restores:
            values = self._restored(vector, values)
        if self._integer is not None:
            finite = bool(values.isfinite().all())
            require(finite, "points", "be finite, for there are integers or choices among the parameters", points)
            values = torch.where(self._integer, values.round(), values)
        if self._clips:
            values = values.clamp(self._least, self._most)
        return values.clone() if values is points else values

    def _restored(self, vector: Tensor, values: Tensor) -> Tensor:
        """Give x0 back what rounding takes from it on the way there and back; derivatives stay as they are."""
        if vector.ndim == 1:
            try:
                return values - values.detach() + self._start if torch.equal(vector, self.initial) else values
            except RuntimeError:  # torch.vmap has no rule for this comparison, which costs a quarter of the other
                pass
        there = (vector == self.initial).all(-1, keepdim=True)
        if vector.ndim > 1 and not there.any():
            return values
        return torch.where(there, values - values.detach() + self._start, values)

    def _check(self, argument: str, numbers: Vector) -> None:
        """Refuse values that are not finite, not whole, not positive or outside the bounds."""
        self._refuse(~numbers.isfinite(), argument, "be finite", numbers)
        if self._integer is not None:
            broken = self._integer & ((numbers != numbers.round()) | (numbers.abs() > LARGEST))
            self._refuse(broken, argument, "be a whole number", numbers, "It is listed as an integer.")
        if self._log is not None:
            self._refuse(self._log & (numbers <= 0), argument, "be positive on a log scale", numbers)
        outside = (numbers < self._least) | (numbers > self._most)
        if bool(outside.any()):
            entry = int(outside.byte().argmax())
            within = f"lie within its bounds [{float(self._least[entry]):.17g}, {float(self._most[entry]):.17g}]"
            self._refuse(outside, argument, within, numbers, "Move the value inside, or widen the bounds.")

    def _refuse(self, bad: Tensor, argument: str, must: str, numbers: Vector, hint: str = "") -> None:
        """Raise for the first bad entry, by name."""
        if bool(bad.any()):
            entry = int(bad.byte().argmax())
            require(False, argument, f"{must} at {self.name(entry)!r}", float(numbers[entry]), hint)


def _opened(structure: Any) -> Any:
    """A module's trained parameters by name; anything else as it is."""
    if not isinstance(structure, nn.Module):
        return structure
    return {name: weight.detach() for name, weight in structure.named_parameters() if weight.requires_grad}


def _logged(numbers: Tensor, log: Tensor) -> Tensor:
    """The logarithm where the scale is logarithmic; -inf for what has none."""
    return torch.where(log, numbers.clamp(min=0.0).log(), numbers)
