"""The loss of a chain of stages, as a black box that runs again only the stages that a coordinate reaches."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from zograd._checks import require
from zograd._errors import ArgumentError
from zograd._probes import Coordinates, Probes
from zograd._typing import Points, Values, Vector
from zograd.blackbox._blackbox import BlackBox
from zograd.blackbox._module import ModuleLoss, ModuleState

Stage = Callable[..., Any]
HINT = "Together they are the model: stages[-1](... stages[0](inputs)), as in an nn.Sequential."


def stages_of(model: nn.Module) -> list[Stage] | None:
    """What a plain ``nn.Sequential`` consists of, those within it taken apart too; None for any other module."""
    hooked = model._forward_hooks or model._forward_pre_hooks
    if type(model).forward is not nn.Sequential.forward or hooked:
        return None
    found: list[Stage] = []
    for child in model.children():
        found += stages_of(child) or [child]
    return found


@final
class StagedLoss(BlackBox):
    r"""The loss of a module for one batch, with the stages reused that a moved coordinate does not reach.

    The model is a composition, and stage k's input is kept from one forward pass. A row of `Coordinates` that moves a
    parameter of stage k then runs the stages from k on, and the loss:

    .. math:: \ell(w) = \mathrm{loss}(f_L(\cdots f_k(a_k; w_k) \cdots; w_L)), \qquad a_k \text{ as kept}

    A stage may do anything that a module may: Python, ``if`` on values, ``.item()``, a black box. Each row sees the
    random numbers and buffers that the stage met in a whole pass, so that its value is `ModuleLoss`'s, bit for bit. A
    parameter belongs to the first stage that holds it (as a module) or is seen to use it, and to the first of all where
    none is; a loss that reads it is always run again.

    **Cost**: the stages from the parameter's own on, for each row; four forward passes at construction: one to keep the
    inputs, two to compare with the model, one to see that no stage reads what belongs to a later one. Memory: the
    stages' inputs and the module's buffers, once a stage.

    Args:
        plain: The loss as it is, and the parameters to move.
        stages: Functions or modules whose composition is the model; the first takes the model's inputs.

    Raises:
        ArgumentError: When the stages do not give the model's output, or one reads parameters of a later one.

    Attributes:
        seconds: Wall time of each stage, with the loss as the last.
        owners: For each parameter the stage that it belongs to.
    """

    rows_per_call = 1

    def __init__(self, plain: ModuleLoss, stages: Sequence[Stage]) -> None:
        self.plain = plain
        self.center = plain.center
        self.stages = list(stages)
        require(len(self.stages) > 0, "stages", "hold at least one stage", stages, HINT)
        for stage in self.stages:
            require(callable(stage), "stages", "hold functions or modules", stage, HINT)
        before = ModuleState(plain.model)
        with torch.no_grad():
            try:
                self._keep()
                exact = self._compare(before)
                before.restore()
                if exact:
                    self._see_owners()
            finally:
                before.restore()

    def __repr__(self) -> str:
        return (
            f"StagedLoss({type(self.plain.model).__name__}, {len(self.center)} parameters, {len(self.stages)} stages)"
        )

    def pieces(self, vector: Vector) -> list[Tensor]:
        """A flat vector as one piece a parameter, in its shape."""
        return self.plain.pieces(vector)

    def __call__(self, points: Points) -> Values:
        """The losses with each row of ``points`` as the parameters, shape (n,)."""
        return self.plain(points)

    def probe(self, probes: Probes) -> Values:
        """The losses; whole forward passes but for `Coordinates` around `center`."""
        around = self.plain.is_around(probes)
        if probes.quantity != "value" or not around or not isinstance(probes.offsets, Coordinates):
            return self.plain.probe(probes)
        found = self.center.new_zeros(len(probes))
        with torch.no_grad():
            for row in range(len(probes)):
                which = self.plain.which(int(probes.offsets.index[row]))
                with self.plain.moved(probes[row : row + 1]):
                    found[row] = self._from(self.owners[which])
        return found

    @property
    def nbytes(self) -> int:
        """Memory held by the stages' inputs."""
        kept = (leaf for value in self._inputs[1:] for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))
        return sum(leaf.nbytes for leaf in kept)

    def _keep(self) -> None:
        """One forward pass, stage by stage: every input, the state that it meets, and the parameters that it uses."""
        mine = {id(p): which for which, p in enumerate(self.plain.parameters)}
        owners = [len(self.stages)] * len(mine)
        self._inputs: list[Any] = []
        self._states: list[ModuleState] = []
        self.seconds: list[float] = []
        self.plain.restart()
        value: Any = None
        for at, stage in enumerate(self.stages):
            # A later stage may work in place, also on a view of what an earlier one gave.
            self._inputs.append(_copied(value))
            self._states.append(ModuleState(self.plain.model))
            held = {id(p) for p in stage.parameters()} if isinstance(stage, nn.Module) else set()
            began = time.perf_counter()
            with _Watching(mine) as watching:
                value = self._call(at, value)
            self.seconds.append(time.perf_counter() - began)
            for parameter in (held & mine.keys()) | watching.seen:
                owners[mine[parameter]] = min(owners[mine[parameter]], at)
        self._output = _copied(value)
        began = time.perf_counter()
        with _Watching(mine) as watching:
            self.plain.loss_of(value)
        self.seconds.append(time.perf_counter() - began)
        only_loss = {which for key, which in mine.items() if key in watching.seen}
        last = len(self.stages)
        self.owners = [0 if at == last and which not in only_loss else at for which, at in enumerate(owners)]
        self._inputs.append(self._output)
        self._states.append(ModuleState(self.plain.model))

    def _call(self, at: int, value: Any) -> Any:
        stage = self.stages[at]
        return self.plain.outputs(stage) if at == 0 else stage(value)

    def _from(self, first: int) -> Tensor:
        """The loss from one stage on, with its kept input; no trace is left."""
        state = self._states[first]
        with self._undone(state):
            value = _copied(self._inputs[first])
            for at in range(first, len(self.stages)):
                value = self._call(at, value)
            return self.plain.loss_of(value).to(self.center)

    @contextmanager
    def _undone(self, state: ModuleState) -> Iterator[None]:
        """Run in a kept state, and put back what is there now."""
        found = state.now()
        state.restore()
        try:
            yield
        finally:
            found.restore()

    def _compare(self, before: ModuleState) -> bool:
        """Whether the model gives what its stages gave, bit for bit, as it does a second time.

        A model with noise of its own gives neither: then the stages may be as far from it as ten times that noise.
        """
        given = []
        for _ in range(2):
            before.restore()
            self.plain.restart()
            given.append(_copied(self.plain.outputs(self.plain.model)))
        before.restore()
        (mine, shape), (first, told), (second, _) = (_numbers(value) for value in (self._output, *given))
        same = shape == told and _equal(mine, first)
        scatter = 0.0 if shape != told else float((first - second).norm())
        near = shape == told and scatter > 0 and float((mine - first).norm()) <= 10 * scatter
        found = f"outputs of shapes {shape} and {told}" if shape != told else "other numbers"
        require(same or near, "stages", "give the output of the model, one after the other", found, HINT)
        return same

    def _see_owners(self) -> None:
        """Move what belongs to later stages while each stage runs: its output must not change."""
        for at in range(len(self.stages)):
            later = [p for p, owner in zip(self.plain.parameters, self.owners, strict=True) if owner > at]
            if not later:
                continue
            saved = [p.data.clone() for p in later]
            with self._undone(self._states[at]):
                try:
                    for p in later:
                        p.data.mul_(1.25).add_(0.125)
                    found = self._call(at, _copied(self._inputs[at]))
                finally:
                    for p, value in zip(later, saved, strict=True):
                        p.data.copy_(value)
            same = _equal(_numbers(found)[0], _numbers(self._inputs[at + 1])[0])
            hint = "Make it a module that holds them, or let it use them as torch tensors."
            require(same, "stages", "use parameters that they can be seen to use", f"stage {at}", hint)


