"""What the recorder must know of single ATen operations: which draw, which write, which only look at shapes."""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

aten = torch.ops.aten

ESCAPES = {"numpy", "tolist", "__array__", "__dlpack__", "data_ptr", "storage", "__reduce_ex__"}
"""Methods by which a value leaves torch unseen."""

LIKE = {
    f"aten::{name}"
    for name in (
        "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like", "new_empty",
        "new_zeros", "new_ones", "new_full", "new_empty_strided",
    )
}  # fmt: skip
"""Operations that look at the shape, dtype and device of their argument only."""

REFILLS = {f"aten::{name}_" for name in ("zero", "uniform", "normal", "bernoulli", "exponential", "random", "cauchy")}

BATCH_NORMS = {"aten::native_batch_norm", "aten::cudnn_batch_norm", "aten::miopen_batch_norm"}
"""They update running statistics without saying so in their schema."""

EQUAL = {aten.view.default: aten.reshape.default, aten._unsafe_view.default: aten.reshape.default}
"""Operations whose place another takes that does not mind how the numbers lie in memory."""

Special = Callable[[Any, Any, Any], tuple[Any, tuple[Any, ...], dict[str, Any], Any]]


def is_refill(func: Any) -> bool:
    """Whether an operation overwrites its first argument with what does not depend on it."""
    return func._schema.name in REFILLS


def written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The arguments that an operation changes."""
    if not func._schema.is_mutable:
        return []
    found = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            found += [given] if isinstance(given, Tensor) else list(given or [])
    return found


def functional(func: Any) -> Callable[..., Any]:
    """An operation that gives what ``func`` writes into its first argument, and writes nothing."""
    name = func._schema.name.removeprefix("aten::").removesuffix("_")
    packet = getattr(aten, name, None)
    if packet is not None and func._overloadname in packet.overloads():
        found: Callable[..., Any] = getattr(packet, func._overloadname)
        return found
    return Detour(func)


@final
class Detour:
    """An in-place operation on a copy, where ATen has no other form of it.

    Args:
        func: The operation in place.
    """

    def __init__(self, func: Any) -> None:
        self.func = func
        self.name = func._schema.name.removeprefix("aten::")

    def __call__(self, first: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the copy is afterwards."""
        return self.func(first.clone(), *args, **kwargs)


def _batch_norm(args: Any, kwargs: Any, found: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any], Any]:
    """Without the running statistics where those of the batch are used; only the first output counts."""
    given = (*args, *kwargs.values())
    x, weight, bias, mean, variance, training, momentum, eps = given[:8]
    kept = (None, None) if training else (mean, variance)
    return aten.native_batch_norm.default, (x, weight, bias, *kept, training, momentum, eps), {}, (found[0], None, None)


def _dropout(args: Any, kwargs: Any, found: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any], Any]:
    """A product with the mask that was drawn."""
    x, p = [*args, *kwargs.values()][:2]
    return aten.mul.Tensor, (x, found[1].to(found[0].dtype) / max(1 - p, 1e-300)), {}, found[0]


SPECIAL: dict[str, Special] = dict.fromkeys(BATCH_NORMS, _batch_norm) | {"aten::native_dropout": _dropout}
