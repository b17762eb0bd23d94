"""Contraction: from the loss backwards, each node asked on its own how its output answers to its arguments."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from zograd.blackbox.graph import Node, Tape, record
from zograd.nn._call import Call, Meter, Sensitivity
from zograd.nn._decompositions import OWN, decomposition
from zograd.nn._movement import (
    MOVED, PERMUTED, RESHAPED, chosen, embedded, expanded, extreme, moved, permuted, pooled, reshaped,
)  # fmt: skip
from zograd.nn._pointwise import ADDITIVE, pointwise
from zograd.nn._products import PRODUCTS
from zograd.nn._reductions import SEPARABLE, SYMMETRIC, reduced, separable
from zograd.nn._unknown import unknown

Rule = Callable[[Call, tuple[Sensitivity, ...], Iterable[int]], dict[int, Tensor]]

RULES: dict[str, Rule] = {
    **PRODUCTS,
    **dict.fromkeys(MOVED, moved),
    **dict.fromkeys(RESHAPED, reshaped),
    **dict.fromkeys(PERMUTED, permuted),
    **dict.fromkeys(SYMMETRIC, reduced),
    **dict.fromkeys(SEPARABLE, separable),
    **dict.fromkeys(ADDITIVE - RESHAPED, pointwise),
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
    tape: Tape, seeds: Mapping[int, Tensor], wanted: Iterable[int], meter: Meter, release: bool = False
) -> dict[int, Tensor]:
    r"""dL/d(value) of the ``wanted`` values, by one sweep from the end of the tape.

    .. math:: s_x = \sum_{\text{nodes } y = f(x, \dots)} \Big(\frac{\Delta f}{\Delta x}\Big)^{\!\top} s_y

    with the slopes of each node from values of that node alone.

    Args:
        tape: The forward pass.
        seeds: dL/d(value) of the values to start from.
        wanted: The places of the values whose sensitivity is asked for.
        meter: Counts what the nodes were asked.
        release: Whether values that are not needed any more may be given back on the way.
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
        call = Call(node, tape.values.__getitem__, meter)
        asked = [at for at, value in call.places.items() if value in reached and call.inputs[at].is_floating_point()]
        for at, found in through(call, given, asked).items() if asked else ():
            value = call.places[at]
            known[value] = known[value] + found if value in known else found
        for place in node.outputs:
            if place is not None and place not in wanted:
                known.pop(place, None)
    return {value: known[value] for value in wanted if value in known}


def through(call: Call, given: tuple[Sensitivity, ...], asked: list[int]) -> dict[int, Tensor]:
    """The sensitivities of a node's arguments from those of its outputs."""
    rule = rule_of(call.node, call)
    if rule is not None:
        return rule(call, given, asked)
    made = decomposition(call.node.name, call.node.op)
    return unknown(call, given, asked) if made is None else _inside(call, made, given, asked)


def rule_of(node: Node, call: Call | None = None) -> Rule | None:
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
) -> dict[int, Tensor]:
    """The same sweep over the operations that a fused one is made of."""
    args, kwargs = call.filled({})
    parts = [call.inputs[at] for at in asked]
    tape, found = record(lambda: made(*args, **kwargs), parts)
    outputs = (found,) if isinstance(found, Tensor) else tuple(found)
    seeds: dict[int, Tensor] = {}
    results = iter(tape.results)
    for output, sensitivity in zip(outputs, given, strict=False):
        if isinstance(output, Tensor):
            place = next(results)
            if sensitivity is not None:
                seeds[place] = seeds.get(place, 0) + sensitivity
    inner = sensitivities(tape, seeds, tape.parameters, call.meter)
    return {at: inner[place] for at, place in zip(asked, tape.parameters, strict=True) if place in inner}
