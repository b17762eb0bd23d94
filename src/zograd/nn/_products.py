"""Sensitivities through products: what one factor's element contributes is the other factor, so each is a contraction.

A matrix product is linear in either factor, and its response to a unit perturbation of one is the other, which is
known: no query is needed. What remains is to contract the responses with the sensitivity of the output.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from zograd.blackbox.graph import Ref
from zograd.nn._call import Call, Sensitivity, sum_to

Rule = Callable[[Call, tuple[Sensitivity, ...], Iterable[int]], dict[int, Tensor]]

aten = torch.ops.aten


def matrix_product(call: Call, given: tuple[Sensitivity, ...], wanted: Iterable[int]) -> dict[int, Tensor]:
    """``mm`` and ``bmm``."""
    (out,) = given
    return {} if out is None else _factors(call, out, 0, 1, set(wanted))


def added_product(call: Call, given: tuple[Sensitivity, ...], wanted: Iterable[int]) -> dict[int, Tensor]:
    """``addmm`` and ``baddbmm``: ``beta * added + alpha * first @ second``."""
    (out,) = given
    if out is None:
        return {}
    alpha, beta = (call.node.kwargs.get(name, 1) for name in ("alpha", "beta"))
    wanted = set(wanted)
    found = _factors(call, out if alpha == 1 else out * alpha, 1, 2, wanted)
    at = call.position(0)
    if at in wanted:
        found[at] = found.get(at, 0) + sum_to(out if beta == 1 else out * beta, call.inputs[at].shape)
    return found


def _factors(call: Call, out: Tensor, first: int, second: int, wanted: set[int]) -> dict[int, Tensor]:
    left, right = call.position(first), call.position(second)
    found: dict[int, Tensor] = {}
    if left in wanted:
        found[left] = out @ call.inputs[right].mT
    if right in wanted:
        found[right] = call.inputs[left].mT @ out
    return found


def convolution(call: Call, given: tuple[Sensitivity, ...], wanted: Iterable[int]) -> dict[int, Tensor]:
    """A convolution or a transposed one, in any number of dimensions, strided, dilated, grouped."""
    (out,) = given[:1]
    if out is None:
        return {}
    wanted = set(wanted)
    x, w = call.argument(0), call.argument(1)
    stride, padding, dilation, transposed, _, groups = call.node.args[3:9]
    dims = x.ndim - 2
    stride, padding, dilation = (list(v) * (dims if len(v) == 1 else 1) for v in (stride, padding, dilation))
    found: dict[int, Tensor] = {}
    if call.position(0) in wanted:
        extra = [0] * dims
        if not transposed:
            reach = [
                (out.shape[2 + k] - 1) * stride[k] - 2 * padding[k] + dilation[k] * (w.shape[2 + k] - 1) + 1
                for k in range(dims)
            ]
            extra = [x.shape[2 + k] - reach[k] for k in range(dims)]
        found[call.position(0)] = aten.convolution(
            out, w, None, stride, padding, dilation, not transposed, extra, groups
        )
    if call.position(1) in wanted:
        inner, outer = (out, x) if transposed else (x, out)
        found[call.position(1)] = _correlation(inner, outer, w.shape[2:], stride, padding, dilation, groups)
    if isinstance(call.node.args[2], Ref) and call.position(2) in wanted:
        found[call.position(2)] = out.sum([0, *range(2, out.ndim)])
    return found


def _correlation(
    x: Tensor, out: Tensor, kernel: torch.Size, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Tensor:
    """``sum over samples and places of out[n, o, p] x[n, i, p * stride + k * dilation - padding]``: (o, i, *kernel).

    Which is a convolution of x with the sensitivities as the kernel and the samples as channels. A processor's kernels
    of 16 bits are not made for kernels as large as pictures: with AMX they return sums of something else.
    """
    dtype = x.dtype
    if x.device.type == "cpu" and dtype.itemsize < 4:
        x, out = x.float(), out.float()
    samples, dims = len(x), list(range(3, 3 + len(kernel)))
    images = x.view(samples, groups, -1, *x.shape[2:]).permute(2, 1, 0, *dims)
    kernels = out.reshape(samples, groups, -1, *out.shape[2:]).permute(1, 2, 0, *dims)
    images, kernels = images.flatten(1, 2), kernels.flatten(0, 1)
    found = aten.convolution(images, kernels, None, dilation, padding, stride, False, [0] * len(kernel), groups)
    found = found[(slice(None), slice(None), *(slice(size) for size in kernel))]
    return found.transpose(0, 1).to(dtype)  # type: ignore[no-any-return]


PRODUCTS: dict[str, Rule] = {
    "mm": matrix_product,
    "bmm": matrix_product,
    "addmm": added_product,
    "baddbmm": added_product,
    "convolution": convolution,
}
