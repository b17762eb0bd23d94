"""Sensitivities through operations that only move elements: view, slice, pad, gather, concatenate, choose the largest.

Where an element goes is found by moving numbered elements instead of the values, in two calls.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from zograd.nn._call import Call, Sensitivity, sum_to

RESHAPED = {
    "view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "alias", "clone", "detach", "_to_copy", "contiguous",
    "flatten", "lift_fresh", "view_copy", "squeeze_copy", "unsqueeze_copy", "_reshape_alias", "_reshape_copy",
    "convert_element_type",
}  # fmt: skip
"""The elements stay in order."""

MOVED = {
    "slice", "select", "index", "index_select", "gather", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d",
    "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d", "roll", "flip", "repeat", "cat",
    "stack", "split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "unbind", "unfold", "im2col",
    "as_strided", "diagonal", "tril", "triu", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_unsafe_index", "take", "slice_scatter",
    "select_scatter", "copy", "movedim", "swapaxes", "rot90", "narrow",
    "masked_scatter", "overlay", "diagonal_scatter", "index_copy", "broadcast_to", "unflatten", "masked_select",
    "scatter",
}  # fmt: skip
"""Each output is one input element or a constant."""

PERMUTED = {"t", "transpose", "permute", "numpy_T", "mT"}


def reshaped(call: Call, given: tuple[Sensitivity, ...], wanted: Iterable[int]) -> dict[int, Tensor]:
    """In the argument's shape and dtype."""
    (out,) = given
    return {} if out is None else {at: out.reshape(call.inputs[at].shape).to(call.inputs[at].dtype) for at in wanted}


def permuted(call: Call, given: tuple[Sensitivity, ...], wanted: Iterable[int]) -> dict[int, Tensor]:
    """Back by the permutation that the dimensions of a tiny tensor take."""
    (out,) = given
    if out is None:
        return {}
    at = next(iter(wanted))
    sizes = torch.empty(tuple(range(1, call.inputs[at].ndim + 1)), device="meta")
    order = [size - 1 for size in call({at: sizes})[0].shape]
    return {at: out.permute([order.index(dim) for dim in range(len(order))])}


def expanded(call: Call, given: tuple[Sensitivity, ...], wanted: Iterable[int]) -> dict[int, Tensor]:
    """Summed over the copies."""
    (out,) = given
    return {} if out is None else {at: sum_to(out, call.inputs[at].shape) for at in wanted}


def moved(call: Call, given: tuple[Sensitivity, ...], wanted: Iterable[int]) -> dict[int, Tensor] | None:
    """Added up at the places that the elements came from; None where it turns out that elements are not just moved."""
    wanted = list(wanted)
    labels, starts, start = {}, {}, 1
    for at, x in call.inputs.items():
        if at in wanted:
            starts[at] = start
            labels[at] = torch.arange(start, start + x.numel(), dtype=torch.float64, device=x.device).view(x.shape)
            start += x.numel()
        elif x.is_floating_point():
            labels[at] = torch.zeros_like(x, dtype=torch.float64)
    plus = call(labels)
    # An element that is moved shows both its numbers, a constant the same twice, and a sum or multiple neither.
    minus = call({at: 0.5 - label if at in starts else label for at, label in labels.items()})
    device = call.inputs[wanted[0]].device
    total = None
    for out, there, back in zip(given, plus, minus, strict=True):
        if out is None:
            continue
        own = (there + back == 0.5) & (there >= 1) & (there < start) & (there == there.round())
        if not bool((own | (there == back) | there.isnan()).all()):
            return None
        source = torch.where(own, there, 0.0).long().reshape(-1)
        if total is None:
            total = torch.zeros(start, dtype=out.dtype, device=device)
        total.index_add_(0, source, out.reshape(-1))
    if total is None:
        return {}
    pieces = {at: (starts[at], call.inputs[at]) for at in wanted}
    return {at: total[begin : begin + x.numel()].view(x.shape) for at, (begin, x) in pieces.items()}


def accumulated(call: Call, given: tuple[Sensitivity, ...], wanted: Iterable[int]) -> dict[int, Tensor] | None:
    """``index_add``, ``scatter_add``, and ``index_put`` that adds: to what was there, and to what was added."""
    (out,) = given
    if out is None:
        return {}
    args, kwargs = call.filled({})
    name = call.node.name
    if name == "index_put":
        if not (len(args) > 3 and args[3]):
            return moved(call, given, wanted)
        added, source = torch.ops.aten.index.Tensor(out, args[1]), 2
    elif name == "index_add":
        added, source = out.index_select(args[1], args[2]) * kwargs.get("alpha", 1), 3
    else:
        added, source = out.gather(args[1], args[2]), 3
    places = {call.position(0): out, call.position(source): added}
    return {at: sum_to(places[at], call.inputs[at].shape) for at in wanted}


def embedded(call: Call, given: tuple[Sensitivity, ...], wanted: Iterable[int]) -> dict[int, Tensor]:
    """Added up at the rows that were looked up."""
    (out,) = given
    if out is None:
        return {}
    weight, index = call.argument(0), call.argument(1)
    rows = out.reshape(-1, weight.shape[1])
    return {at: torch.zeros_like(weight).index_add_(0, index.reshape(-1), rows) for at in wanted}


def pooled(call: Call, given: tuple[Sensitivity, ...], wanted: Iterable[int]) -> dict[int, Tensor]:
    """Largest of a window: added up at the winner, whose place is the second output."""
    out, index = given[0], call.outputs[1]
    if out is None or index is None:
        return {}
    found = {}
    for at in wanted:
        x = call.inputs[at]
        lead = out.shape[: x.ndim - (3 if call.node.name.startswith("max_pool3d") else 2)]
        flat = torch.zeros(*lead, x.numel() // max(1, lead.numel()), dtype=out.dtype, device=out.device)
        found[at] = flat.scatter_add_(-1, index.reshape(*lead, -1), out.reshape(*lead, -1)).view(x.shape)
    return found


def chosen(call: Call, given: tuple[Sensitivity, ...], wanted: Iterable[int]) -> dict[int, Tensor]:
    """``max``, ``min``, ``sort``, ``topk`` along a dimension: added up at the places in the second output."""
    out, index = given[0], call.outputs[1]
    if out is None or index is None:
        return {}
    args, kwargs = call.filled({})
    dim = kwargs.get("dim", args[2 if call.node.name == "topk" else 1] if len(args) > 1 else -1)
    keep = index.ndim == call.inputs[next(iter(wanted))].ndim
    if not keep:
        out, index = out.unsqueeze(dim), index.unsqueeze(dim)
    return {at: torch.zeros_like(call.inputs[at]).scatter_add_(dim, index, out) for at in wanted}


def extreme(call: Call, given: tuple[Sensitivity, ...], wanted: Iterable[int]) -> dict[int, Tensor]:
    """``amax``, ``amin``: to the winner, in equal parts to winners that tie (the mean of looking both ways for two)."""
    (out,) = given
    if out is None:
        return {}
    args, kwargs = call.filled({})
    found = {}
    for at in wanted:
        x = call.inputs[at]
        dims = kwargs.get("dim", args[1] if len(args) > 1 and call.node.name in ("amax", "amin") else [])
        dims = [d % x.ndim for d in (dims if isinstance(dims, list | tuple) else [dims])] or list(range(x.ndim))
        shape = [1 if d in dims else size for d, size in enumerate(x.shape)]
        winners = x == call.output.reshape(shape)
        found[at] = winners * (out.reshape(shape) / winners.sum(dims, keepdim=True))
    return found
