"""Reads what a user says of the parameters (bounds, scale, integers, choices) and lays it over their leaves.

All four keywords share one form: a value for all parameters, or the structure of ``x0`` or of its leading part with
values in it, or one value for each entry in a flat sequence. Dicts may leave names out, and ``None`` says nothing.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from optree import PyTreeSpec
from torch import Tensor

from zograd._checks import require

Numbers: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]


@final
@dataclass(frozen=True, eq=False, slots=True)
class Said:
    """What was said of one leaf.

    Args:
        value: As the user wrote it.
        whole: True where it was said of the leaf's whole surroundings, not of this leaf.
    """

    value: Any
    whole: bool


def leaf_names(tree: PyTreeSpec, prefix: str = "") -> list[str]:
    """A readable name for each leaf, such as ``lens.radius`` or ``x[2]``."""
    if tree.is_leaf():
        return [prefix or "x"]
    names: list[str] = []
    for label, child in zip(_labels(tree), tree.children(), strict=True):
        dotted = f"{prefix}.{label}" if prefix else str(label)
        names += leaf_names(child, f"{prefix or 'x'}[{label}]" if isinstance(label, int) else dotted)
    return names


def spread(
    argument: str, said: Any, tree: PyTreeSpec, sizes: Sequence[int] | None, for_all: Callable[[Any], bool]
) -> list[Any]:
    """What ``said`` says of each leaf of ``tree``: a `Said`, or ``None`` for nothing.

    Args:
        argument: The keyword's name.
        said: As the user wrote it.
        tree: The structure of ``x0``.
        sizes: The number of entries of each leaf, or ``None`` where one flat sequence has no meaning.
        for_all: Whether a value, standing at a branch, holds for every leaf below it.

    Raises:
        ArgumentError: When a name is unknown or a sequence has the wrong length.
    """
    found: list[Any] = [None] * tree.num_leaves

    def lay(said: Any, node: PyTreeSpec, first: int, place: str) -> None:
        leaves = range(first, first + node.num_leaves)
        if said is None:
            return
        if node.is_leaf():
            found[first] = Said(said, whole=False)
        elif for_all(said):
            for leaf in leaves:
                found[leaf] = Said(said, whole=True)
        elif isinstance(said, Mapping):
            labels = _labels(node)
            for name in said:
                close = difflib.get_close_matches(str(name), [str(label) for label in labels], 1)
                hint = f"Did you mean {close[0]!r}?" if close else f"There are: {_listed(labels)}."
                require(name in labels, argument, f"name only what is in {place}", name, hint)
            start = first
            for label, child in zip(labels, node.children(), strict=True):
                lay(said.get(label), child, start, f"{place}[{label!r}]")
                start += child.num_leaves
        elif not _is_mapping(node) and _length(said) == node.num_children:
            start = first
            for index, child in enumerate(node.children()):
                lay(said[index], child, start, f"{place}[{index}]")
                start += child.num_leaves
        elif sizes is None:
            require(False, argument, f"have the structure of {place}, or of its leading part", said)
        else:
            entries = sum(sizes[leaf] for leaf in leaves)
            must = f"hold one value for all, the structure of {place}, or one value for each of its {entries} entries"
            require(_length(said) == entries, argument, must, said)
            start = 0
            for leaf in leaves:
                found[leaf] = Said(said[start : start + sizes[leaf]], whole=False)
                start += sizes[leaf]

    lay(said, tree, 0, "`x0`")
    return found


def read_bounds(said: Any, tree: PyTreeSpec, shapes: Sequence[tuple[int, ...]], names: Sequence[str]) -> list[Any]:
    """The bounds of each leaf: a pair (flat arrays, whether they were meant for this very leaf), or ``None``.

    Args:
        said: A pair, a sequence of pairs, an object with ``lb`` and ``ub``, or a structure of these.
        tree: The structure of ``x0``.
        shapes: The shape of each leaf.
        names: The name of each leaf.

    Raises:
        ArgumentError: When the form is unknown, a length is wrong, a bound is NaN or lower is above upper.
    """
    sizes = [math.prod(shape) for shape in shapes]
    said = _as_pair(said)
    if _is_pair(said) and not tree.is_leaf() and not _is_scalar_pair(said):
        lower, upper = _sides(said)
        said = np.stack(np.broadcast_arrays(lower.reshape(-1), upper.reshape(-1)), 1)
    spoken = spread("bounds", said, tree, sizes, lambda value: _is_scalar_pair(_as_pair(value)))
    read: list[Any] = []
    for one, shape, name in zip(spoken, shapes, names, strict=True):
        if one is None:
            read.append(None)
            continue
        lower, upper = _pairs(one.value, shape, name)
        bad = np.isnan(lower) | np.isnan(upper) | (lower > upper) | (lower == math.inf) | (upper == -math.inf)
        if bad.any():
            first = int(bad.argmax())
            require(
                False,
                "bounds",
                f"have lower <= upper at {name!r}, with None for a side without a bound",
                (float(lower[first]), float(upper[first])),
            )
        read.append((lower, upper, one.whole))
    return read


def read_scale(
    said: Any, tree: PyTreeSpec, shapes: Sequence[tuple[int, ...]], names: Sequence[str]
) -> list[tuple[Flags, Numbers]]:
    """The scale of each leaf: which entries are logarithmic, and how far one unit goes (NaN where nothing is said).

    Args:
        said: ``"linear"``, ``"log"``, a positive number, or a structure of these.
        tree: The structure of ``x0``.
        shapes: The shape of each leaf.
        names: The name of each leaf.

    Raises:
        ArgumentError: When a scale is none of these.
    """
    sizes = [math.prod(shape) for shape in shapes]
    spoken = spread("scale", said, tree, sizes, lambda value: isinstance(value, str) or _is_number(value))
    read = []
    for one, shape, name in zip(spoken, shapes, names, strict=True):
        size = math.prod(shape)
        log, unit = np.zeros(size, bool), np.full(size, math.nan)
        value = None if one is None else one.value
        must = f'be "linear", "log", a positive number or one of these for each entry, at {name!r}'
        if isinstance(value, list | tuple):
            require(len(value) == size, "scale", must, value)
            for entry, each in enumerate(value):
                require(each is None or each in ("linear", "log") or _is_number(each), "scale", must, each)
                log[entry] = each == "log"
                if _is_number(each):
                    unit[entry] = float(each)
        elif isinstance(value, str):
            require(value in ("linear", "log"), "scale", must, value)
            log[:] = value == "log"
        elif value is not None:
            unit[:] = _fill("scale", value, shape, must)
        require(not (np.isinf(unit) | (unit <= 0)).any(), "scale", must, value)
        read.append((log, unit))
    return read


def read_integers(said: Any, tree: PyTreeSpec, shapes: Sequence[tuple[int, ...]], names: Sequence[str]) -> list[Flags]:
    """Which entries of each leaf are whole numbers.

    Args:
        said: True or False, the names of parameters (or of groups of them), or a structure of true and false.
        tree: The structure of ``x0``.
        shapes: The shape of each leaf.
        names: The name of each leaf.

    Raises:
        ArgumentError: When a name is unknown or a value is neither true nor false.
    """
    sizes = [math.prod(shape) for shape in shapes]
    said = (said,) if isinstance(said, str) else said
    if isinstance(said, list | tuple | set | frozenset) and said and all(isinstance(name, str) for name in said):
        for name in said:
            known = any(_within(leaf, name) for leaf in names)
            require(known, "integers", f"name only parameters, which are {_listed(names)}", name)
        return [np.full(s, any(_within(leaf, name) for name in said)) for leaf, s in zip(names, sizes, strict=True)]
    read = []
    for one, shape, name in zip(
        spread("integers", said, tree, sizes, lambda value: isinstance(value, bool)), shapes, names, strict=True
    ):
        must = f"be names, true or false, or one true or false for each entry, at {name!r}"
        value = np.asarray(False if one is None else one.value)
        require(value.dtype == np.bool_, "integers", must, value)
        read.append(_fill("integers", value, shape, must).astype(bool))
    return read


def read_choices(said: Any, tree: PyTreeSpec, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """The options of each leaf: empty where it is a number.

    Args:
        said: A structure with a sequence of options for each parameter that is a choice.
        tree: The structure of ``x0``.
        names: The name of each leaf.

    Raises:
        ArgumentError: When there is no option, or two are alike, or one is not hashable.
    """
    read: list[tuple[Any, ...]] = []
    for one, name in zip(spread("choices", said, tree, None, lambda value: False), names, strict=True):
        options = () if one is None else one.value
        must = f"hold a sequence of different, hashable options at {name!r}"
        require(isinstance(options, Sequence) and not isinstance(options, str), "choices", must, options)
        require(one is None or len(options) > 0, "choices", must, options)
        hint = "Give the options as strings, and look up in the black box what they stand for."
        for option in options:
            require(_is_hashable(option), "choices", must, option, hint)
        require(len({(type(option), option) for option in options}) == len(options), "choices", must, options)
        read.append(tuple(options))
    return read


def _labels(node: PyTreeSpec) -> list[Any]:
    """What the children of a node are called: keys, fields or positions."""
    return list(getattr(node.type, "_fields", None) or node.entries())


def _is_mapping(node: PyTreeSpec) -> bool:
    return isinstance(node.type, type) and issubclass(node.type, Mapping)


def _within(leaf: str, name: str) -> bool:
    """Whether a leaf is ``name``, or below it."""
    return leaf == name or leaf.startswith((f"{name}.", f"{name}["))


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(repr(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")


def _length(value: Any) -> int:
    """The length of a sequence or array; -1 for anything else."""
    if isinstance(value, list | tuple):
        return len(value)
    return len(value) if isinstance(value, np.ndarray | Tensor) and value.ndim else -1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | Tensor)


def _as_pair(value: Any) -> Any:
    """SciPy's ``Bounds``, known by its ``lb`` and ``ub``, as a pair."""
    if not (hasattr(value, "lb") and hasattr(value, "ub")):
        return value
    lower, upper = np.asarray(value.lb), np.asarray(value.ub)
    return (lower.item(), upper.item()) if lower.size == upper.size == 1 else (lower, upper)


