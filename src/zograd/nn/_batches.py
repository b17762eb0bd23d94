"""Batches from tensors or from any loader, in an order that can be repeated."""

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor

from zograd._checks import require

Data = tuple[Tensor, Tensor] | Iterable[Any]
HINT = "Pass (inputs, targets) as tensors, or a DataLoader that gives such pairs."


def is_tensors(data: Any) -> bool:
    """Whether the data are two tensors, not a loader."""
    return isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)


def check_data(argument: str, data: Any) -> None:
    """Refuse what is neither two tensors of one length nor a loader."""
    if is_tensors(data):
        same = data[0].ndim > 0 and data[1].ndim > 0 and len(data[0]) == len(data[1]) > 0
        require(same, argument, "have as many inputs as targets, at least one", [len(part) for part in data], HINT)
    else:
        good = isinstance(data, Iterable) and not isinstance(data, (Iterator, Tensor, tuple))
        require(good, argument, "be two tensors or a loader that can be gone through again", data, HINT)


def batches(data: Data, size: int, generator: torch.Generator | None) -> Iterator[tuple[Any, Any]]:
    """One epoch of pairs; tensors are shuffled by the generator, where there is one."""
    if is_tensors(data):
        x, y = data
        order = torch.arange(len(x)) if generator is None else torch.randperm(len(x), generator=generator)
        for index in torch.split(order, size):
            yield x[index.to(x.device)], y[index.to(y.device)]
        return
    for pair in data:
        good = isinstance(pair, (tuple, list)) and len(pair) == 2
        require(good, "train", "give pairs of inputs and targets", type(pair).__name__, HINT)
        yield pair[0], pair[1]


def length(data: Data, size: int) -> int | None:
    """How many batches there are in an epoch, where that is known."""
    if is_tensors(data):
        return -(-len(data[0]) // size)  # type: ignore[index]
    return len(data) if isinstance(data, Sized) else None


def generators(data: Data) -> list[torch.Generator]:
    """Those that a loader draws its order from, each once."""
    found = [getattr(data, "generator", None), getattr(getattr(data, "sampler", None), "generator", None)]
    return list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())


def split_off(data: Data, share: float, generator: torch.Generator) -> tuple[Data, Data]:
    """A share of the samples, chosen at random, taken from the others."""
    hint = "A loader cannot be split: pass a second one for validation."
    require(is_tensors(data), "validation", "be data where train is a loader", share, hint)
    x, y = data
    held = round(share * len(x))
    require(0 < held < len(x), "validation", "leave samples on both sides", share, "It is a share: 0.1 is a tenth.")
    order = torch.randperm(len(x), generator=generator)
    sides = [order[held:].sort().values, order[:held].sort().values]
    (a, b), (c, d) = ((x[side.to(x.device)], y[side.to(y.device)]) for side in sides)
    return (a, b), (c, d)


def moved(value: Any, device: torch.device) -> Any:
    """Tensors in plain containers, on the device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(part, device) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(moved(part, device) for part in value)
    return value


def samples(targets: Any) -> int:
    """How many there are in a batch: each counts as much in a mean over an epoch."""
    return len(targets) if isinstance(targets, Tensor) and targets.ndim else 1
