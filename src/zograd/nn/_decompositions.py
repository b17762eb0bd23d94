"""Fused operations as the elementary ones that they are made of, each of which has a rule."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    _: float,
    epsilon: float,
) -> tuple[Tensor, None, None]:
    """Normalised by the batch's statistics, or by the running ones."""
    dims = [0, *range(2, x.ndim)]
    shape = [1, -1] + [1] * (x.ndim - 2)
    if training or mean is None or variance is None:
        centred = x - x.mean(dims, keepdim=True)
        scale = torch.rsqrt((centred * centred).mean(dims, keepdim=True) + epsilon)
    else:
        centred, scale = x - mean.view(shape), torch.rsqrt(variance.view(shape) + epsilon)
    return _affine(centred, scale, weight, bias, shape), None, None


def layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, None, None]:
    """Normalised over the last dimensions."""
    dims = list(range(-len(shape), 0))
    centred = x - x.mean(dims, keepdim=True)
    scale = torch.rsqrt((centred * centred).mean(dims, keepdim=True) + epsilon)
    return _affine(centred, scale, weight, bias, list(shape)), None, None


def group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    samples: int,
    channels: int,
    _: int,
    groups: int,
    epsilon: float,
) -> tuple[Tensor, None, None]:
    """Normalised over each group of channels."""
    grouped = x.reshape(samples, groups, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    scale = torch.rsqrt((centred * centred).mean(2, keepdim=True) + epsilon)
    shape = [1, channels] + [1] * (x.ndim - 2)
    return _affine((centred * scale).reshape(x.shape), None, weight, bias, shape), None, None


def _affine(
    centred: Tensor, scale: Tensor | None, weight: Tensor | None, bias: Tensor | None, shape: list[int]
) -> Tensor:
    factor = scale
    if weight is not None:
        factor = weight.reshape(shape) if factor is None else factor * weight.reshape(shape)
    found = centred if factor is None else centred * factor
    return found if bias is None else found + bias.reshape(shape)


def softmax(x: Tensor, dim: int, *_: Any) -> Tensor:
    """Exponentials over their sum; a row of minus infinities gives zeros."""
    largest = x.amax(dim, keepdim=True)
    shifted = torch.exp(x - largest.masked_fill(largest.isinf(), 0.0))
    total = shifted.sum(dim, keepdim=True)
    return shifted / total.masked_fill(total == 0, 1.0)


def log_softmax(x: Tensor, dim: int, *_: Any) -> Tensor:
    """Minus the logarithm of the sum of exponentials."""
    shifted = x - x.amax(dim, keepdim=True)
    return shifted - torch.log(torch.exp(shifted).sum(dim, keepdim=True))


def negative_log_likelihood(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignored: int
) -> tuple[Tensor, None]:
    """The entries of the targets, weighted."""
    kept = target != ignored
    place = target.masked_fill(~kept, 0)
    amount = kept.to(x.dtype) if weight is None else weight[place] * kept
    found = -x.gather(1 if x.ndim > 1 else 0, place.unsqueeze(1 if x.ndim > 1 else 0)).reshape(place.shape) * amount
    if reduction == 0:
        return found, None
    return (found.sum() if reduction == 2 else found.sum() / amount.sum()), None


def variance(x: Tensor, dim: Any = None, *, correction: int | float | None = None, keepdim: bool = False) -> Tensor:
    """The mean square distance from the mean."""
    dims = list(range(x.ndim)) if dim is None or (isinstance(dim, list | tuple) and not dim) else dim
    count = x.numel() // max(1, x.mean(dims).numel())
    centred = x - x.mean(dims, keepdim=True)
    return (centred * centred).sum(dims, keepdim=keepdim) / (count - (1 if correction is None else correction))


def deviation(x: Tensor, dim: Any = None, *, correction: int | float | None = None, keepdim: bool = False) -> Tensor:
    """The root of the variance."""
    return torch.sqrt(variance(x, dim, correction=correction, keepdim=keepdim))


def variance_and_mean(
    x: Tensor, dim: Any = None, *, correction: int | float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """Both."""
    dims = list(range(x.ndim)) if dim is None else dim
    return variance(x, dim, correction=correction, keepdim=keepdim), x.mean(dims, keepdim=keepdim)


OWN: dict[str, Callable[..., Any]] = {
    "native_batch_norm": batch_norm,
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    "_softmax": softmax,
    "_safe_softmax": softmax,
    "_log_softmax": log_softmax,
    "nll_loss_forward": negative_log_likelihood,
    "nll_loss2d_forward": negative_log_likelihood,
    "var": variance,
    "std": deviation,
    "var_mean": variance_and_mean,
}


def decomposition(name: str, op: Any) -> Callable[..., Any] | None:
    """How an operation is made of others: our own words for the frequent ones, torch's table for the rest."""
    if name in OWN:
        return OWN[name]
    from torch._decomp import decomposition_table  # slow to import, and seldom needed

    return decomposition_table.get(op)
