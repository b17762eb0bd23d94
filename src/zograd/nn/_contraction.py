"""Contraction: from the loss backwards, each node asked on its own how its output answers to its arguments."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zograd._errors import GradientError
from zograd.blackbox.graph import Node, Tape, record
from zograd.nn._call import Call, Inquiry, Sensitivity
from zograd.nn._decompositions import OWN, decomposition
from zograd.nn._movement import (
    MOVED,
    PERMUTED,
    RESHAPED,
    accumulated,
    chosen,
    embedded,
    expanded,
    extreme,
    moved,
    permuted,
    pooled,
    reshaped,
)  # fmt: skip
from zograd.nn._opaque import Operation, opaque
from zograd.nn._pointwise import ADDITIVE, CHOOSING, pointwise
from zograd.nn._products import PRODUCTS
from zograd.nn._reductions import SEPARABLE, SYMMETRIC, reduced, separable
from zograd.nn._unknown import MOST_ELEMENTS, unknown

Rule = Callable[[Call, tuple[Sensitivity, ...], Iterable[int]], dict[int, Tensor] | None]

RULES: dict[str, Rule] = {
    **PRODUCTS,
    **dict.fromkeys(MOVED, moved),
    **dict.fromkeys(RESHAPED, reshaped),
    **dict.fromkeys(PERMUTED, permuted),
    **dict.fromkeys(SYMMETRIC, reduced),
    **dict.fromkeys(SEPARABLE, separable),
    **dict.fromkeys((ADDITIVE | CHOOSING) - RESHAPED, pointwise),
    **dict.fromkeys(("index_add", "scatter_add", "index_put"), accumulated),
    "expand": expanded,
    "embedding": embedded,
    "max_pool2d_with_indices": pooled,
    "max_pool3d_with_indices": pooled,
    "topk": chosen,
    "sort": chosen,
    "amax": extreme,
    "amin": extreme,
}


def sensitivities(
    tape: Tape, seeds: Mapping[int, Tensor], wanted: Iterable[int], inquiry: Inquiry
) -> dict[int, Tensor]:
    r"""dL/d(value) of the ``wanted`` values, by one sweep from the end of the tape.

    .. math:: s_x = \sum_{\text{nodes } y = f(x, \dots)} \Big(\frac{\Delta f}{\Delta x}\Big)^{\!\top} s_y

    with the slopes of each node from values of that node alone.

    Args:
        tape: The forward pass.
        seeds: dL/d(value) of the values to start from.
        wanted: The places of the values whose sensitivity is asked for.
        inquiry: How to ask; it counts what the nodes were asked.

    Raises:
        GradientError: When a node can neither be taken apart nor probed.
    """
    wanted = list(wanted)
    known: dict[int, Tensor] = dict(seeds)
    reached = set(wanted)
    for node in tape.nodes:
        if not reached.isdisjoint(node.refs):
            reached.update(place for place in node.outputs if place is not None)
    for node in reversed(tape.nodes):
        given = tuple(None if place is None else known.get(place) for place in node.outputs)
        if all(sensitivity is None for sensitivity in given) or reached.isdisjoint(node.refs):
            continue
        call = Call(node, tape.values.__getitem__, inquiry)
        asked = [at for at, value in call.places.items() if value in reached and _is_number(call, at)]
        for at, found in through(call, given, asked).items() if asked else ():
            value, found = call.places[at], found.to(call.inputs[at].dtype)
            known[value] = known[value] + found if value in known else found
        for place in node.outputs:
            if place is not None and place not in wanted:
                known.pop(place, None)
    return {value: known[value] for value in wanted if value in known}


def through(call: Call, given: tuple[Sensitivity, ...], asked: list[int]) -> dict[int, Tensor]:
    """The sensitivities of a node's arguments from those of its outputs."""
    if isinstance(call.node.op, Operation):
        return opaque(call, given, asked)
    pull = getattr(call.node.op, "pull", None)
    if pull is not None:  # it knows by itself
        return {at: pull(call.inputs[at], given[0]) for at in asked}
    if call.inquiry.autograd:
        return pulled_back(call, given, asked)
    rule = rule_of(call.node)
    told = None if rule is None else rule(call, given, asked)
    if told is not None:
        return told
    made = decomposition(call.node.name, call.node.op)
    found = None if made is None else _inside(call, made, given, asked)
    return unknown(call, given, asked) if found is None else found


def obstacle(node: Node, values: Sequence[Tensor]) -> str:
    """Why nothing can be told through a node, or nothing."""
    if any(values[ref].is_complex() for ref in node.refs):
        return f"{node.name} takes complex numbers"
    if (
        isinstance(node.op, Operation)
        or hasattr(node.op, "pull")
        or rule_of(node) is not None
        or decomposition(node.name, node.op) is not None
    ):
        return ""
    largest = max((values[ref].numel() for ref in node.refs if values[ref].is_floating_point()), default=0)
    return f"{node.name} has no rule and {largest} elements to probe" if largest > MOST_ELEMENTS else ""


def pulled_back(call: Call, given: tuple[Sensitivity, ...], asked: list[int]) -> dict[int, Tensor]:
    """By autograd through this one node."""
    leaves = {at: call.inputs[at].detach().requires_grad_() for at in asked}
    with torch.enable_grad():
        outputs = call(leaves)
    pairs = [
        (output, sensitivity)
        for output, sensitivity in zip(outputs, given, strict=False)
        if sensitivity is not None and output.requires_grad
    ]
    if not pairs:
        return {}
    found = torch.autograd.grad(
        [output for output, _ in pairs], list(leaves.values()), [s for _, s in pairs], allow_unused=True
    )
    return {at: gradient for at, gradient in zip(asked, found, strict=True) if gradient is not None}


def _is_number(call: Call, at: int) -> bool:
    """Whether an argument can be moved a little: integers and flags cannot."""
    if call.inputs[at].is_complex():
        raise GradientError(f"{call.node.name} takes complex numbers, for which there is no rule. Take method='reuse'.")
    return call.inputs[at].is_floating_point()


def rule_of(node: Node) -> Rule | None:
    """The rule for a node, or None where it must be taken apart or probed."""
    name = node.name
    if name in ("max", "min"):
        return chosen if not node.single else extreme
    if name in OWN:
        return None
    rule = RULES.get(name)
    tags = getattr(node.op, "tags", ())
    return pointwise if rule is None and torch.Tag.pointwise in tags else rule


def _inside(
    call: Call, made: Callable[..., Any], given: tuple[Sensitivity, ...], asked: list[int]
) -> dict[int, Tensor] | None:
    """The same sweep over the operations that a fused one is made of; None where it is not made of any after all."""
    args, kwargs = call.filled({})
    parts = [call.inputs[at] for at in asked]
    tape, found = record(lambda: made(*args, **kwargs), parts)
    if found is NotImplemented or found is None or any(node.name == call.node.name for node in tape.nodes):
        return None
    outputs = (found,) if isinstance(found, Tensor) else tuple(found)
    seeds: dict[int, Tensor] = {}
    results = iter(tape.results)
    for output, sensitivity in zip(outputs, given, strict=False):
        if isinstance(output, Tensor):
            place = next(results)
            if sensitivity is not None:
                seeds[place] = seeds.get(place, 0) + sensitivity
    inner = sensitivities(tape, seeds, tape.parameters, call.inquiry)
    return {at: inner[place] for at, place in zip(asked, tape.parameters, strict=True) if place in inner}
