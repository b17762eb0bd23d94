"""A network taken apart for a journey: its structure in pickled form, and the memory that its tensors lie in."""

import io
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple, final

import cloudpickle
import torch
from torch import Tensor, nn

from zograd._errors import ArgumentError
from zograd.blackbox import ModuleLoss

ALIGNMENT = 64
"""Bytes: what a tensor's place in its slot is a multiple of, as torch's own memory is."""

HINTS = {
    "model": "Wrap a part that holds files, locks or devices so that it opens them itself, when it is first called.",
    "loss_fn": "Close over tensors and plain data only.",
    "inputs": "Pass tensors and plain data.",
}


@final
class View(NamedTuple):
    """A tensor as a view of a slot.

    Args:
        slot: Which.
        start: Its first element there, counted in elements of its dtype.
        size: Its shape.
        stride: Its strides.
        dtype: Its dtype.
        device: Its device.
        parameter: Whether it is an `nn.Parameter`.
        requires_grad: Whether it requires a gradient.
        bytes: The size of the slot.
    """

    slot: int
    start: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: str
    parameter: bool
    requires_grad: bool
    bytes: int

    def of(self, memory: Tensor) -> Tensor:
        """The tensor, in the memory of its slot."""
        tensor = torch.empty(0, dtype=self.dtype, device=memory.device)
        tensor.set_(memory.untyped_storage(), self.start, self.size, self.stride)
        if self.parameter:
            return nn.Parameter(tensor, requires_grad=self.requires_grad)
        return tensor.requires_grad_(self.requires_grad)


@final
class Apart(NamedTuple):
    """A module's loss, taken apart. What shares memory still does when it is put together.

    Args:
        model: The pickled module, without its tensors.
        call: The pickled loss function, inputs, parameters, random state and settings, without tensors and modules.
        views: Every tensor, those of the model first.
        held: How many of them are the model's.
        slots: The memory that they lie in, as bytes; not copied.
    """

    model: bytes
    call: bytes
    views: tuple[View, ...]
    held: int
    slots: list[Tensor]


def taken_apart(loss: ModuleLoss) -> Apart:
    """A module's loss as it is now.

    Raises:
        ArgumentError: When something in it cannot be pickled.
    """
    tensors: list[Tensor] = []
    known: dict[int, tuple[str, int]] = {}
    model = _pickled("model", loss.model, tensors, known)
    held = len(tensors)
    known |= {id(module): ("module", at) for at, module in enumerate(loss.model.modules())}
    parts = [
        _pickled("loss_fn", loss.loss_fn, tensors, known),
        _pickled("inputs", loss.inputs, tensors, known),
        _pickled("parameters", (loss.parameters, loss.random, Settings.here()), tensors, known),
    ]
    views, slots = _laid_out(tensors)
    return Apart(model, pickle.dumps(parts), views, held, slots)


def put_together(pickled: bytes, tensors: Sequence[Tensor], modules: Sequence[nn.Module]) -> Any:
    """What was pickled, with these tensors and modules in it."""
    unpickler = pickle.Unpickler(io.BytesIO(pickled))
    kinds: dict[str, Any] = {"tensor": tensors.__getitem__, "module": modules.__getitem__, "import": import_module}
    unpickler.persistent_load = lambda name: kinds[name[0]](name[1])  # type: ignore[method-assign]
    return unpickler.load()


@final
class Settings(NamedTuple):
    """What of torch's global settings decides about values.

    Args:
        dtype: Of new tensors.
        precision: Of products in 32 bits.
        autocast: For each kind of device, the dtype that it casts to, or None where it is off.
    """

    dtype: torch.dtype
    precision: str
    autocast: dict[str, torch.dtype | None]

    @classmethod
    def here(cls) -> "Settings":
        """Those of this process."""
        casts = {
            kind: torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
            for kind in ("cpu", "cuda")
        }
        return cls(torch.get_default_dtype(), torch.get_float32_matmul_precision(), casts)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """These, for a while."""
        before = Settings.here()
        try:
            with ExitStack() as stack:
                for kind, dtype in self.autocast.items():
                    if dtype is not None:
                        stack.enter_context(torch.autocast(kind, dtype))
                self._set()
                yield
        finally:
            before._set()

    def _set(self) -> None:
        torch.set_default_dtype(self.dtype)
        torch.set_float32_matmul_precision(self.precision)


