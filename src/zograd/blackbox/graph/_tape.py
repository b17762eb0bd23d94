"""The tape: what a forward pass did, operation by operation, with every value kept."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class Ref:
    """The place of a value in `Tape.values`, standing for it in the arguments of a `Node`."""

    value: int


@final
@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One operation that depends on a parameter.

    Args:
        op: What is called: an ATen operation without side effects, or an `Opaque` module's function.
        args: Its arguments, with a `Ref` wherever a tensor stood.
        kwargs: The same, by name.
        outputs: Where its outputs are kept; ``None`` for an output that is no tensor.
        single: Whether it returns one tensor and not a sequence of them.
        refs: All values among the arguments, in order, each once.

    Attributes:
        name: The operation's name without namespace and overload, such as ``convolution``.
    """

    op: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[int | None, ...]
    single: bool
    refs: tuple[int, ...]
    name: str = field(init=False)

    def __post_init__(self) -> None:
        packet = getattr(self.op, "overloadpacket", None)
        name = getattr(packet, "__name__", None) or getattr(self.op, "name", type(self.op).__name__)
        object.__setattr__(self, "name", str(name))

    def run(self, lookup: Callable[[int], Tensor]) -> tuple[Any, ...]:
        """Call the operation on the values that ``lookup`` gives; all outputs as a tuple."""
        args, kwargs = fill(self.args, lookup), fill(self.kwargs, lookup)
        found = self.op(*args, **kwargs)
        return (found,) if self.single else tuple(found)


@final
@dataclass(eq=False)
class Tape:
    """A forward pass from parameters to the loss, as a list of nodes in the order of execution.

    Args:
        values: Every tensor that matters: parameters, constants, and the outputs of the nodes.
        nodes: The operations that depend on a parameter.
        parameters: Where each parameter's value is kept; -1 for one that the loss does not use.
        results: Where the tensors are kept that the forward pass returned; the loss is the first of them.
    """

    values: list[Tensor] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    parameters: list[int] = field(default_factory=list)
    results: tuple[int, ...] = ()

    @property
    def result(self) -> int:
        """Where the loss is kept."""
        return self.results[0]

    def needed(self, wanted: Iterable[int]) -> list[Node]:
        """The nodes through which one of the ``wanted`` values reaches a result, in order."""
        reached = set(wanted)
        after = []
        for node in self.nodes:
            if not reached.isdisjoint(node.refs):
                reached.update(output for output in node.outputs if output is not None)
                after.append(node)
        useful = set(self.results)
        kept = []
        for node in reversed(after):
            if not useful.isdisjoint(node.outputs):
                useful.update(node.refs)
                kept.append(node)
        return kept[::-1]

    def bytes(self) -> int:
        """Memory held by the values, each storage once."""
        storages = {v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in self.values}
        return sum(storages.values())


def fill(structure: Any, lookup: Callable[[int], Tensor]) -> Any:
    """``structure`` with every `Ref` replaced by its value."""
    # By hand, and not by pytree: this stands in the innermost loop.
    if isinstance(structure, Ref):
        return lookup(structure.value)
    if isinstance(structure, list | tuple):
        return type(structure)([fill(part, lookup) for part in structure])
    if isinstance(structure, dict):
        return {name: fill(part, lookup) for name, part in structure.items()}
    return structure
