"""How a difference d passes through one node f: by itself where the node is linear, else as f(base + d) - f(base)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zograd.blackbox.graph._tape import Node, Ref, fill

ADDITIVE = {
    "add", "sub", "rsub", "neg", "where", "masked_fill", "cat", "stack", "view", "_unsafe_view", "reshape", "unsqueeze",
    "squeeze", "alias", "clone", "detach", "_to_copy", "t", "transpose", "permute", "expand", "slice", "select",
    "index", "index_select", "gather", "constant_pad_nd", "reflection_pad2d", "split", "split_with_sizes",
    "unsafe_split", "unbind", "flip", "roll", "repeat", "sum", "mean", "avg_pool2d", "_adaptive_avg_pool2d",
    "upsample_nearest2d", "upsample_bilinear2d", "cumsum", "pixel_shuffle", "tril", "triu", "im2col", "embedding",
    "overlay", "index_add", "scatter_add", "index_put",
}  # fmt: skip
"""Linear in all tensors together (a filled-in constant has no difference)."""

FEW_ELEMENTS = 2**16

BILINEAR = {"mm": (0, 1), "bmm": (0, 1), "mul": (0, 1), "mv": (0, 1), "dot": (0, 1)}
AFFINE = {"addmm": (1, 2), "baddbmm": (1, 2), "convolution": (0, 1)}
"""Bilinear in two arguments, plus a multiple of a third."""


def difference(
    node: Node, values: Sequence[Tensor], offsets: Mapping[int, Any], wide: dict[int, Tensor]
) -> tuple[Any, ...]:
    """The differences of a node's outputs, from those of its arguments.

    Args:
        node: The node.
        values: Every value at the centre.
        offsets: The differences, by place; a value without one has none. For integers and flags: the new value.
        wide: Outputs at the centre in a wider dtype, kept from one call to the next.
    """
    floats = all(offsets[ref].is_floating_point() for ref in node.refs if ref in offsets)
    if floats and (node.name in ADDITIVE or _scales(node, offsets)):
        return _linear(node, values, offsets)
    factors = BILINEAR.get(node.name) or AFFINE.get(node.name)
    if floats and factors and all(isinstance(node.args[place], Ref) for place in factors):
        return _product(node, values, offsets, factors)
    return _nonlinear(node, values, offsets, wide)


def _scales(node: Node, offsets: Mapping[int, Any]) -> bool:
    """Whether it multiplies its first argument by what does not move."""
    if node.name not in ("mul", "div") or not isinstance(node.args[0], Ref) or node.args[0].value not in offsets:
        return False
    other = node.args[1]
    return not (isinstance(other, Ref) and other.value in offsets) and not (len(node.args) > 2 or node.kwargs)


def _linear(node: Node, values: Sequence[Tensor], offsets: Mapping[int, Any]) -> tuple[Any, ...]:
    """The node on the differences alone; constants count as zero."""
    args, kwargs = fill((node.args, node.kwargs), lambda place: _only(place, values, offsets))
    if node.name in ("mul", "div") and isinstance(node.args[1], Ref):
        args = (args[0], values[node.args[1].value])
    if node.name == "masked_fill":
        args = (*args[:2], 0.0)
    elif node.name == "constant_pad_nd":
        args = args[:2]
    elif node.name in ("add", "sub", "rsub") and not isinstance(args[1], Tensor):
        args = (args[0], 0, *args[2:])
    found = node.op(*args, **kwargs)
    return (found,) if node.single else tuple(found)


def _only(place: int, values: Sequence[Tensor], offsets: Mapping[int, Any]) -> Tensor:
    if place in offsets:
        found: Tensor = offsets[place]
        return found
    value = values[place]
    return torch.zeros_like(value) if value.is_floating_point() else value


def _product(
    node: Node, values: Sequence[Tensor], offsets: Mapping[int, Any], factors: tuple[int, int]
) -> tuple[Any, ...]:
    """Da b + a Db + Da Db, and the difference of what is added."""
    first, second = (node.args[place].value for place in factors)
    left, right = values[first], values[second]
    pairs = []
    if first in offsets:
        moved = right + offsets[second] if second in offsets else right
        pairs.append((offsets[first], moved))
    if second in offsets:
        pairs.append((left, offsets[second]))
    added = next((place for place in range(3) if place not in factors), 2)
    third = node.args[added] if node.name in AFFINE else None
    change = offsets.get(third.value) if isinstance(third, Ref) else None
    if change is not None and not pairs:
        return (_broadcast(node, change, values),)
    total: Any = None
    for a, b in pairs:
        args = list(node.args)
        args[factors[0]], args[factors[1]] = a, b
        if node.name in AFFINE:
            if node.name == "convolution":
                args[added] = change if total is None else None
            else:
                args[added] = a.new_zeros(1) if change is None or total is not None else change
        term = node.op(*args, **node.kwargs)
        total = term if total is None else total + term
    return (total,)


def _broadcast(node: Node, change: Tensor, values: Sequence[Tensor]) -> Tensor:
    """The difference of a bias at every place that it is added to."""
    (place,) = (output for output in node.outputs if output is not None)
    shape = values[place].shape
    if node.name == "convolution":
        change = change.reshape(-1, *[1] * (len(shape) - 2))
    beta = node.kwargs.get("beta", 1)
    return (change if beta == 1 else change * beta).expand(shape)


def _nonlinear(
    node: Node, values: Sequence[Tensor], offsets: Mapping[int, Any], wide: dict[int, Tensor]
) -> tuple[Any, ...]:
    """f(base + difference) - f(base): in 64 bits where there are few elements, as in a loss, else in 32 at least."""
    floats = [values[ref] for ref in node.refs if values[ref].is_floating_point()]
    narrowest = min((value.dtype.itemsize for value in floats), default=8)
    few = all(value.numel() <= FEW_ELEMENTS for value in floats)
    dtype = torch.float64 if few else torch.float32
    widen = narrowest < dtype.itemsize

    def base(place: int) -> Tensor:
        value = values[place]
        return value.to(torch.promote_types(value.dtype, dtype)) if value.is_floating_point() else value

    def moved(place: int) -> Tensor:
        if place not in offsets:
            return base(place)
        offset: Tensor = offsets[place]
        return base(place) + offset if values[place].is_floating_point() else offset

    outputs = node.run(moved)
    if widen and any(place is not None and place not in wide for place in node.outputs):
        pairs = zip(node.outputs, node.run(base), strict=False)
        wide.update({place: value for place, value in pairs if place is not None})
    found: list[Tensor | None] = []
    for place, output in zip(node.outputs, outputs, strict=False):
        if place is None or not isinstance(output, Tensor):
            found.append(None)
            continue
        if not output.is_floating_point():
            found.append(output)
            continue
        center = wide[place] if widen else values[place]
        found.append(output.sub_(center).to(values[place].dtype))
    return tuple(found)
