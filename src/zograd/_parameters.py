"""Parameters: any structure of numbers, to and from one flat vector in units of each parameter's scale."""

import bisect
import copy
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
from zograd._units import Units


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
        self._units = units = Units(
            self._read("x0", values), lower, upper, least, most, log, unit, integer,
            name=self.name, rounded=self._rounded,
        )  # fmt: skip
        self.lower, self.upper = units.lower, units.upper
        self.initial, self.granularity = units.initial, units.granularity

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
        self._units.check("structure", numbers)
        return self._units.encoded(numbers)

    def decode(self, vector: Vector) -> Any:
        """The structure that a vector stands for, clipped into the bounds.

        Args:
            vector: Shape (d,).

        Raises:
            ArgumentError: When its shape is another, or it is not finite and there are integers or choices.
        """
        if vector.shape != self._shape:  # worded only when it fails: decoding is what every evaluation pays
            require(False, "vector", f"have shape ({self.dimension},)", vector)
        values = self._units.values(vector)
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
        values = self._units.values(points)
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
        values = self._units.values(points)
        return self._tree.unflatten([leaf.many(values) for leaf in self._leaves])

    def clip(self, points: Tensor) -> Tensor:
        """The nearest points within the bounds.

        Args:
            points: Shape (d,) or (n, d), or any with d last.
        """
        if points.shape[-1:] != self._shape:
            require(False, "points", f"have {self.dimension} entries a row", points)
        return self._units.clip(points)

    def started_at(self, point: Vector) -> "Parameters":
        """The same parameters with ``point``, shape (d,), as the start."""
        moved = copy.copy(self)
        moved.initial = self.clip(point).clone()
        return moved

    @property
    def bounded(self) -> Tensor:
        """Which entries have both bounds: bool, shape (d,)."""
        return self._units.bounded

    @property
    def fixed(self) -> Tensor:
        """Which entries have equal bounds, so that they have no effect: bool, shape (d,)."""
        return self.lower == self.upper

    @property
    def integer(self) -> Tensor:
        """Which entries are whole numbers or choices: bool, shape (d,)."""
        integer = self._units.integer
        return integer if integer is not None else torch.zeros_like(self.fixed)

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
        leaf, units = self._leaves[bisect.bisect_right(self._starts, entry) - 1], self._units
        value, lower, upper = (float(vector[entry]) for vector in (units.start, units.least, units.most))
        kind, shown = "integer" if self.integer[entry] else "real", f"{value:.6g}"
        nowhere = LARGEST if kind == "integer" else math.inf
        bounds = f"[{lower:.6g}, {upper:.6g}]" if max(lower, -upper) > -nowhere else "-"
        if leaf.form == "choice":
            kind, shown, bounds = "choice", repr(leaf.options[int(value)]), " | ".join(map(str, leaf.options))
        if self.fixed[entry]:
            return self.name(entry), "fixed", shown, bounds, "-", "-"
        width = float(units.width[entry])
        if units.log is not None and units.log[entry]:
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

    def _rounded(self, values: Vector) -> Vector:
        """Values as the dtypes of their leaves hold them."""
        return torch.cat([leaf.rounded(values[leaf.start : leaf.start + leaf.size]) for leaf in self._leaves])


def _opened(structure: Any) -> Any:
    """A module's trained parameters by name; anything else as it is."""
    if not isinstance(structure, nn.Module):
        return structure
    return {name: weight.detach() for name, weight in structure.named_parameters() if weight.requires_grad}