def own_stages(plain: ModuleLoss) -> StagedLoss | None:
    """The loss in the stages of an ``nn.Sequential``; None for other modules, and where it is more than its parts."""
    stages = stages_of(plain.model)
    try:
        return None if not stages else StagedLoss(plain, stages)
    except ArgumentError:
        return None


@final
class _Watching(TorchFunctionMode):
    """Which parameters torch functions are given."""

    def __init__(self, parameters: dict[int, int]) -> None:
        super().__init__()
        self._parameters = parameters
        self.seen: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = pytree.tree_leaves((args, kwargs or {}))
        self.seen.update(id(leaf) for leaf in leaves if id(leaf) in self._parameters)
        return func(*args, **(kwargs or {}))


def _copied(value: Any) -> Any:
    """The same structure, with its tensors copied."""
    return pytree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, value)


def _numbers(value: Any) -> tuple[Tensor, tuple[Any, ...]]:
    """All tensors of a structure in one vector of 64 bits, and their shapes."""
    leaves = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    flat = [leaf.reshape(-1).double() for leaf in leaves]
    return torch.cat(flat) if flat else torch.zeros(0).double(), tuple(tuple(leaf.shape) for leaf in leaves)


def _equal(first: Tensor, second: Tensor) -> bool:
    """Bit for bit, but that NaN is NaN."""
    return first.shape == second.shape and bool(((first == second) | (first.isnan() & second.isnan())).all())
