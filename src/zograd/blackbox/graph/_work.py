"""What it costs to push a parameter's move through a tape, predicted from shapes: the same on every machine."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, final

from torch import Tensor

from zograd.blackbox.graph._narrow import passes_one_channel
from zograd.blackbox.graph._tape import Node, Ref

FLOPS_AN_ELEMENT = 256.0
"""Floating-point operations of a product that take as long as writing one element does."""

ELEMENTS_A_CALL = 4e4
"""Elements that could be written in the time that a call of an operation takes for nothing."""


@final
class Work(NamedTuple):
    """Both in elements written, which is a unit of time.

    Args:
        call: What a call costs, however many rows are stacked in it.
        row: What each row adds.
    """

    call: float
    row: float


def flops(node: Node, values: Sequence[Tensor]) -> float:
    """Of running a node once: two for each product, one for each element of anything else."""
    products = multiplications(node, values)
    return 2.0 * products if products else float(written(node, values))


def multiplications(node: Node, values: Sequence[Tensor]) -> float:
    """Of a matrix product or a convolution; 0 for any other."""
    shapes = [values[a.value].shape if isinstance(a, Ref) else None for a in node.args]
    if node.name == "convolution" and shapes[0] is not None and shapes[1] is not None:
        many = shapes[0].numel() if node.args[6] else written(node, values)
        return float(many * (shapes[1].numel() // shapes[1][0]))
    inner = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}.get(node.name)
    factor = None if inner is None else shapes[inner]
    return 0.0 if factor is None else float(written(node, values) * factor[-1])


def written(node: Node, values: Sequence[Tensor]) -> int:
    """The elements of a node's outputs."""
    return sum(values[place].numel() for place in node.outputs if place is not None)


def work(nodes: Iterable[Node], values: Sequence[Tensor], place: int, one_channel: bool) -> Work:
    """What it costs to run ``nodes`` again, with one entry of a parameter moved.

    Args:
        nodes: Those between the parameter and the loss.
        values: Every value at the centre.
        place: Of the parameter.
        one_channel: Whether a row is followed as one channel as far as that goes.
    """
    call, row = 0.0, float(values[place].numel())
    narrow = {place} if one_channel else set()
    wide = set() if one_channel else {place}
    for node in nodes:
        elements, products = float(written(node, values)), multiplications(node, values)
        outputs = [output for output in node.outputs if output is not None]
        alone = bool(narrow.intersection(node.refs)) and not wide.intersection(node.refs)
        channels = values[outputs[0]].shape[1] if values[outputs[0]].ndim > 1 else 1
        if alone and node.name == "convolution":
            into = values[node.args[0].value].shape[1]
            of_weight = node.args[0].value not in narrow
            products /= into * (channels if of_weight else 1)
            elements /= channels if of_weight else 1
            (narrow if of_weight else wide).update(outputs)
        elif alone and passes_one_channel(node):
            elements /= channels
            narrow.update(outputs)
        else:
            wide.update(outputs)
        call += ELEMENTS_A_CALL
        row += elements + 2.0 * products / FLOPS_AN_ELEMENT
    return Work(call, row)
