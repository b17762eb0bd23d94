"""Recording a forward pass: every ATen operation passes by here once, with its tensors."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from zograd.blackbox.graph._operations import BATCH_NORMS, EQUAL, ESCAPES, LIKE, SPECIAL, functional, is_refill, written
from zograd.blackbox.graph._overlay import Geometry, overlays
from zograd.blackbox.graph._tape import Node, Ref, Tape


class UntraceableError(Exception):
    """The forward pass does something that a tape cannot hold; the message says what."""


_here = threading.local()


def recorder() -> "Recorder | None":
    """The recorder that listens in this thread, if any."""
    return getattr(_here, "recorder", None)


def record(function: Callable[[], Any], parameters: Sequence[Tensor]) -> tuple[Tape, Any]:
    """Run ``function`` once, without a graph, and keep what depends on ``parameters``.

    Args:
        function: A forward pass that returns the loss, or nested tensors: they are the results, in order.
        parameters: The tensors whose influence is recorded. Nothing that does not depend on them is a node.

    Returns:
        The tape, and what ``function`` returned.

    Raises:
        UntraceableError: When a value that depends on a parameter leaves torch (``.item()``, ``.numpy()``, an ``if``),
            or a parameter is written to.
    """
    listener = Recorder(parameters)
    before, _here.recorder = recorder(), listener
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operation would hide a whole layer
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _Escapes(listener), listener:
            found = function()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        _here.recorder = before
    leaves = [leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor)]
    for leaf in leaves:
        listener.depends(leaf)
    listener.tape.results = tuple(listener.place(leaf) for leaf in leaves)
    return listener.tape, found


@final
class _Escapes(TorchFunctionMode):
    """Notices values that leave torch by doors at which no ATen operation stands."""

    def __init__(self, listener: "Recorder") -> None:
        super().__init__()
        self.listener = listener

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        escapes = getattr(func, "__name__", "") in ESCAPES and args and not self.listener.is_paused
        if escapes and self.listener.depends(args[0]):
            raise UntraceableError(f"a value that depends on the parameters leaves torch by .{func.__name__}()")
        return func(*args, **(kwargs or {}))


@final
class Recorder(TorchDispatchMode):
    """Writes a `Tape` while a forward pass runs.

    Tensors are known by identity. One that is changed in place becomes a new value, and what it was is copied first.

    Args:
        parameters: Where dependence starts.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tape = Tape()
        self._known: dict[int, int] = {}
        self._alive: list[Tensor] = []  # an identity is one only as long as its tensor lives
        self._depends: list[bool] = []
        self._stored: dict[int, list[tuple[int, Tensor, Geometry]]] = {}  # storage -> values kept in it, oldest first
        self.is_paused = False
        self.tape.parameters = [self._keep(parameter, True) for parameter in parameters]

    def depends(self, tensor: Any) -> bool:
        """Whether a tensor depends on a parameter, as far as recorded."""
        if not isinstance(tensor, Tensor):
            return False
        if id(tensor) in self._known:
            return self._depends[self._known[id(tensor)]]
        shared = [entry for entry in self._stored.get(_storage(tensor), []) if self._depends[entry[0]]]
        if shared:  # a view made before it was written to, or .data
            with self.paused():
                self._put_together(tensor, shared)
        return bool(shared)

    def place(self, tensor: Tensor) -> int:
        """Where a tensor's value is kept; a constant is kept from now on."""
        found = self._known.get(id(tensor))
        return self._keep(tensor, False) if found is None else found

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not listen for a while."""
        self.is_paused, before = True, self.is_paused
        try:
            yield
        finally:
            self.is_paused = before

    def write(self, op: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], found: Any) -> None:
        """Add a node."""
        self._add(op, *self._referenced(args, kwargs), found)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.is_paused:
            return func(*args, **kwargs)
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        depend = [self.depends(tensor) for tensor in given]  # all of them: each may have to be put together
        changed = [] if func._schema.name in BATCH_NORMS else written(func, args, kwargs)
        if not any(depend) or func._schema.name in LIKE or (is_refill(func) and not self.depends(args[0])):
            with self._change(changed, recorded=False):
                return func(*args, **kwargs)
        self._traceable(func, changed)
        referenced = self._referenced(args, kwargs)
        with self._change(changed, recorded=True):
            found = func(*args, **kwargs)
        if found is None:  # a check, such as that of a matrix being regular
            return None
        special = SPECIAL.get(func._schema.name)
        if special is not None:
            op, places, names, result = special(args, kwargs, found)
            self._add(op, *self._referenced(places, names), result)
        else:
            self._add(functional(func) if changed else EQUAL.get(func, func), *referenced, found)
        return found

    def _traceable(self, func: Any, changed: list[Tensor]) -> None:
        name = func._schema.name
        if torch.Tag.nondeterministic_seeded in func.tags and name not in SPECIAL:
            raise UntraceableError(f"{name} draws random numbers that depend on the parameters")
        if not all(_gives_tensors(result.type) for result in func._schema.returns):
            raise UntraceableError(f"a value that depends on the parameters leaves torch by {name} (.item() or an if)")
        if any(self._known.get(id(tensor)) in self.tape.parameters for tensor in changed):
            raise UntraceableError(f"{name} changes a parameter in place")
        if len(changed) > 1 or (changed and not func._schema.name.endswith("_")):
            raise UntraceableError(f"{name} writes to an argument")

    def _add(self, op: Any, args: Any, kwargs: Any, found: Any) -> None:
        single = isinstance(found, Tensor)
        outputs = (found,) if single else tuple(found)
        refs = tuple({leaf.value: None for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Ref)})
        places = tuple(self._keep(output, True) if isinstance(output, Tensor) else None for output in outputs)
        self.tape.nodes.append(Node(op, args, kwargs, places, single, refs))

    def _referenced(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        found: tuple[Any, Any] = pytree.tree_map(
            lambda leaf: Ref(self.place(leaf)) if isinstance(leaf, Tensor) else leaf, (args, kwargs)
        )
        return found

    def _keep(self, tensor: Tensor, depends: bool) -> int:
        tensor_now = tensor.detach() if tensor.requires_grad else tensor
        place = len(self.tape.values)
        self.tape.values.append(tensor_now)
        self._depends.append(depends)
        self._alive.append(tensor)
        self._known[id(tensor)] = place
        self._stored.setdefault(_storage(tensor), []).append((place, tensor, Geometry.of(tensor)))
        return place

    def _put_together(self, tensor: Tensor, shared: Sequence[tuple[int, Tensor, Geometry]]) -> None:
        """Make the value of a tensor from those of all that was written to its memory, oldest first."""
        now = self._keep(tensor.detach().clone(), False)
        steps = overlays(Geometry.of(tensor), [geometry for _, _, geometry in shared])
        for (place, _, _), step in zip(shared, steps, strict=True):
            if step is not None:
                base, written = self.tape.values[now], self.tape.values[place]
                if base.dtype != written.dtype:
                    raise UntraceableError("memory is seen as numbers of two kinds")
                refs = (Ref(now), Ref(place))
                now = self._keep(step(base, written), True)
                self.tape.nodes.append(Node(step, refs, {}, (now,), True, tuple(ref.value for ref in refs)))
        if not _same(tensor, self.tape.values[now]):
            raise UntraceableError("a value is changed in place in a way that cannot be followed")
        self._alive.append(tensor)
        self._known[id(tensor)] = now
        self._stored[_storage(tensor)].append((now, tensor, Geometry.of(tensor)))

    @contextmanager
    def _change(self, changed: list[Tensor], recorded: bool) -> Iterator[None]:
        """Copy what is about to be overwritten, and forget what has another value afterwards."""
        touched = {_storage(tensor) for tensor in changed}
        here = [(place, tensor) for storage in touched for place, tensor, _ in self._stored.get(storage, [])]
        for place, tensor in here:
            if self.tape.values[place].untyped_storage().data_ptr() in touched:
                self.tape.values[place] = tensor.detach().clone(memory_format=torch.preserve_format)
        yield
        target = {id(tensor) for tensor in changed}
        for place, tensor in here:
            if self._known.get(id(tensor)) != place:
                continue
            if id(tensor) in target or not _same(tensor, self.tape.values[place]):
                del self._known[id(tensor)]
        for storage in touched:
            if not recorded:  # constants all of them: the next use keeps the new value
                self._stored[storage] = [entry for entry in self._stored.get(storage, []) if self._depends[entry[0]]]


def _storage(tensor: Tensor) -> int:
    """What tells one piece of memory from another; empty tensors are all different."""
    return tensor.untyped_storage().data_ptr() or -id(tensor)


def _same(tensor: Tensor, kept: Tensor) -> bool:
    return tensor.shape == kept.shape and bool(((tensor == kept) | ((tensor != tensor) & (kept != kept))).all())


def _gives_tensors(kind: Any) -> bool:
    return "Tensor" in str(kind)
