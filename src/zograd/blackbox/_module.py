"""The loss of an ``nn.Module`` as a black box over its parameters."""

import bisect
import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from zograd._checks import require
from zograd._probes import Coordinates, Probes
from zograd._typing import Points, Values, Vector
from zograd.blackbox._blackbox import BlackBox


@final
class ModuleState:
    """What a forward pass changes besides its output: buffers, training flags, and torch's random numbers.

    Args:
        model: The module whose present state is kept, by value.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = list(model.modules())
        self._places = [(module, name) for module in self._modules for name, _ in module.named_buffers(recurse=False)]
        held = itertools.chain(model.parameters(), model.buffers())
        self._devices = {tensor.device for tensor in held if tensor.is_cuda}
        self._keep()

    def now(self) -> "ModuleState":
        """The state of the same modules at present, without looking for them again."""
        state = copy.copy(self)
        state._keep()
        return state

    def restore(self) -> None:
        """Make everything as it was, bit for bit."""
        for module, training in self._flags:
            if module.training != training:
                module.training = training
        for (module, name), buffer, saved in self._buffers:
            if getattr(module, name) is not buffer:
                setattr(module, name, buffer)
            # .data, here and below: a graph that somebody else holds sees no change, for there is none in the end.
            buffer.data.copy_(saved)
        self.restore_random()

    def restore_random(self) -> None:
        """Draw the same random numbers again, and leave the rest."""
        torch.set_rng_state(self._random)
        for device, state in self._random_on:
            torch.cuda.set_rng_state(state, device)

    @property
    def random(self) -> tuple[Tensor, list[tuple[torch.device, Tensor]]]:
        """The state of torch's random numbers, on the CPU and on each device of the module."""
        return self._random, self._random_on

    def _keep(self) -> None:
        self._flags = [(module, module.training) for module in self._modules]
        buffers = [(place, getattr(*place)) for place in self._places]
        self._buffers = [(place, buffer, buffer.detach().clone()) for place, buffer in buffers]
        self._random = torch.get_rng_state()
        self._random_on = [(device, torch.cuda.get_rng_state(device)) for device in self._devices]


