"""Parameters that are read as moved along a direction, without moving them."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, final

import optree
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from zograd._probes import Seeded

Offset = Callable[[int, Tensor], None]


@final
class Directions:
    """The same parameters, seen as one long vector along which seeds draw directions.

    Args:
        parameters: The tensors, each once.
        distribution: ``"gaussian"`` or ``"rademacher"``.
    """

    def __init__(self, parameters: Sequence[Tensor], distribution: str) -> None:
        self.parameters = list(parameters)
        sizes = [p.numel() for p in self.parameters]
        self.starts = list(accumulate(sizes, initial=0))
        self.dimension = self.starts[-1]
        nothing = torch.zeros(0, dtype=torch.long)
        self._seeded = Seeded(nothing, torch.zeros(0), distribution)  # type: ignore[arg-type]
        self._free: list[Tensor] = []
        self._kinds: set[tuple[torch.dtype, torch.device]] = set()

    def room(self, like: Tensor) -> Tensor:
        """Memory for a copy of ``like``, given back by `give_back` and then used again.

        Asking the system for megabytes again and again would leave its heap in pieces.
        """
        kind = (like.dtype, like.device)
        if kind not in self._kinds:  # the first is for the largest, so that all that follow fit
            self._kinds.add(kind)
            largest = max(p.numel() for p in self.parameters if (p.dtype, p.device) == kind)
            self._free.append(like.detach().new_empty(largest))
        fitting = [room for room in self._free if (room.dtype, room.device) == kind and room.numel() >= like.numel()]
        if not fitting:
            return like.detach().new_empty(like.numel())
        best = min(fitting, key=Tensor.numel)
        self._free = [room for room in self._free if room is not best]
        return best

    def give_back(self, room: Tensor) -> None:
        """Let the next have it."""
        self._free.append(room)

    def add(self, seed: int, scale: float, which: int, to: Tensor) -> None:
        """Add ``scale`` times the direction of ``seed``, as far as it is that of parameter ``which``, to ``to``.

        A few blocks of memory beside ``to``, whatever its size.
        """
        flat, first = to.view(-1), self.starts[which]
        for start, piece in self._pieces(seed, which):
            part = flat[start - first : start - first + len(piece)]
            part.add_(piece.to(part), alpha=scale)

    def add_rounded(self, seed: int, scale: float, which: int, to: Tensor, generator: torch.Generator) -> None:
        """The same, into 16 bits: rounded up or down at random, so that small steps are not lost but taken at times."""
        flat, first = to.view(-1), self.starts[which]
        for start, piece in self._pieces(seed, which):
            part = flat[start - first : start - first + len(piece)]
            wide = part.float().cpu().add_(piece, alpha=scale)
            part.copy_(stochastic_round(wide, part.dtype, generator))

    def _pieces(self, seed: int, which: int) -> Any:
        start, stop = self.starts[which], self.starts[which + 1]
        return self._seeded.pieces(seed, start, stop, self.dimension, torch.float32)


@final
class Moved(TorchFunctionMode):
    """Within it, every torch operation that reads a parameter reads ``parameter + scale * direction`` instead.

    The parameters themselves are never written, so nothing has to be undone: they keep their values bit for bit, in
    any precision, also when the program raises. The moved copy of a parameter lives as long as the operation that
    reads it, and the next copy takes its place: memory is the largest parameter, not the network.

    Args:
        directions: Of the parameters.
        seed: Which direction.
        scale: How far, signed.
    """

    def __init__(self, directions: Directions, seed: int, scale: float) -> None:
        super().__init__()
        self._directions, self._seed, self._scale = directions, seed, scale
        self._which = {id(p): which for which, p in enumerate(directions.parameters)}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func`` with moved parameters in the place of the parameters."""
        if func in FACTS:
            return func(*args, **(kwargs or {}))
        taken: list[Tensor] = []

        def read(leaf: Any) -> Any:
            which = self._which.get(id(leaf))
            return leaf if which is None else self._copy(leaf, which, taken)

        given: Any = optree.tree_map(read, (args, kwargs or {}), none_is_leaf=True)  # type: ignore[arg-type]
        result = func(*given[0], **given[1])
        if taken:
            self._give_back(taken, result)
        return result

    def _copy(self, parameter: Tensor, which: int, taken: list[Tensor]) -> Tensor:
        """The parameter, moved, in room that nobody uses."""
        room = self._directions.room(parameter)
        taken.append(room)
        moved = room[: parameter.numel()].view(parameter.shape).copy_(parameter.detach())
        self._directions.add(self._seed, self._scale, which, moved)
        return moved

    def _give_back(self, taken: list[Tensor], result: Any) -> None:
        """Use the room again, unless what the operation returned is a view of it."""
        held = {_address(leaf) for leaf in optree.tree_leaves(result) if isinstance(leaf, Tensor)}
        for room in taken:
            if _address(room) not in held:
                self._directions.give_back(room)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


FACTS = frozenset(
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "device", "requires_grad", "is_cuda", "is_leaf", "layout", "ndim", "is_nested",
                 "is_sparse", "is_quantized", "is_meta", "grad", "is_mkldnn", "is_cpu")
) | frozenset({Tensor.size, Tensor.dim, Tensor.numel, Tensor.stride, Tensor.is_floating_point, Tensor.is_contiguous,
               Tensor.nelement, Tensor.element_size, torch.is_floating_point, torch.numel, Tensor.__len__,
               Tensor.data_ptr, Tensor.is_complex})  # fmt: skip
"""What is asked of a parameter that does not depend on its values."""


def stochastic_round(values: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Float32 ``values`` in ``dtype``, up or down at random so that the mean is right.

    For bfloat16, whose numbers are those of float32 with 16 bits less, it is exact; float16 goes by its two neighbours.

    Args:
        values: Any shape, float32, on the CPU.
        dtype: ``torch.bfloat16`` or ``torch.float16``.
        generator: What is drawn from.
    """
    if dtype is torch.bfloat16:
        noise = torch.randint(2**16, values.shape, generator=generator, dtype=torch.int32)
        bits = values.view(torch.int32).add(noise).bitwise_and_(-(2**16))
        return bits.view(torch.float32).to(dtype)
    below = values.to(dtype)
    gap = values - below.float()
    other = torch.nextafter(below, torch.where(gap > 0, torch.inf, -torch.inf).to(dtype))
    width = (other.float() - below.float()).abs()
    up = torch.rand(values.shape, generator=generator) * width < gap.abs()
    return torch.where(up, other, below)
