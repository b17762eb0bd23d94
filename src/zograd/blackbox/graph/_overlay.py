"""Memory that several tensors see: what one of them is after another was written to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a tensor's elements lie in its storage.

    Args:
        size: The shape.
        stride: The distance of neighbours along each dimension.
        offset: Where the first element lies.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> "Geometry":
        """That of a tensor at present."""
        return cls(tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset()))

    def addresses(self) -> Tensor:
        """The place of each element in the storage, in logical order, shape (numel,)."""
        found = torch.full((1,) * len(self.size), self.offset)
        for dim, (size, stride) in enumerate(zip(self.size, self.stride, strict=True)):
            shape = [1] * len(self.size)
            shape[dim] = size
            found = found + (torch.arange(size) * stride).view(shape)
        return found.reshape(-1)


@final
class Overlay:
    """An operation: some elements of the first argument are replaced by some of the second.

    Args:
        to: Where the first sees what the second wrote, flat.
        source: Which elements of the second these are, flat.
    """

    name = "overlay"

    def __init__(self, to: Tensor, source: Tensor) -> None:
        self.to, self.source = to, source

    def __call__(self, base: Tensor, written: Tensor) -> Tensor:
        """The first with what was written, in its shape."""
        values = written.reshape(-1).index_select(0, self.source.to(written.device))
        return base.reshape(-1).index_copy(0, self.to.to(base.device), values).reshape(base.shape)


def overlays(seen: Geometry, written: Sequence[Geometry]) -> list[Overlay | None]:
    """What a tensor sees of each of some others in the same storage; None for nothing."""
    own = seen.addresses()
    where = torch.full((int(own.max()) + 1 if own.numel() else 0,), -1)
    where[own] = torch.arange(own.numel())
    found: list[Overlay | None] = []
    for geometry in written:
        places = geometry.addresses()
        inside = (places < len(where)).nonzero().squeeze(1)
        to = where[places[inside]]
        hit = to >= 0
        found.append(Overlay(to[hit], inside[hit]) if bool(hit.any()) else None)
    return found
