"""The loss of a module as a black box that runs again only what a coordinate touches."""

import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn

from zograd._probes import Coordinates, Probes
from zograd._typing import Points, Values, Vector
from zograd.blackbox._blackbox import BlackBox, Share
from zograd.blackbox._module import ModuleLoss, ModuleState
from zograd.blackbox.graph import Narrow, Replay, Tape, UntraceableError, Work, record, stacked

STACKED_ELEMENTS = {"cpu": 2**19, "cuda": 2**28}
"""Elements that stacked rows write in one call, at most: a CPU gains nothing beyond what hides the calls' overhead."""

NARROW_ELEMENTS = 2**17
"""Elements that a row writes, from which on it pays to follow one channel instead of stacking rows."""

NOISY_LOSSES = 4
"""Losses at one place that tell the noise of a module which never gives the same twice."""

SHARES = 64
"""Into how many parts of equal cost the rows are divided: some for every worker where there are a dozen."""

PAIRS = 2**32
"""More than there are channels of a parameter, or pairs of an input and an output channel."""

_trusted: weakref.WeakKeyDictionary[nn.Module, set[tuple[str, ...]]] = weakref.WeakKeyDictionary()
"""The sequences of operations that were found to be all that a module does."""


@final
class TracedLoss(BlackBox):
    r"""The loss of a module for one batch, with every feature reused that a moved coordinate does not reach.

    The forward pass is recorded once, as the operations that it is made of. A row of `Coordinates` then runs only the
    operations between the parameter that it moves and the loss, from recorded values; rows of one parameter are stacked
    in one call where that pays. With w_i in layer l of L equal ones, a row costs (L - l) / L of a forward pass.

    Any other probe, and any module of which no tape can be made, is evaluated as by `ModuleLoss`; `reason` says why.
    Dropout keeps its masks, and BatchNorm uses the batch's statistics or the running ones, as the module would.

    Args:
        plain: The loss as it is, and the parameters to move. Hooks and Python code run once, when the tape is made.
        relative: Whether a row of `Coordinates` is the *difference* from the loss at the centre, found by pushing
            differences through the network: no estimator can tell, and rounding is that of the difference, so that
            steps may be a hundred times shorter in float32, and bfloat16 works.

    Attributes:
        tape: The recorded pass, or None.
        reason: Why there is none, for a person.
        center: The parameters at construction, shape (d,).
        after: The state that the recorded pass left the module in, where there is a tape; it is undone.
    """

    after: ModuleState

    def __init__(self, plain: ModuleLoss, relative: bool = False) -> None:
        self.plain = plain
        self.center = plain.center
        self.relative = relative
        self.reason = ""
        self.tape: Tape | None = None
        before = ModuleState(plain.model)
        try:
            self.tape, _ = record(plain.from_start, plain.parameters)
            self.after = ModuleState(plain.model)
            before.restore()
            if not self._agrees(self.tape):
                self.tape = None
                self.reason = "the recorded operations do not give the module's loss at other parameters"
        except UntraceableError as error:
            self.reason = str(error)
        except Exception as error:  # the module's own: it will be met again, where it counts
            self.reason = f"the module raised {type(error).__name__}: {error}"
            self.tape = None
        finally:
            before.restore()
        self._replay = None if self.tape is None else Replay(self.tape)
        sizes = (parameter.numel() for parameter in plain.parameters)
        self._starts = list(itertools.accumulate(sizes, initial=0))[:-1]
        self._ways: dict[int, _Way] = {}

    def __repr__(self) -> str:
        how = "plain" if self.tape is None else f"{len(self.tape.nodes)} operations"
        return f"TracedLoss({type(self.plain.model).__name__}, {len(self.center)} parameters, {how})"

    @property
    def rows_per_call(self) -> int | None:  # type: ignore[override]
        """As many rows as there are where features are reused, one where not."""
        return 1 if self.tape is None else None

    def pieces(self, vector: Vector) -> list[Tensor]:
        """A flat vector as one piece a parameter, in its shape."""
        return self.plain.pieces(vector)

    def __call__(self, points: Points) -> Values:
        """The losses with each row of ``points`` as the parameters, shape (n,)."""
        return self.plain(points)

    def probe(self, probes: Probes) -> Values:
        """The losses; relative to the centre's if so constructed, for `Coordinates` around `center`."""
        if self._replay is None or not isinstance(probes.offsets, Coordinates) or not self._reuses(probes):
            return self.plain.probe(probes)
        return self._coordinates(probes.offsets, self._replay)

    def arranged(self, probes: Probes) -> tuple[Probes, Tensor]:
        """The same rows with those side by side that may be stacked in one call, and the order that they are in now."""
        if not isinstance(probes.offsets, Coordinates) or not self._reuses(probes):
            return probes, torch.arange(len(probes))
        order = self._kinds(probes.offsets).argsort(stable=True)
        index, step = probes.offsets.index, probes.offsets.step
        return replace(probes, offsets=Coordinates(index[order], step[order])), order

    def shares(self, probes: Probes) -> list[Share]:
        """At most about `SHARES` of equal predicted cost, of whole calls; best for `arranged` probes."""
        if self._replay is None or not isinstance(probes.offsets, Coordinates) or not self._reuses(probes):
            return []
        kinds, counts = torch.unique_consecutive(self._kinds(probes.offsets), return_counts=True)
        calls: list[Share] = []
        at = 0
        for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True):
            way = self._way(kind // PAIRS, self._replay)
            for start in range(at, at + count, way.at_once):
                rows = range(start, min(start + way.at_once, at + count))
                calls.append(Share(rows, way.work.call + len(rows) * way.work.row))
            at += count
        return _together(calls, sum(call.cost for call in calls) / SHARES)

    def _reuses(self, probes: Probes) -> bool:
        around = probes.center.data_ptr() == self.center.data_ptr()
        return self._replay is not None and probes.quantity == "value" and around

    @torch.no_grad()
    def _coordinates(self, offsets: Coordinates, replay: Replay) -> Values:
        found = self.center.new_zeros(len(offsets))
        kinds = self._kinds(offsets)
        order = kinds.argsort(stable=True)
        kinds, counts = torch.unique_consecutive(kinds[order], return_counts=True)
        for kind, mine in zip(kinds.tolist(), torch.split(order, counts.tolist()), strict=True):
            index, step = offsets.index[mine], offsets.step[mine]
            found[mine] = self._moved(replay, kind, index - self._starts[kind // PAIRS], step).to(found)
        return found

    def _kinds(self, offsets: Coordinates) -> Tensor:
        """A number for each row: rows of one kind may be stacked, those of one parameter or of one of its channels."""
        starts = torch.tensor(self._starts, device=offsets.index.device)
        which = torch.bucketize(offsets.index.contiguous(), starts, right=True) - 1
        kinds = which * PAIRS
        if self._replay is not None:
            for at in set(which.tolist()):
                way = self._way(at, self._replay)
                if way.each:
                    mine = which == at
                    kinds[mine] += (offsets.index[mine] - self._starts[at]) // way.each
        return kinds

    def _way(self, which: int, replay: Replay) -> "_Way":
        """How the rows of a parameter are evaluated."""
        if which not in self._ways:
            place = replay.tape.parameters[which]
            base, elements = replay.tape.values[place], replay.elements(place)
            at_once = max(1, STACKED_ELEMENTS.get(base.device.type, STACKED_ELEMENTS["cpu"]) // max(1, elements))
            narrow = self.relative and elements >= NARROW_ELEMENTS and replay.takes_one_channel(place)
            # Rows of one output channel, and of one input channel where there is one.
            each = (base[0, 0].numel() if base.ndim > 2 else base[0].numel()) if narrow else 0
            self._ways[which] = _Way(place, at_once, each, replay.work(place, narrow))
        return self._ways[which]

    def _moved(self, replay: Replay, kind: int, index: Tensor, step: Tensor) -> Tensor:
        """The losses with one entry of one parameter moved, for rows of one kind."""
        which, pair = divmod(kind, PAIRS)
        way = self._way(which, replay)
        base = replay.tape.values[way.place]
        rows = torch.stack([index.to(base.device).double(), step.to(base).double()], 1)
        if not way.each:
            return stacked(lambda row: self._one(replay, way.place, _moved_entry(base, row)), rows, way.at_once)
        at, inner = divmod(pair, base.shape[1]) if base.ndim > 2 else (pair, None)
        entries = base[at : at + 1, :1] if base.ndim > 2 else base[at : at + 1]
        rows[:, 0] -= pair * way.each

        def one(row: Tensor) -> Tensor:
            return self._one(replay, way.place, Narrow(_moved_entry(entries, row), 0, at, inner))

        return stacked(one, rows, way.at_once)

    def _one(self, replay: Replay, place: int, offset: Tensor | Narrow) -> Tensor:
        """The loss, or its difference, with an offset added to a parameter."""
        if self.relative:
            loss = replay.difference({place: offset})
        elif isinstance(offset, Tensor):
            loss = replay.value({place: replay.tape.values[place] + offset})
        return loss.reshape(()).to(self.center.dtype)

    @torch.no_grad()
    def _agrees(self, tape: Tape) -> bool:
        """Whether tape and module give one loss when all parameters move a little: two forward passes, once."""
        operations = tuple(node.name for node in tape.nodes)
        trusted = _trusted.setdefault(self.plain.model, set())
        if operations not in trusted and self._is_faithful(tape):
            trusted.add(operations)
        return operations in trusted

    def _is_faithful(self, tape: Tape) -> bool:
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(2, (len(self.center),), generator=generator).to(self.center).mul_(2).sub_(1)
        by = 1e-2 * signs * self.center.abs().clamp(min=1e-2)
        moved = {
            place: tape.values[place] + piece.to(tape.values[place])
            for place, piece in zip(tape.parameters, self.plain.pieces(by), strict=True)
        }
        told = float(Replay(tape).value(moved))
        real = float(self.plain((self.center + by)[None])[0])
        base = float(tape.values[tape.result])
        rounding = 100 * torch.finfo(tape.values[tape.result].dtype).eps * abs(base)
        if abs(told - real) <= 0.01 * abs(real - base) + rounding:
            return True
        return _is_noise(told, real, lambda: float(self.plain((self.center + by)[None])[0]))


def _is_noise(told: float, real: float, again: Callable[[], float]) -> bool:
    """Whether no more is between two losses than what a part with noise of its own puts there each time."""
    seen = [real, again()]
    if seen[0] == seen[1]:
        return False
    seen += [again() for _ in range(NOISY_LOSSES - 2)]
    return abs(told - real) <= 10 * float(torch.tensor(seen).double().std())


@final
@dataclass(frozen=True, slots=True)
class _Way:
    """How the rows of a parameter are evaluated.

    Args:
        place: Of the parameter on the tape.
        at_once: Rows in one call.
        each: Entries of a channel that rows of one call have in common, or 0.
        work: What a call costs.
    """

    place: int
    at_once: int
    each: int
    work: Work


def _together(calls: list[Share], most: float) -> list[Share]:
    """Calls in the order given, as many in a share as cost ``most``."""
    shares: list[Share] = []
    for call in calls:
        last = shares[-1] if shares else None
        if last is not None and last.cost + call.cost <= most:
            shares[-1] = Share(range(last.rows.start, call.rows.stop), last.cost + call.cost)
        else:
            shares.append(call)
    return shares


def _moved_entry(base: Tensor, row: Tensor) -> Tensor:
    """Zeros of the shape of ``base``, but for the step row[1] at the flat index row[0]."""
    entries = torch.arange(base.numel(), device=base.device)
    return torch.where(entries == row[0].long(), row[1].to(base.dtype), base.new_zeros(())).view(base.shape)