def _is_pair(value: Any) -> bool:
    """Whether a value is (lower, upper), and not a sequence of two pairs."""
    if _is_array(value):
        return tuple(value.shape) == (2,)
    sides = isinstance(value, list | tuple) and len(value) == 2
    return sides and all(side is None or _is_number(side) or _is_array(side) for side in value)


def _is_scalar_pair(value: Any) -> bool:
    return _is_pair(value) and not any(_is_array(side) and side.ndim for side in value)


def _sides(pair: Any) -> tuple[Numbers, Numbers]:
    """A pair as two arrays, infinite where there is no bound."""
    lower, upper = pair
    return (
        np.asarray(-math.inf if lower is None else lower, np.float64),
        np.asarray(math.inf if upper is None else upper, np.float64),
    )


def _pairs(value: Any, shape: tuple[int, ...], name: str) -> tuple[Numbers, Numbers]:
    """The bounds of one leaf, as flat arrays."""
    size = math.prod(shape)
    must = f"be a pair (lower, upper), or {size} of them, at {name!r}"
    value = _as_pair(value)
    if _is_pair(value) and not (_is_array(value) and shape == (1, 2)):
        lower, upper = _sides(value)
        return _fill("bounds", lower, shape, must), _fill("bounds", upper, shape, must)
    require(_length(value) == size, "bounds", must, value)
    if _is_array(value):
        pairs = np.asarray(value, np.float64)
        require(pairs.shape == (size, 2), "bounds", must, value)
        return pairs[:, 0].copy(), pairs[:, 1].copy()
    lower, upper = np.full(size, -math.inf), np.full(size, math.inf)
    for entry, pair in enumerate(value):
        if pair is not None:
            require(_is_scalar_pair(pair), "bounds", must, pair)
            lower[entry], upper[entry] = _sides(pair)
    return lower, upper


def _fill(argument: str, value: Any, shape: tuple[int, ...], must: str) -> Numbers:
    """A number or an array, one for each entry of a leaf, flat."""
    numeric = _is_number(value) or (_is_array(value) and getattr(np.asarray(value).dtype, "kind", "") in "fiub")
    require(numeric, argument, must, value)
    array = np.asarray(value, np.float64)
    size = math.prod(shape)
    if array.shape == (size,):
        return array.copy()
    require(array.ndim == 0 or array.shape == shape, argument, must, value)
    return np.broadcast_to(array, shape).reshape(-1).copy()
