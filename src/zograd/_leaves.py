"""One leaf of a structure of parameters: what was read, and what it must become again."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor

from zograd._checks import require

LARGEST = 2.0**53 - 1
"""The largest whole number that float64, the vector's dtype, tells from its neighbours."""

Form = Literal["none", "choice", "integer", "real", "scalar", "array", "tensor"]


@final
@dataclass(frozen=True, eq=False, slots=True)
class Leaf:
    """One leaf: its place in the flat vector, and what it must become again.

    Args:
        name: How the user would write it.
        form: ``"none"``, ``"choice"``, a Python ``"integer"`` or ``"real"``, a NumPy ``"scalar"`` or ``"array"``, or a
            ``"tensor"``.
        start: Its first entry in the vector.
        single: Its place among the leaves that are one number each.
        shape: The shape of an array or tensor.
        dtype: The dtype of a NumPy or torch leaf.
        device: Where a tensor lives.
        options: What a choice can be.
    """

    name: str
    form: Form
    start: int
    single: int = 0
    shape: tuple[int, ...] = ()
    dtype: Any = None
    device: torch.device | None = None
    options: tuple[Any, ...] = ()

    @property
    def size(self) -> int:
        """The number of its entries: none for a None, which is no parameter."""
        return math.prod(self.shape)

    @property
    def is_single(self) -> bool:
        """Whether it is one number outside any array or tensor."""
        return self.form in ("choice", "integer", "real", "scalar")

    @property
    def whole(self) -> tuple[float, float] | None:
        """The least and greatest value of an integer dtype, where float64 tells whole numbers apart; else None."""
        if isinstance(self.dtype, torch.dtype):
            if self.dtype.is_floating_point:
                return None
            limits: Any = torch.iinfo(self.dtype)
        elif self.dtype is None or self.dtype.kind == "f":
            return None
        else:
            limits = np.iinfo(self.dtype)
        return max(float(limits.min), -LARGEST), min(float(limits.max), LARGEST)

    def rounded(self, numbers: Tensor) -> Tensor:
        """Numbers as its floating dtype holds them, in float64."""
        if self.dtype is None or self.whole is not None:
            return numbers
        if isinstance(self.dtype, torch.dtype):
            return numbers.to(self.dtype).double()
        with np.errstate(over="ignore"):
            return torch.from_numpy(numbers.numpy().astype(self.dtype).astype(np.float64))

    def read(self, argument: str, value: Any) -> Tensor:
        """The numbers in a value that stands where this leaf stands: shape (size,), float64, on the value's device.

        Raises:
            ArgumentError: When it is no number, or its shape is another.
        """
        if self.form == "choice":
            keys = [(type(option), option) for option in self.options]
            known = any(type(value) is kind and value == option for kind, option in keys)
            require(known, argument, f"be one of {', '.join(map(repr, self.options))} at {self.name!r}", value)
            return torch.tensor([float(keys.index((type(value), value)))], dtype=torch.float64)
        if self.form == "none":
            require(value is None, argument, f"be None at {self.name!r}, as in x0", value)
            return torch.empty(0, dtype=torch.float64)
        must_be_number(argument, value, self.name)
        shape = tuple(getattr(value, "shape", ()))
        require(shape == self.shape, argument, f"have shape {self.shape} at {self.name!r}", value)
        if isinstance(value, Tensor):
            return value.detach().reshape(-1).double()
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            value = math.inf  # which is then refused, by name
        return torch.from_numpy(np.array(value, np.float64).reshape(-1))

    def one(self, values: Tensor, singles: Sequence[float]) -> Any:
        """What it becomes, from one vector of values of shape (d,) and the list of those that are single."""
        if self.form == "tensor" or self.form == "array":
            return self._shaped(values, self.shape)
        if self.form == "real":
            return singles[self.single]
        if self.form == "integer":
            return int(singles[self.single])
        if self.form == "choice":
            return self.options[int(singles[self.single])]
        return self.dtype.type(singles[self.single]) if self.form == "scalar" else None

    def many(self, values: Tensor) -> Any:
        """What it becomes, with a leading n, from values of shape (n, d): a list of options for a choice."""
        if self.form == "tensor" or self.form == "array" or self.form == "scalar":
            return self._shaped(values, (len(values), *self.shape))
        if self.form == "none":
            return None
        column = values[:, self.start].clone()
        if self.form == "choice":
            return [self.options[int(index)] for index in column.tolist()]
        return column.long() if self.form == "integer" else column

    def _shaped(self, values: Tensor, shape: tuple[int, ...]) -> Any:
        if values.shape[-1] != self.size:
            values = values.narrow(-1, self.start, self.size)
        if self.form == "tensor":
            if values.dtype != self.dtype or values.device != self.device:
                values = values.to(self.device, self.dtype)
            return values if values.shape == shape else values.reshape(shape)
        array = values.numpy(force=True)
        array = array if array.shape == shape else array.reshape(shape)
        return array if array.dtype == self.dtype else array.astype(self.dtype)


def must_be_number(argument: str, value: Any, name: str) -> None:
    """Raise unless a leaf is a real number, or an array or dense tensor of them.

    Raises:
        ArgumentError: When it is a bool, complex, a string, or anything else.
    """
    if isinstance(value, Tensor):
        good = value.layout == torch.strided and value.dtype != torch.bool and not value.is_complex()
        good = good and not value.is_quantized
    elif isinstance(value, np.ndarray | np.generic):
        good = value.dtype.kind in "fiu"
    else:
        good = isinstance(value, int | float) and not isinstance(value, bool)
    hint = (
        f"For one of several options say choices={{{name!r}: (...)}}."
        if isinstance(value, bool | str)
        else "Parameters are floats, ints, arrays and dense tensors, in dicts, lists and tuples, or one nn.Module."
    )
    require(good, argument, f"hold real numbers at {name!r}", value, hint)


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of a leaf; none of its entries are parameters where it is None."""
    return (0,) if value is None else tuple(getattr(value, "shape", ()))


def leaf_of(value: Any, name: str, start: int, single: int, options: tuple[Any, ...], whole: bool) -> Leaf:
    """The leaf that a value of x0 is.

    Args:
        value: The value.
        name: Its name.
        start: Its first entry in the vector.
        single: How many single leaves come before it.
        options: What it can be, where it is a choice.
        whole: Whether all its entries are said to be whole numbers.

    Raises:
        ArgumentError: When it is no number, or has an integer dtype and is not said to be whole.
    """
    if options:
        return Leaf(name, "choice", start, single, options=options)
    if value is None:
        return Leaf(name, "none", start, single, shape=(0,))
    must_be_number("x0", value, name)
    if not isinstance(value, Tensor | np.ndarray | np.generic):
        return Leaf(name, "integer" if whole and isinstance(value, int) else "real", start, single)
    device = value.device if isinstance(value, Tensor) else None
    form: Form = "tensor" if device is not None else "array" if isinstance(value, np.ndarray) else "scalar"
    leaf = Leaf(name, form, start, single, tuple(value.shape), value.dtype, device)
    require(
        leaf.whole is None or whole or leaf.size == 0,
        "x0",
        f"have a floating dtype at {name!r}, unless its values are whole numbers and stay so",
        value,
        f"Pass floats, or say integers=({name!r},) to search whole numbers only.",
    )
    return leaf
