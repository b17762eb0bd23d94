"""Sensitivities through an operation of which only values are known: finite differences, element by element."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from zograd._errors import GradientError
from zograd.nn._call import Call, Sensitivity

MOST_ELEMENTS = 8192
"""Elements of one sample that are worth probing one by one; of all samples where they depend on each other."""


def unknown(call: Call, given: tuple[Sensitivity, ...], wanted: Iterable[int]) -> dict[int, Tensor]:
    """Both ways from each element; the same element of all samples at once where samples are found independent.

    Raises:
        GradientError: When there are too many elements for that.
    """
    return {at: probed(call, given, at, independent(call, at), MOST_ELEMENTS) for at in wanted}


def probed(call: Call, given: tuple[Sensitivity, ...], at: int, together: bool, most: int) -> Tensor:
    """Finite differences from each element of an argument, of one sample or of all of it."""
    x = call.inputs[at]
    elements = x[0].numel() if together else x.numel()
    if elements > most:
        raise GradientError(
            f"{call.node.name} is not known to be made of simpler operations, and its argument of shape "
            f"{tuple(x.shape)} has {elements} elements to probe one by one. Take method='reuse', or wrap the part of "
            f"the network in zo.nn.Opaque with a structure."
        )
    flat = x.reshape(x.shape[0], -1) if together else x.reshape(1, -1)
    found = torch.zeros_like(flat)
    for element in range(elements):
        size = call.inquiry.steps(flat[:, element])
        ahead, behind = flat.clone(), flat.clone()
        ahead[:, element] += size
        behind[:, element] -= size
        up, down = call({at: ahead.view(x.shape)}), call({at: behind.view(x.shape)})
        found[:, element] = _contracted(given, up, down, flat.shape[0]) / (ahead - behind)[:, element]
    return found.view(x.shape)


def _contracted(given: tuple[Sensitivity, ...], up: tuple[Any, ...], down: tuple[Any, ...], rows: int) -> Tensor:
    """The difference of the outputs times their sensitivity, summed for each row."""
    total: Any = 0
    for out, high, low in zip(given, up, down, strict=True):
        if out is not None:
            total = total + ((high - low) * out).reshape(rows, -1).sum(1)
    return total  # type: ignore[no-any-return]


def independent(call: Call, at: int) -> bool:
    """Whether the first dimension of an argument and of all outputs counts samples that do not see each other.

    Tried at the first sample and at the last: all other samples must keep their outputs, bit for bit.
    """
    x = call.inputs[at]
    outputs = [output for output in call.outputs if output is not None and output.is_floating_point()]
    if x.ndim < 2 or x.shape[0] < 2 or any(o.ndim == 0 or o.shape[0] != x.shape[0] for o in outputs):
        return False
    base = call({})
    for sample, others in ((0, slice(1, None)), (x.shape[0] - 1, slice(0, -1))):
        other = x.clone()
        other[sample] = x[sample] * 1.5 + 0.5
        for was, now in zip(base, call({at: other}), strict=True):
            if isinstance(was, Tensor) and not torch.equal(was[others], now[others]):
                return False
    return True
