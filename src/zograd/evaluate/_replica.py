"""A network in a worker, kept from one step to the next: what has changed travels, and nothing else."""

import hashlib
import pickle
import uuid
from collections.abc import Collection
from typing import Any, NamedTuple, TypeAlias, final

import numpy as np
import torch
from torch import Tensor, nn

from zograd._errors import EvaluationError
from zograd._probes import Coordinates, Dense, Offsets, Probes, Quantity, Seeded
from zograd.blackbox import ModuleLoss, TracedLoss
from zograd.evaluate._apart import Apart, Settings, View, put_together, taken_apart
from zograd.evaluate._parcel import Parcel

INDEX_BYTES = 4
"""Of the place of what has changed."""

Network: TypeAlias = ModuleLoss | TracedLoss


@final
class Delta(NamedTuple):
    """The memory of a slot where it has changed, in whole elements.

    Args:
        places: Which elements.
        values: What they are now, as integers of their size.
    """

    places: np.ndarray
    values: np.ndarray


@final
class Change(NamedTuple):
    """From one version of a network to the next, or to a version from nothing.

    Args:
        session: Which network.
        version: Which version this makes.
        base: The version that is changed; -1 for none.
        model: The pickled model, or None as before.
        call: The pickled loss function, inputs and all else, or None as before.
        views: Every tensor, or None as before.
        held: How many of them are the model's.
        slots: The memory that has changed, whole or in part.
        reuse: Whether features are reused, and whether differences are pushed through; None for neither.
    """

    session: str
    version: int
    base: int
    model: bytes | None
    call: bytes | None
    views: tuple[View, ...] | None
    held: int
    slots: dict[int, np.ndarray | Delta]
    reuse: bool | None


def key_of(session: str, version: int) -> str:
    """What a version is known by."""
    return f"{session}:{version}"


@final
class Original:
    """What workers have been told of one network."""

    def __init__(self) -> None:
        self.session = uuid.uuid4().hex
        self.version = -1
        self._told: Apart | None = None
        self._memory: list[np.ndarray] = []

    def parcel(self, network: Network) -> "NetworkParcel":
        """The network as it is now.

        Raises:
            ArgumentError: When something in it cannot be pickled.
        """
        plain = network.plain if isinstance(network, TracedLoss) else network
        now, told = taken_apart(plain), self._told
        slots = self._changed(now)
        self._told = now._replace(slots=[])
        self.version += 1
        reuse = network.relative if isinstance(network, TracedLoss) else None
        base = self.version - 1
        change = Change(self.session, self.version, base, now.model, now.call, now.views, now.held, slots, reuse)
        whole = change._replace(base=-1, slots=dict(enumerate(self._memory)))
        if told is not None:
            change = change._replace(
                model=None if told.model == now.model else now.model,
                call=None if told.call == now.call else now.call,
                views=None if told.views == now.views else now.views,
            )
        return NetworkParcel(network, change, whole)

    def _changed(self, now: Apart) -> dict[int, np.ndarray | Delta]:
        """The slots that are not as they were; they are taken over."""
        found: dict[int, np.ndarray | Delta] = {}
        least: dict[int, int] = {}
        for view in now.views:
            least[view.slot] = min(least.get(view.slot, 8), view.dtype.itemsize)
        del self._memory[len(now.slots) :]
        for number, slot in enumerate(now.slots):
            new = slot.cpu().numpy()
            if number >= len(self._memory) or len(self._memory[number]) != len(new):
                found[number] = kept = new.copy()
                self._memory[number : number + 1] = [kept]
                continue
            width = np.gcd(len(new), least[number])
            old, new = (array.view(f"i{width}") for array in (self._memory[number], new))
            index = np.flatnonzero(old != new)
            if not len(index):
                continue
            if len(index) * (INDEX_BYTES + width) < len(new) * width and len(new) < 2**31:
                found[number] = Delta(index.astype(np.int32), new[index])
                old[index] = new[index]
            else:
                found[number] = self._memory[number] = new.copy().view(np.uint8)
        return found


@final
class NetworkParcel(Parcel):
    """One version of a network as it travels.

    Args:
        blackbox: The network.
        change: From the version before.
        whole: From nothing.
    """

    versioned = True

    def __init__(self, blackbox: Network, change: Change, whole: Change) -> None:
        self.blackbox = blackbox
        self.key = key_of(change.session, change.version)
        self.before = key_of(change.session, change.base)
        self._change, self._whole = change, whole
        self._pickled: dict[bool, bytes] = {}

    def message(self, known: Collection[str]) -> bytes:
        """What has changed, for those who know the version before; else all of it."""
        is_whole = self.before not in known
        if is_whole not in self._pickled:
            self._pickled[is_whole] = pickle.dumps(self._whole if is_whole else self._change)
        return self._pickled[is_whole]

    def points(self, probes: Any) -> Any:
        """The probes without their centre: the replica has it."""
        return Around.of(probes) if isinstance(probes, Probes) else probes


