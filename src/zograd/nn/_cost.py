"""What nodes cost: floating-point operations by their shapes, seconds by running each once."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from zograd.blackbox.graph import Node, Tape, flops
from zograd.nn._contraction import rule_of
from zograd.nn._opaque import Operation
from zograd.nn._pointwise import ADDITIVE, HOMOGENEOUS, LINEAR_AT, pointwise
from zograd.nn._products import PRODUCTS
from zograd.nn._unknown import MOST_ELEMENTS

FUSED_QUERIES = 16
"""Calls of the operations inside a normalisation or a softmax, about."""

EFFORT = {"product": 4.0, "pointwise": 3.0, "fused": 5.0, "other": 4.0}
"""Time to go back through a node over the time to run it, about: measured on a ResNet-20, see the benchmarks."""


@final
@dataclass(frozen=True)
class Price:
    """What something costs.

    Args:
        queries: How often something is evaluated: nodes in a contraction, forward passes or parts of them otherwise.
        flops: Floating-point operations.
        memory: Bytes at the peak, parameters left out.
        seconds: Wall time.
    """

    queries: int = 0
    flops: float = 0.0
    memory: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Price") -> "Price":
        """Both, one after the other."""
        return Price(
            self.queries + other.queries,
            self.flops + other.flops,
            max(self.memory, other.memory),
            self.seconds + other.seconds,
        )

    def times(self, number: int) -> "Price":
        """So many of them, one after the other."""
        return Price(self.queries * number, self.flops * number, self.memory, self.seconds * number)


def measured(tape: Tape) -> list[Price]:
    """The price of running each node of a tape, by running it: one forward pass in all."""
    prices = []
    with torch.no_grad():
        for node in tape.nodes:
            began = time.perf_counter()
            node.run(tape.values.__getitem__)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            prices.append(Price(1, flops(node, tape.values), 0, seconds))
    return prices


def backwards(node: Node, price: Price, values: Sequence[Tensor]) -> Price:
    """The price of going back through a node, from that of running it."""
    name, rule = node.name, rule_of(node)
    largest = max((values[ref].numel() for ref in node.refs), default=0)
    if isinstance(node.op, Operation):
        queries = _opaque_queries(node, values)
        return price.times(queries)
    if name in PRODUCTS:
        return Price(0, price.flops * len(node.refs[:2]), 0, price.seconds * EFFORT["product"])
    if rule is pointwise:
        queries = 2 if name in ADDITIVE or name in HOMOGENEOUS or name in LINEAR_AT else 4
        return Price(queries * len(node.refs), price.flops * 4, 0, price.seconds * EFFORT["pointwise"])
    if rule is not None:
        return Price(2, price.flops, 0, price.seconds * EFFORT["other"])
    if largest <= MOST_ELEMENTS:
        return Price(FUSED_QUERIES, price.flops * FUSED_QUERIES, 0, price.seconds * FUSED_QUERIES)
    return Price(FUSED_QUERIES, price.flops * FUSED_QUERIES, 0, price.seconds * EFFORT["fused"])


def _opaque_queries(node: Node, values: Sequence[Tensor]) -> int:
    """Calls of an opaque part's function."""
    owner = node.op.owner  # type: ignore[attr-defined]
    x = values[node.refs[0]]
    entries = (values[ref].numel() // (len(values[ref]) if owner.channels else 1) for ref in node.refs[1:])
    parameters = 2 * sum(entries)
    each = math.prod(x.shape[1:])
    asked: dict[str | None, int] = {
        "elementwise": 2,
        "local": 2 * (x.shape[1] if x.ndim > 1 else 1) * (2 * owner.reach + 1) ** 2,
        "linear": 1 + -(-each // max(1, min(1024, x.shape[0]))),
    }
    return parameters + asked.get(owner.structure, 2 * each)
