"""Sensitivities through operations that work element by element: all slopes at once, from two or three calls."""

from collections.abc import Iterable

import torch
from torch import Tensor

from zograd.nn._call import Call, Sensitivity, sum_to

ADDITIVE = {"add", "sub", "rsub", "neg", "clone", "alias", "positive"}
"""A sum of one multiple of each argument, the same for all elements."""

CHOOSING = {"where", "masked_fill"}
"""Each output is an element of one of the arguments, or a constant."""

LINEAR_AT = {"mul": (0, 1), "div": (0,)}
"""Arguments in which the operation is linear while the others stand still."""

HOMOGENEOUS = {"relu", "leaky_relu", "abs"}
"""f(a x) = a f(x) for a > 0: two slopes tell everything."""

RELATIVE = {"sqrt", "rsqrt", "reciprocal", "log", "log2", "log10", "pow", "div", "xlogy", "atan2", "log_"}
"""Functions whose scale is that of their argument: a step of 1e-5 is not small for the logarithm of 1e-6."""

SHRINK = 2.0**-7
ROUGH = 0.02


def pointwise(call: Call, given: tuple[Sensitivity, ...], wanted: Iterable[int]) -> dict[int, Tensor]:
    """The sensitivity of each wanted argument: that of the output times the slope, summed where it was broadcast."""
    (sensitivity,) = given[:1]
    if sensitivity is None:
        return {}
    return {at: sum_to(_through(call, at, sensitivity), call.inputs[at].shape) for at in wanted}


def _through(call: Call, at: int, sensitivity: Tensor) -> Tensor:
    """The sensitivity of one argument, in the shape of the output."""
    name = call.node.name
    if name in ADDITIVE:
        factor = float(_one_and_zeros(call, at))
        return sensitivity if factor == 1.0 else sensitivity * factor
    if name in CHOOSING:
        return sensitivity * _one_and_zeros(call, at).nan_to_num()  # masked_fill with -inf: inf - inf
    if at in LINEAR_AT.get(name, ()) and len(call.node.args) > 1:
        # Every element is multiplied by its slope: that is what the operation does to the sensitivities too.
        return call({at: sensitivity})[0]  # type: ignore[no-any-return]
    if name in HOMOGENEOUS:
        return _homogeneous(call, at, sensitivity)
    return sensitivity * difference(call, at)


def _one_and_zeros(call: Call, at: int) -> Tensor:
    """The answer to a one at this argument and zeros at the others."""
    zeros = {k: v.new_zeros(()) for k, v in call.inputs.items() if v.is_floating_point()}
    found: Tensor = call({**zeros, at: call.inputs[at].new_ones(())})[0] - call(zeros)[0]
    return found


def _homogeneous(call: Call, at: int, sensitivity: Tensor) -> Tensor:
    x = call.inputs[at]
    up, down = float(call({at: x.new_ones(())})[0]), -float(call({at: -x.new_ones(())})[0])
    if down == 0.0:
        found = sensitivity * (x > 0)
        found = found if up == 1.0 else found * up
    else:
        found = sensitivity * torch.where(x > 0, up, down)
    return found if bool(x.all()) else torch.where(x == 0, sensitivity * ((up + down) / 2), found)


def difference(call: Call, at: int) -> Tensor:
    """Central differences of all elements in two calls, and a closer look where there may be a corner."""
    x, base = call.inputs[at], call.output
    wide = torch.promote_types(x.dtype, torch.float32)
    x = x.to(wide)
    others = {k: v.to(wide) for k, v in call.inputs.items() if v.is_floating_point() and v.dtype != wide}
    if others:
        base = call({**others, at: x})[0]
    step = call.inquiry.steps(x, call.node.name in RELATIVE)
    ahead, behind = _sided(call, at, x, base, step, others)
    found = _central(ahead, behind)
    rough = ~((ahead - behind).abs() <= ROUGH * (ahead.abs() + behind.abs()))
    if call.inquiry.step is None and base.shape == x.shape and bool(rough.any()):
        close_ahead, close_behind = _sided(call, at, x, base, step * SHRINK, others)
        close = _central(close_ahead, close_behind)
        corner = rough & ~((close - found).abs() <= 0.1 * (ahead - behind).abs())
        found = torch.where(corner, close, found)
    return found.masked_fill(~x.isfinite(), 0.0) if base.shape == x.shape else found.nan_to_num()


def _sided(
    call: Call, at: int, x: Tensor, base: Tensor, step: Tensor, others: dict[int, Tensor]
) -> tuple[Tensor, Tensor]:
    """The slopes to either side, over the distances that floating point really goes."""
    up, down = x + step, x - step
    ahead = (call({**others, at: up})[0] - base) / (up - x)
    behind = (base - call({**others, at: down})[0]) / (x - down)
    return ahead, behind


def _central(ahead: Tensor, behind: Tensor) -> Tensor:
    """Their mean; the one that is a number at the edge of the function's domain."""
    both = (ahead + behind) / 2
    if bool(both.isfinite().all()):
        return both
    one = torch.where(ahead.isfinite(), ahead, behind)
    return torch.where(both.isfinite(), both, one)