@final
class Around(NamedTuple):
    """Probes around the parameters of a replica.

    Args:
        kind: Of the offsets.
        parts: What they are made of.
        quantity: What is asked.
    """

    kind: str
    parts: tuple[Any, ...]
    quantity: Quantity

    @classmethod
    def of(cls, probes: Probes) -> "Around":
        """Of these probes, as small as they can be had."""
        # A slice would be pickled with all that it was cut from.
        offsets, quantity = probes.offsets, probes.quantity
        if isinstance(offsets, Coordinates):
            step = offsets.step.cpu().numpy().copy()
            return cls("coordinates", (*_runs(offsets.index.cpu().numpy()), step), quantity)
        if isinstance(offsets, Seeded):
            return cls("seeded", (offsets.seed.clone(), offsets.scale.clone(), offsets.distribution), quantity)
        if isinstance(offsets, Dense):
            return cls("dense", (offsets.rows.cpu().clone(),), quantity)
        return cls("other", (offsets,), quantity)

    def __len__(self) -> int:
        return len(self._offsets("cpu"))

    def probes(self, center: Tensor) -> Probes:
        """Around this centre, which is not copied."""
        return Probes(center, self._offsets(center.device), self.quantity)

    def _offsets(self, device: Any) -> Offsets:
        if self.kind == "coordinates":
            starts, lengths = (part.astype(np.int64) for part in self.parts[:2])
            before = np.repeat(np.cumsum(lengths) - lengths, lengths)
            index = np.repeat(starts, lengths) + np.arange(lengths.sum()) - before
            return Coordinates(*(torch.from_numpy(part).to(device) for part in (index, self.parts[2])))
        if self.kind == "seeded":
            return Seeded(*self.parts)
        offsets: Offsets = Dense(self.parts[0].to(device)) if self.kind == "dense" else self.parts[0]
        return offsets


def _runs(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranges of consecutive indices: where each starts, and its length."""
    breaks = np.flatnonzero(np.diff(index) != 1) + 1
    starts = index[np.concatenate([[0], breaks])] if len(index) else index
    lengths = np.diff(np.concatenate([[0], breaks, [len(index)]])) if len(index) else index
    narrow = np.int32 if not len(index) or index.max() < 2**31 else np.int64
    shortest = np.uint8 if not len(lengths) or lengths.max() < 2**8 else np.int32
    return starts.astype(narrow), lengths.astype(shortest)


@final
class Replica:
    """A network in a worker."""

    loss: Network
    settings: Settings

    def __init__(self) -> None:
        self._memory: dict[int, Tensor] = {}
        self._views: tuple[View, ...] = ()
        self._tensors: list[Tensor] = []
        self._modules: list[nn.Module] = []
        self._pickled: list[bytes] = [b"", b""]
        self._call: list[Any] = []

    @torch.no_grad()
    def apply(self, change: Change) -> None:
        """Become the next version.

        Raises:
            EvaluationError: When features are to be reused, and cannot be here.
        """
        views = self._views if change.views is None else change.views
        kept = self._remembered(change, views)
        pickled = [old if new is None else new for old, new in zip(self._pickled, change[3:5], strict=True)]
        same = kept >= change.held and pickled[0] == self._pickled[0]
        if not same:
            model: nn.Module = put_together(pickled[0], self._tensors, [])
            self._modules = list(model.modules())
        if not same or kept < len(views) or pickled[1] != self._pickled[1]:
            parts = pickle.loads(pickled[1])
            self._call = [put_together(part, self._tensors, self._modules) for part in parts]
        self._pickled = pickled
        loss_fn, inputs, (parameters, (random, random_on), self.settings) = self._call
        torch.set_rng_state(random)
        for device, state in random_on:
            torch.cuda.set_rng_state(state, device)
        with self.settings.applied():
            plain = ModuleLoss(self._modules[0], loss_fn, inputs, parameters)
            self.loss = plain if change.reuse is None else TracedLoss(plain, relative=change.reuse)
        if isinstance(self.loss, TracedLoss) and self.loss.tape is None:
            raise EvaluationError(f"the model cannot be recorded in a worker, but could be here: {self.loss.reason}.")

    def _remembered(self, change: Change, views: tuple[View, ...]) -> int:
        """Take over memory and views; return how many of the first tensors are the objects that they were."""
        fresh = set()
        devices = {view.slot: (view.device, view.bytes) for view in views}
        for number, (device, size) in devices.items():
            memory = self._memory.get(number)
            if memory is None or len(memory) != size or str(memory.device) != device:
                self._memory[number] = torch.empty(size, dtype=torch.uint8, device=device)
                fresh.add(number)
        for number in set(self._memory) - set(devices):
            del self._memory[number]
        for number, new in change.slots.items():
            memory = self._memory[number]
            if isinstance(new, Delta):
                values = torch.from_numpy(new.values).to(memory.device)
                memory.view(values.dtype)[torch.from_numpy(new.places).long().to(memory.device)] = values
            else:
                memory.copy_(torch.from_numpy(new))
        same = [old == new and new.slot not in fresh for old, new in zip(self._views, views, strict=False)]
        kept = same.index(False) if False in same else len(same)
        self._tensors = [*self._tensors[:kept], *(view.of(self._memory[view.slot]) for view in views[kept:])]
        self._views = views
        return kept


def digest(network: Network) -> bytes:
    """Of all tensors that a network's loss depends on: parameters, buffers, inputs, random state.

    Raises:
        ArgumentError: When something in it cannot be pickled.
    """
    found = hashlib.blake2b(digest_size=16)
    for slot in taken_apart(network.plain if isinstance(network, TracedLoss) else network).slots:
        found.update(slot.cpu().numpy().tobytes())
    return found.digest()