@final
class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Leaves out tensors, which become known by number, and whatever is known already."""

    def __init__(self, file: io.BytesIO, tensors: list[Tensor], known: dict[int, tuple[str, int]]) -> None:
        super().__init__(file)
        self.tensors, self.names = tensors, known

    def persistent_id(self, thing: Any) -> tuple[str, int | str] | None:
        """The name of what is left out."""
        if isinstance(thing, ModuleType):  # such as torch.classes, of a kind that cloudpickle does not know
            known = type(thing) is ModuleType or sys.modules.get(thing.__name__) is not thing
            return None if known else ("import", thing.__name__)
        if id(thing) in self.names and isinstance(thing, Tensor | nn.Module):
            return self.names[id(thing)]
        plain = type(thing) in (Tensor, nn.Parameter) and thing.layout == torch.strided and not thing.is_quantized
        if not plain or thing.device.type == "meta" or thing.is_conj() or thing.is_neg():
            return None
        self.names[id(thing)] = ("tensor", len(self.tensors))
        self.tensors.append(thing)
        return self.names[id(thing)]


def _pickled(what: str, thing: Any, tensors: list[Tensor], known: dict[int, tuple[str, int]]) -> bytes:
    file = io.BytesIO()
    try:
        _Pickler(file, tensors, known).dump(thing)
    except Exception as error:
        raise ArgumentError(
            f"`{what}` must be something that can be sent to another process, found that it cannot be pickled "
            f"({type(error).__name__}: {error}). {HINTS.get(what, '')}".rstrip(),
            argument=what,
            found=thing,
        ) from error
    return file.getvalue()


def _laid_out(tensors: Sequence[Tensor]) -> tuple[tuple[View, ...], list[Tensor]]:
    """Tensors as views of the parts of memory that they cover: those that overlap have one part in common."""
    spans: dict[tuple[str, int], list[tuple[int, int, int]]] = {}
    for at, tensor in enumerate(tensors):
        span = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        start = int(tensor.storage_offset()) * tensor.element_size()
        stop = start + (int(span) * tensor.element_size() if tensor.numel() else 0)
        start -= start % ALIGNMENT if tensor.numel() else 0
        # Those that are empty have no memory in common, whatever their storage says.
        place = tensor.untyped_storage().data_ptr() if tensor.numel() else -1 - at
        spans.setdefault((str(tensor.device), place), []).append((start, stop, at))
    found: list[tuple[int, int, list[int]]] = []
    for covered in spans.values():
        merged: list[tuple[int, int, list[int]]] = []
        for start, stop, at in sorted(covered):
            if merged and start < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(stop, merged[-1][1]), [*merged[-1][2], at])
            else:
                merged.append((start, stop, [at]))
        found += merged
    found.sort(key=lambda part: min(part[2]))
    views: dict[int, View] = {}
    slots: list[Tensor] = []
    for number, (start, stop, members) in enumerate(found):
        first = tensors[members[0]]
        memory = torch.empty(0, dtype=torch.uint8, device=first.device)
        slots.append(memory.set_(first.untyped_storage(), start, (stop - start,), (1,)))
        for at in members:
            views[at] = _view(tensors[at], number, start, stop - start)
    return tuple(views[at] for at in range(len(tensors))), slots


def _view(tensor: Tensor, slot: int, start: int, size: int) -> View:
    first = int(tensor.storage_offset()) - start // tensor.element_size()
    parameter = type(tensor) is nn.Parameter
    shape, stride, device = tuple(tensor.shape), tuple(tensor.stride()), str(tensor.device)
    return View(slot, first, shape, stride, tensor.dtype, device, parameter, tensor.requires_grad, size)