@final
class ModuleLoss(BlackBox):
    """The loss of a module for one batch of inputs, as a function of the flat vector of its parameters.

    Each row moves the parameters in place, runs the module, and puts everything back bit for bit, also when the module
    raises: parameters, buffers (such as the running statistics of a BatchNorm), training flags, random numbers. Every
    row starts from the same random state, that of the construction: dropout draws the same mask for all.

    Cost: one forward pass a row. A row of `Coordinates` around `center` moves one entry; any other needs a copy of the
    parameters and of its offset, so that memory is O(d) whatever the number of rows. Directional derivatives are exact,
    by forward-mode AD, one pass each.

    Args:
        model: Any module; it must not keep state outside its buffers from one forward pass to the next.
        loss_fn: The model's output to one number.
        inputs: A tuple is unpacked to positional arguments, a dict to keyword arguments; anything else is one argument.
        parameters: The tensors to move, each once; they keep their values. Fewer than 32 bits do not tell a probe from
            the centre here, see `TracedLoss`.

    Attributes:
        center: The parameters at construction, shape (d,), in the narrowest of their dtypes, float32 at least, so that
            a step that can be told from zero in it moves each of those.
    """

    rows_per_call = 1

    def __init__(
        self, model: nn.Module, loss_fn: Callable[[Any], Any], inputs: Any, parameters: Sequence[Tensor]
    ) -> None:
        self.model = model
        self.loss_fn = loss_fn
        self.inputs = inputs
        self.parameters = list(parameters)
        narrowest = min((p.dtype for p in self.parameters), key=lambda dtype: dtype.itemsize)
        narrowest = torch.promote_types(narrowest, torch.float32)
        like = self.parameters[0].detach().new_empty(0, dtype=narrowest)
        self.center = torch.cat([p.detach().reshape(-1).to(like) for p in self.parameters])
        self._starts = list(itertools.accumulate((p.numel() for p in self.parameters), initial=0))
        self._drawn = ModuleState(model)

    def __repr__(self) -> str:
        return f"ModuleLoss({type(self.model).__name__}, {len(self.center)} parameters)"

    @property
    def random(self) -> tuple[Tensor, list[tuple[torch.device, Tensor]]]:
        """The random state that every row starts from, on the CPU and on each device of the module."""
        return self._drawn.random

    def loss(self) -> Tensor:
        """The loss here and now, a floating tensor of shape (): one forward pass with all that it changes.

        Raises:
            ArgumentError: When it is not one number.
        """
        torch.clear_autocast_cache()  # of parameters that have moved since
        return self.loss_of(self.outputs(self.model))

    def loss_of(self, output: Any) -> Tensor:
        """The loss of an output of the model, a floating tensor of shape ()."""
        loss = self.loss_fn(output)
        torch.clear_autocast_cache()
        if isinstance(loss, int | float):
            return self.center.new_tensor(loss)
        hint = "The loss is what is descended: reduce it, as with .mean()."
        require(isinstance(loss, Tensor) and loss.numel() == 1, "loss_fn", "return one number", loss, hint)
        scalar: Tensor = loss.reshape(())
        return scalar if scalar.is_floating_point() else scalar.to(self.center)

    def from_start(self) -> Tensor:
        """The loss at the parameters, from the random state of the construction; leaves what one forward pass does."""
        self.restart()
        return self.loss()

    def restart(self) -> None:
        """Take the random state of the construction."""
        self._drawn.restore_random()

    def outputs(self, function: Callable[..., Any]) -> Any:
        """What a function or module makes of the inputs, unpacked as the model gets them."""
        if isinstance(self.inputs, tuple):
            return function(*self.inputs)
        return function(**self.inputs) if isinstance(self.inputs, dict) else function(self.inputs)

    def __call__(self, points: Points) -> Values:
        """The losses with each row of ``points`` as the parameters, shape (n,)."""
        here = Coordinates(torch.zeros(1, dtype=torch.long), torch.zeros(1))
        return torch.cat([points.new_empty(0), *(self.probe(Probes(point, here)) for point in points)])

    def probe(self, probes: Probes) -> Values:
        """The losses, or their exact directional derivatives, one row at a time."""
        told = self._derivative if probes.quantity == "derivative" else self._value
        rows = [told(probes[row : row + 1]) for row in range(len(probes))]
        return torch.stack([probes.center.new_zeros(()), *rows])[1:]

    def pieces(self, vector: Vector) -> list[Tensor]:
        """A flat vector as one piece a parameter, in its shape."""
        ends = itertools.pairwise(self._starts)
        return [vector[start:stop].view(p.shape) for p, (start, stop) in zip(self.parameters, ends, strict=True)]

    def which(self, index: int) -> int:
        """The number of the parameter that an entry of the flat vector belongs to."""
        return bisect.bisect_right(self._starts, index) - 1

    def _value(self, probe: Probes) -> Tensor:
        with torch.no_grad(), self.moved(probe), self._undone():
            return self.loss().to(probe.center)

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Run from the random state of the construction, and leave no trace of a forward pass."""
        found = self._drawn.now()
        self._drawn.restore_random()
        try:
            yield
        finally:
            found.restore()

    @contextmanager
    def moved(self, probe: Probes) -> Iterator[None]:
        """The parameters at the one row of ``probe``."""
        around = self.is_around(probe)
        if around and isinstance(probe.offsets, Coordinates):
            moved = [self._entry(int(probe.offsets.index[0]))]
            offset = [probe.offsets.step[0]]
        else:
            moved = [p.data for p in self.parameters]
            offset = self.pieces(probe.offsets.dense(probe.center)[0] if around else probe.points()[0])
        saved = [tensor.clone() for tensor in moved]
        try:
            for tensor, piece in zip(moved, offset, strict=True):
                if around:
                    tensor.add_(piece.to(tensor))
                else:
                    tensor.copy_(piece)
            yield
        finally:
            for tensor, value in zip(moved, saved, strict=True):
                tensor.copy_(value)

    def is_around(self, probe: Probes) -> bool:
        """Whether the probe's centre is `center`, not only equal to it: comparing would cost O(d) a row."""
        return probe.center.data_ptr() == self.center.data_ptr() and len(probe.center) == len(self.center)

    def _entry(self, index: int) -> Tensor:
        """One entry of the flat vector, as a view into its parameter."""
        which = self.which(index)
        entry, index = self.parameters[which].data, index - self._starts[which]
        place: list[int] = []
        for size in reversed(entry.shape):
            index, along = divmod(index, size)
            place.insert(0, along)
        return entry[tuple(place)]

    def _derivative(self, probe: Probes) -> Tensor:
        names = {id(p): f"model.{name}" for name, p in self.model.named_parameters()}
        inside = all(id(p) in names for p in self.parameters)
        hint = "Exact derivatives need a module's own parameters; use RandomGradient for others."
        require(inside, "parameters", "be those of the model", self.parameters, hint)
        require(self.is_around(probe), "probes", "be around the parameters as they are", probe.center, hint)
        tangents = self.pieces(probe.offsets.dense(probe.center)[0])
        with torch.no_grad(), forward_ad.dual_level(), self._undone():
            duals = {
                names[id(p)]: forward_ad.make_dual(p.detach(), tangent.to(p))  # type: ignore[no-untyped-call]
                for p, tangent in zip(self.parameters, tangents, strict=True)
            }
            loss = torch.func.functional_call(_Whole(self), duals, ())
            tangent = forward_ad.unpack_dual(loss).tangent  # type: ignore[no-untyped-call]
            return probe.center.new_zeros(()) if tangent is None else tangent.to(probe.center)


@final
class _Whole(nn.Module):
    """Model and loss in one module, so that a loss that reads the parameters sees them moved too."""

    def __init__(self, box: ModuleLoss) -> None:
        super().__init__()
        self.model = box.model
        self.box = box

    def forward(self) -> Tensor:
        return self.box.loss()
