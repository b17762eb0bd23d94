"""Differences of one channel: what a convolution's weight changes, before the next convolution mixes the channels."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from zograd.blackbox.graph._tape import Node, Ref

CHANNELWISE = {"native_batch_norm", "avg_pool2d", "_adaptive_avg_pool2d", "max_pool2d_with_indices"}
"""Each channel by itself; channels are the second dimension of images, and the only one of vectors."""

VECTORS = {"native_batch_norm"}
LINEAR = {"add", "sub", "avg_pool2d", "_adaptive_avg_pool2d", "alias", "clone", "detach"}


@final
@dataclass(frozen=True, eq=False, slots=True)
class Narrow:
    """A difference that is zero but at one place along one dimension.

    Args:
        value: The difference there, of size 1 along the dimension.
        dim: The dimension.
        at: The place.
        inner: Of a convolution's weight: the input channel that alone it reads; the value is of size 1 there too.
    """

    value: Tensor
    dim: int
    at: int
    inner: int | None = None

    def widened(self, like: Tensor) -> Tensor:
        """The whole difference, with its zeros."""
        value = self.value
        if self.inner is not None:
            value = _between_zeros(value, 1, self.inner, like.shape[1])
        return _between_zeros(value, self.dim, self.at, like.shape[self.dim])


def _between_zeros(value: Tensor, dim: int, at: int, size: int) -> Tensor:
    """A slice at its place along a dimension."""
    before, after = list(value.shape), list(value.shape)
    before[dim], after[dim] = at, size - at - 1
    return torch.cat([value.new_zeros(before), value, value.new_zeros(after)], dim)


def takes_one_channel(nodes: Sequence[Node], place: int) -> bool:
    """Whether each row of a parameter belongs to one channel, wherever the parameter is used."""
    return all(
        (
            node.name == "convolution"
            and place in _values(node.args[1:3])
            and _plain(node)
            and not _is(node.args[0], place)
        )
        or (node.name in VECTORS and place in _values(node.args[1:3]))
        for node in nodes
        if place in node.refs
    )


def narrow_difference(
    node: Node, values: Sequence[Tensor], offsets: Mapping[int, Any], used: Collection[int]
) -> tuple[Any, ...] | None:
    """The differences of a node's outputs from one channel's, or None where the channels must be put together first.

    Args:
        node: The node.
        values: Every value at the centre.
        offsets: The differences, by place.
        used: The places that some node asks for.
    """
    moved = {ref: offsets[ref] for ref in node.refs if ref in offsets}
    if not all(isinstance(offset, Narrow) for offset in moved.values()):
        return None
    places = {offset.at for offset in moved.values()}
    if len(places) != 1:
        return None
    (at,) = places
    if node.name == "convolution":
        return _convolution(node, values, moved, at)
    return _channel(node, values, moved, at, used) if passes_one_channel(node) else None


def passes_one_channel(node: Node) -> bool:
    """Whether each channel of its output comes from the same channel of its arguments."""
    return node.name in CHANNELWISE or torch.Tag.pointwise in getattr(node.op, "tags", ())


def _convolution(node: Node, values: Sequence[Tensor], moved: Mapping[int, Narrow], at: int) -> tuple[Any, ...] | None:
    """One output channel from a row of the weight; all of them from one input channel."""
    if len(moved) != 1 or not _plain(node):
        return None
    ((place, offset),) = moved.items()
    x, weight, bias, *rest = node.args
    if _is(weight, place):
        source = values[x.value]
        if offset.inner is not None:
            source = source.narrow(1, offset.inner, 1)
        return (Narrow(node.op(source, offset.value, None, *rest), 1, at),)
    if _is(bias, place):
        (out,) = (values[output] for output in node.outputs if output is not None)
        shape = (out.shape[0], 1, *out.shape[2:])
        return (Narrow(offset.value.reshape([1] * len(shape)).expand(shape), 1, at),)
    return (node.op(offset.value, values[weight.value].narrow(1, at, 1), None, *rest),)


def _channel(
    node: Node, values: Sequence[Tensor], moved: Mapping[int, Narrow], at: int, used: Collection[int]
) -> tuple[Any, ...] | None:
    """The node on one channel."""
    outputs = [values[place] for place in node.outputs if place is not None]
    channels = outputs[0].shape[1] if outputs[0].ndim > 1 else 0
    bases: dict[int, Tensor] = {}
    for ref in node.refs:
        base = _part(values[ref], outputs[0].ndim, channels, at, node.name in VECTORS)
        if base is None:
            return None
        bases[ref] = base
    if node.name in LINEAR and all(not isinstance(a, int | float) for a in node.args[1:2]):
        zero = outputs[0].new_zeros(())
        change = node.run(lambda ref: moved[ref].value if ref in moved else zero)
        return tuple(Narrow(part, 1, at) for part in change)
    wide = torch.promote_types(outputs[0].dtype, torch.float32)
    bases = {ref: base.to(wide) if base.is_floating_point() else base for ref, base in bases.items()}
    after = node.run(lambda ref: bases[ref] + moved[ref].value.to(wide) if ref in moved else bases[ref])
    before: Sequence[Any] = [None if place is None else values[place] for place in node.outputs]
    if wide != outputs[0].dtype:
        before = node.run(bases.__getitem__)
    else:
        before = [value.narrow(1, at, 1) if value is not None and value.ndim > 1 else None for value in before]
    found: list[Any] = []
    for place, new, old in zip(node.outputs, after, before, strict=False):
        if place is None or old is None:
            found.append(None)
        elif new.is_floating_point():
            found.append(Narrow((new - old).to(values[place].dtype), 1, at))
        else:  # indices: the new ones, and only if somebody asks
            whole = values[place]
            parts = [whole.narrow(1, 0, at), new, whole.narrow(1, at + 1, channels - at - 1)]
            found.append(torch.cat(parts, 1) if place in used else None)
    return tuple(found)


def _part(value: Tensor, dims: int, channels: int, at: int, vectors: bool) -> Tensor | None:
    """One channel of a value, or None where it is not clear which that is."""
    if value.ndim == 0:
        return value
    if value.ndim == 1 and vectors and value.shape[0] == channels:
        return value.narrow(0, at, 1)
    if value.ndim != dims or dims < 2 or value.shape[1] not in (1, channels):
        return None
    return value if value.shape[1] == 1 else value.narrow(1, at, 1)


def _plain(node: Node) -> bool:
    """Whether a convolution is neither transposed nor in groups."""
    return not node.args[6] and node.args[8] == 1


def _values(args: Any) -> set[int]:
    return {argument.value for argument in args if isinstance(argument, Ref)}


def _is(argument: Any, place: int) -> bool:
    return isinstance(argument, Ref) and argument.value == place
