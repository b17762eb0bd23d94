"""One node, to be called again with some of its arguments replaced: the only place where contraction asks anything."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from zograd.blackbox.graph import Node, Ref

Sensitivity = Tensor | None
"""dL/d(value), of the value's shape; ``None`` where it is zero."""


@final
@dataclass(eq=False)
class Inquiry:
    """How the nodes are asked, and what they were asked.

    Args:
        step: How far an element is moved where the answer bends; ``None`` takes the cube root of the dtype's epsilon
            times ``max(1, |x|)^(1/2)``, or times ``|x|`` for functions without a scale of their own.
        autograd: Whether torch operations may be differentiated by autograd instead, one at a time.
        queries: How many times nodes were called, by their names.
        work: The elements that these calls read and wrote.
    """

    step: float | None = None
    autograd: bool = False
    queries: dict[str, int] = field(default_factory=dict)
    work: int = 0

    @property
    def total(self) -> int:
        """All queries."""
        return sum(self.queries.values())

    def steps(self, x: Tensor, relative: bool = False) -> Tensor:
        """How far each element is moved.

        Args:
            x: The elements, 32 or 64 bits.
            relative: Whether the scale is that of the element itself, as for a logarithm.
        """
        if self.step is not None:
            return torch.full_like(x, self.step)
        distance: float = torch.finfo(x.dtype).eps ** (1 / 3)
        if relative:
            return (x.abs() * distance).masked_fill(x == 0, distance)
        # A sine does not get wider far out, but its argument gets coarser: the root is between the two.
        return x.abs().clamp_(min=1.0).sqrt_().mul_(distance)


@final
class Call:
    """A node with the values of its arguments.

    Args:
        node: The node.
        lookup: From a value's place to the value.
        inquiry: How to ask; it counts the calls.
    """

    def __init__(self, node: Node, lookup: Callable[[int], Tensor], inquiry: Inquiry) -> None:
        self.node = node
        self.inquiry = inquiry
        self._leaves, self._spec = pytree.tree_flatten((node.args, node.kwargs))
        self.places = {at: leaf.value for at, leaf in enumerate(self._leaves) if isinstance(leaf, Ref)}
        self.inputs = {at: lookup(value) for at, value in self.places.items()}
        self.outputs = tuple(None if place is None else lookup(place) for place in node.outputs)

    @property
    def output(self) -> Tensor:
        """The first output."""
        first = self.outputs[0]
        if first is None:
            raise TypeError(f"{self.node.name} has no first output")
        return first

    def argument(self, place: int, default: Any = None) -> Any:
        """The positional argument ``place``, tensors as values."""
        if place >= len(self.node.args):
            return default
        given = self.node.args[place]
        return self.inputs[self.position(place)] if isinstance(given, Ref) else given

    def position(self, place: int) -> int:
        """Where the positional argument ``place``, a tensor, stands among the leaves; -1 if it is none."""
        if place >= len(self.node.args) or not isinstance(self.node.args[place], Ref):
            return -1
        return len(pytree.tree_leaves(self.node.args[:place]))

    def __call__(self, replaced: Mapping[int, Any]) -> tuple[Any, ...]:
        """Call the node with the leaves at some positions replaced; all outputs."""
        args, kwargs = self.filled(replaced)
        found = self.node.op(*args, **kwargs)
        outputs = (found,) if self.node.single else tuple(found)
        self.inquiry.queries[self.node.name] = self.inquiry.queries.get(self.node.name, 0) + 1
        self.inquiry.work += sum(leaf.numel() for leaf in (*replaced.values(), *outputs) if isinstance(leaf, Tensor))
        return outputs

    def filled(self, replaced: Mapping[int, Any]) -> tuple[Any, Any]:
        """Arguments and keyword arguments with the leaves at some positions replaced."""
        leaves = [replaced[at] if at in replaced else self.inputs.get(at, leaf) for at, leaf in enumerate(self._leaves)]
        found: tuple[Any, Any] = pytree.tree_unflatten(leaves, self._spec)
        return found


def sum_to(values: Tensor, shape: torch.Size) -> Tensor:
    """``values`` with broadcast dimensions summed, so that it has ``shape``."""
    if values.shape == shape:
        return values
    whole = torch.broadcast_shapes(values.shape, shape)  # type: ignore[no-untyped-call]
    return values.expand(whole).sum_to_size(shape)
