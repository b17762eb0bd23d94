"""The loss of a module as a black box that runs again only what a coordinate touches."""

import weakref
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from zograd._probes import Coordinates, Probes
from zograd._typing import Points, Values, Vector
from zograd.blackbox._blackbox import BlackBox
from zograd.blackbox._module import ModuleLoss, ModuleState
from zograd.blackbox.graph import Narrow, Replay, Tape, UntraceableError, record, stacked

STACKED_ELEMENTS = {"cpu": 2**19, "cuda": 2**28}
"""Elements that stacked rows write in one call, at most: a CPU gains nothing beyond what hides the calls' overhead."""

NARROW_ELEMENTS = 2**17
"""Elements that a row writes, from which on it pays to follow one channel instead of stacking rows."""

NOISY_LOSSES = 4
"""Losses at one place that tell the noise of a module which never gives the same twice."""

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
        around = probes.center.data_ptr() == self.center.data_ptr()
        if self._replay is None or probes.quantity != "value" or not around:
            return self.plain.probe(probes)
        if not isinstance(probes.offsets, Coordinates):
            return self.plain.probe(probes)
        return self._coordinates(probes.offsets, self._replay)

    @torch.no_grad()
    def _coordinates(self, offsets: Coordinates, replay: Replay) -> Values:
        found = self.center.new_zeros(len(offsets))
        start = 0
        for which, parameter in enumerate(self.plain.parameters):
            stop = start + parameter.numel()
            rows = ((offsets.index >= start) & (offsets.index < stop)).nonzero().squeeze(1)
            if len(rows):
                place = replay.tape.parameters[which]
                values = self._moved(replay, place, offsets.index[rows] - start, offsets.step[rows])
                found[rows] = values.to(found)
            start = stop
        return found

    def _moved(self, replay: Replay, place: int, index: Tensor, step: Tensor) -> Tensor:
        """The losses with one entry of one parameter moved."""
        base = replay.tape.values[place]
        index, step = index.to(base.device), step.to(base)
        elements = replay.elements(place)
        at_once = max(1, STACKED_ELEMENTS.get(base.device.type, STACKED_ELEMENTS["cpu"]) // max(1, elements))
        rows = torch.stack([index.double(), step.double()], 1)
        if not self.relative or elements < NARROW_ELEMENTS or not replay.takes_one_channel(place):
            return stacked(lambda row: self._one(replay, place, _moved_entry(base, row)), rows, at_once)
        # Rows of one output channel, and of one input channel where there is one.
        kernel = base.ndim > 2
        each = base[0, 0].numel() if kernel else base[0].numel()
        pair = index // each
        found = step.new_zeros(len(step), dtype=self.center.dtype)
        order = pair.argsort(stable=True)
        _, counts = torch.unique_consecutive(pair[order], return_counts=True)
        for mine in torch.split(order, counts.tolist()):
            key = int(pair[mine[0]])
            at, inner = divmod(key, base.shape[1]) if kernel else (key, None)
            entries = base[at : at + 1, :1] if kernel else base[at : at + 1]
            rows[mine, 0] -= key * each

            def one(row: Tensor, at: int = at, inner: int | None = inner, entries: Tensor = entries) -> Tensor:
                return self._one(replay, place, Narrow(_moved_entry(entries, row), 0, at, inner))

            found[mine] = stacked(one, rows[mine], at_once)
        return found

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


def _moved_entry(base: Tensor, row: Tensor) -> Tensor:
    """Zeros of the shape of ``base``, but for the step row[1] at the flat index row[0]."""
    entries = torch.arange(base.numel(), device=base.device)
    return torch.where(entries == row[0].long(), row[1].to(base.dtype), base.new_zeros(())).view(base.shape)
