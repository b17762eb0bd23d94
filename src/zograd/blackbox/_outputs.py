"""What a program returned: a number, an array, or a structure of arrays, as one tensor and back."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import optree
import torch
from torch import Tensor

from zograd._errors import EvaluationError


@final
@dataclass(frozen=True, slots=True)
class Outputs:
    """How one output is laid out in a flat tensor.

    Args:
        tree: The structure; ``None`` where the output is one number or array, whose shape is then kept.
        shapes: The shape of each leaf.
    """

    tree: optree.PyTreeSpec | None
    shapes: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        shapes = ", ".join(str(shape) for shape in self.shapes)
        return f"an output of shape {shapes}" if self.tree is None else f"a structure of shapes {shapes}"

    @classmethod
    def pack(cls, result: Any, like: Tensor, rows: int | None) -> tuple["Outputs", Tensor]:
        """``result`` as one tensor like ``like``: shape out for one output, (rows, *out) for a batch of them.

        Raises:
            EvaluationError: With status ``"invalid"``, when it is not made of numbers or has not one row a point.
        """
        if not isinstance(result, dict | tuple) and not (isinstance(result, list) and not _is_numbers(result)):
            value = _tensor(result, like)
            return cls(None, (_output_shape(value, rows),)), value
        structure: Any = result
        leaves, tree = optree.tree_flatten(structure)
        values = [_tensor(leaf, like) for leaf in leaves]
        shapes = tuple(_output_shape(value, rows) for value in values)
        lead = () if rows is None else (rows,)
        return cls(tree, shapes), torch.cat([value.reshape(*lead, -1) for value in values], dim=-1)

    def unpack(self, values: Tensor) -> Any:
        """A tensor of shape (*batch, *out) as the structure that the program returns, each leaf (*batch, *shape)."""
        if self.tree is None:
            return values
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        pieces = torch.split(values, sizes, dim=-1)
        return optree.tree_unflatten(
            self.tree, [p.reshape((*values.shape[:-1], *s)) for p, s in zip(pieces, self.shapes, strict=True)]
        )


NUMBER = Outputs(None, ((),))
"""One number."""


def _is_numbers(result: list[Any]) -> bool:
    return all(isinstance(entry, int | float | np.number) for entry in result)


def _tensor(leaf: Any, like: Tensor) -> Tensor:
    if isinstance(leaf, Tensor):
        return leaf.detach().to(like)
    try:
        array = np.asarray(leaf)
    except ValueError:  # ragged
        array = np.asarray(None)
    if array.dtype.kind not in "bifu":
        shown = repr(leaf)
        raise EvaluationError(
            f"the black box must return numbers, found {shown if len(shown) < 80 else shown[:77] + '...'}"
            f" ({type(leaf).__name__}).",
            status="invalid",
        )
    return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape)).to(like)


def _output_shape(value: Tensor, rows: int | None) -> tuple[int, ...]:
    shape = tuple(value.shape)
    if rows is None:
        return shape
    if not shape or shape[0] != rows:
        raise EvaluationError(
            f"a batched function must return one row a point, shape ({rows}, ...), found shape {shape}.",
            status="invalid",
        )
    return shape[1:]
