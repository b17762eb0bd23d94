"""Sensitivities through sums, means and poolings: linear, the same for every sample, measured by unit impulses."""

from collections.abc import Iterable

import torch
from torch import Tensor

from zograd.nn._call import Call, Sensitivity

SYMMETRIC = {"sum", "mean"}
"""Every element has the same weight in what it is reduced to."""

SEPARABLE = {
    "avg_pool1d": 1, "avg_pool2d": 2, "_adaptive_avg_pool2d": 2, "upsample_bilinear2d": 2, "upsample_linear1d": 1,
    "upsample_bicubic2d": 2, "_upsample_bilinear2d_aa": 2,
}  # fmt: skip
"""Linear along the last dimensions, one after the other, alike for all samples and channels."""


def reduced(call: Call, given: tuple[Sensitivity, ...], wanted: Iterable[int]) -> dict[int, Tensor]:
    """Spread over what was summed, times the weight of each element: one call on ones."""
    (out,) = given
    if out is None:
        return {}
    args, kwargs = call.filled({})
    found = {}
    for at in wanted:
        x = call.inputs[at]
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
        dims = dims if isinstance(dims, list | tuple) else [] if dims is None else [dims]
        dims = [d % max(1, x.ndim) for d in dims] or list(range(x.ndim))
        together = 1
        for d in dims:
            together *= x.shape[d] if x.ndim else 1
        one = torch.ones((), dtype=torch.float64).expand(x.shape).to(x.device) if x.numel() < 4096 else None
        whole = float(call({at: one})[0].reshape(-1)[0]) if one is not None else _whole(call.node.name, together)
        shape = [1 if d in dims else size for d, size in enumerate(x.shape)]
        found[at] = (out.to(x.dtype) * (whole / together)).reshape(shape).expand(x.shape)
    return found


def _whole(name: str, together: int) -> float:
    """The reduction of ``together`` ones."""
    return 1.0 if name == "mean" else float(together)


def separable(call: Call, given: tuple[Sensitivity, ...], wanted: Iterable[int]) -> dict[int, Tensor]:
    r"""Contracted with the measured response of each dimension.

    With E the response to an impulse along one dimension that is constant along the other, the response to a single
    element is the product of the two over the response to ones: height + width calls' worth of one image.
    """
    (out,) = given
    if out is None:
        return {}
    dims = SEPARABLE[call.node.name]
    found = {}
    for at in wanted:
        x = call.inputs[at]
        sizes = x.shape[-dims:]
        lead = 2 if call.node.name.startswith("upsample") or x.ndim - dims == 2 else 1
        result = out
        middle = [size // 2 for size in out.shape[-dims:]]
        ones = call({at: _impulses(x, sizes, None, lead)})[0]
        level = ones.reshape(ones.shape[-dims:])[tuple(middle)]
        for d in range(dims):
            response = call({at: _impulses(x, sizes, d, lead)})[0].reshape(sizes[d], *out.shape[-dims:])
            for other in range(dims - 1, -1, -1):
                if other != d:
                    response = response.select(1 + other, middle[other])
            if d > 0:
                response = response / level
            result = (result.movedim(-dims + d, -1) @ response.T.to(result.dtype)).movedim(-1, -dims + d)
        found[at] = result.reshape(x.shape)
    return found


def _impulses(x: Tensor, sizes: torch.Size, along: int | None, lead: int) -> Tensor:
    """Images with ones at one place along a dimension, one image a place; one image of ones when ``along`` is None."""
    rows = 1 if along is None else sizes[along]
    images = x.new_ones(rows, *sizes)
    if along is not None:
        eye = torch.eye(rows, dtype=x.dtype, device=x.device)
        shape = [rows] + [rows if d == along else 1 for d in range(len(sizes))]
        images = images * eye.reshape(shape)
    return images.unsqueeze(1) if lead == 2 else images
