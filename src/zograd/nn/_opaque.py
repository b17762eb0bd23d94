"""A black box inside a network, and what may be assumed of it."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zograd._checks import count, instance, one_of, positive, require
from zograd._colours import colours
from zograd.blackbox.graph import recorder
from zograd.nn._call import Call, Inquiry, Sensitivity
from zograd.nn._noise import step_along
from zograd.nn._pointwise import difference
from zograd.nn._unknown import probed, unknown

Structure = Literal["elementwise", "local", "linear", "sparse", "samplewise"]

MOST_ROWS = 1024


@final
class Operation:
    """What a node of an `Opaque` module calls.

    Args:
        owner: The module; it says how to ask.
    """

    name = "opaque"

    def __init__(self, owner: "Opaque") -> None:
        self.owner = owner

    def __call__(self, x: Tensor, *parameters: Tensor) -> Tensor:
        """The function at ``x``, with other values of its parameters if there are any; without a graph."""
        with torch.no_grad():
            return self._called(x.detach(), *(parameter.detach() for parameter in parameters))

    def _called(self, x: Tensor, *parameters: Tensor) -> Tensor:
        function = self.owner.function
        if not parameters or not isinstance(function, nn.Module):
            return self.owner.checked(function(x))
        names = [name for name, _ in function.named_parameters()]
        return self.owner.checked(torch.func.functional_call(function, dict(zip(names, parameters, strict=True)), x))


@final
class Opaque(nn.Module):
    r"""A part of a network of which nothing is known but its values: a simulator, hardware, a web service, NumPy.

    `zograd.nn.backward` then asks this part alone, as little as its structure allows, and goes on with what it learnt:

    .. math:: s_x = \sum_j \frac{f_j(x + h e_i) - f_j(x - h e_i)}{2 h}\, s_{y_j}

    **Cost**: calls of the function, on as many rows as the batch has, for each gradient: 2 where ``"elementwise"``;
    ``2 c (2 r + 1)^2`` where ``"local"`` (c channels, reach r); the number of inputs over the batch size where
    ``"linear"``; twice the number of inputs of one sample where ``"samplewise"``, of groups of inputs without a common
    output where ``"sparse"``; for parameters of the function's own 2 calls each, 1 with ``affine``, and with
    ``channels`` 2 for each entry of one channel. **Bias**: O(step^2), none where linear. **Variance**:
    a function with noise s adds s^2 / (2 step^2) to each entry. **When**: a network has one part that autograd does not
    see. By itself it is what the function is, and ends a graph.

    Args:
        function: From a tensor to a tensor. It may leave torch. A module may have parameters.
        structure: What may be assumed. ``"elementwise"``: every output depends on the input at its own place.
            ``"local"``: images of shape (n, c, h, w), and outputs of the same height and width, each of which depends
            on the inputs at most ``reach`` places away. ``"linear"``: rows are samples, and the function is affine.
            ``"sparse"``: rows are samples, and outputs depend on few inputs, as ``pattern`` says. ``"samplewise"``:
            rows are samples. ``None``: whether rows are samples is tried out.
        reach: Of ``"local"``.
        pattern: Of ``"sparse"``: which output of a sample depends on which input of it, both counted through, shape
            (outputs, inputs), boolean.
        affine: Whether the outputs are affine in each of the function's own parameters: one difference over a unit is
            then the derivative, with no step to choose.
        channels: Whether the first index of each of the function's parameters is a channel of its output, shape
            (n, channels, ...), and reaches no other, as in a linear layer or a convolution.
        step: How far to move an input. ``None`` is for smooth functions in full precision; one that rounds needs a step
            as wide as its levels, one with noise a step at which it is seen through: `measured_step` finds it.

    Raises:
        ArgumentError: When an argument is not of its kind.

    References:
        Curtis, Powell and Reid, On the estimation of sparse Jacobian matrices, IMA J. Appl. Math. 13, 1974 (colours).

    Example:
        >>> import torch, zograd as zo
        >>> device = zo.nn.Opaque(lambda x: torch.from_numpy(x.numpy() ** 3), structure="elementwise")
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), device).double()
        >>> loss = zo.nn.backward(model, lambda y: y.square().mean(), torch.ones(4, 2).double())
        >>> y = model[0](torch.ones(4, 2).double())
        >>> bool((model[0].bias.grad - 3 * y[0] ** 5).abs().max() < 1e-6)
        True
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        *,
        structure: Structure | None = None,
        reach: int | None = None,
        pattern: Tensor | None = None,
        affine: bool = False,
        channels: bool = False,
        step: float | None = None,
    ) -> None:
        super().__init__()
        require(callable(function), "function", "be callable", function, "It takes a tensor and returns one.")
        if structure is not None:
            one_of("structure", structure, ("elementwise", "local", "linear", "sparse", "samplewise"))
        hint = "It is how many places away an input still counts: 1 for a 3 x 3 kernel."
        require((reach is not None) == (structure == "local"), "reach", 'be given with structure="local"', reach, hint)
        self.function = function
        self.structure = structure
        self.reach = 0 if reach is None else count("reach", reach, least=0, hint=hint)
        hint = "It says which output (row) depends on which input (column) of a sample."
        sparse = structure == "sparse"
        require((pattern is not None) == sparse, "pattern", 'be given with structure="sparse"', pattern, hint)
        if pattern is not None:
            good = isinstance(pattern, Tensor) and pattern.dtype == torch.bool and pattern.ndim == 2
            require(good, "pattern", "be a boolean tensor of shape (outputs, inputs)", pattern, hint)
        self.pattern = pattern
        self.affine = instance("affine", affine, bool, "True or False")
        hint = "Channels are moved at once, over a step."
        require(not (affine and channels), "affine", "be False with channels=True", affine, hint)
        self.channels = instance("channels", channels, bool, "True or False")
        self.step = None if step is None else positive("step", step, "In units of the input.")
        self._operation = Operation(self)

    def forward(self, x: Tensor) -> Tensor:
        """The function."""
        listener = recorder()
        parameters = tuple(self.function.parameters()) if isinstance(self.function, nn.Module) else ()
        if listener is None or not any(listener.depends(tensor) for tensor in (x, *parameters)):
            return self._operation(x)
        with listener.paused():
            y = self._operation(x)
            y = y.clone() if y is x else y
        listener.write(self._operation, (x, *parameters), {}, y)
        return y

    def measured_step(self, x: Tensor, samples: int = 4, generator: torch.Generator | None = None) -> float:
        """The step at which noise and bias of a difference are least together, measured at an input.

        As `zograd.nn.layer_steps` finds it, along a few inputs (of all samples at once) and for random sums of the
        outputs. Set it: ``opaque.step = opaque.measured_step(x)``. **Cost**: ``samples`` times 20 to 80 calls.

        Args:
            x: A typical input, a batch.
            samples: The inputs of one sample that are looked at; random signs of all where ``"elementwise"``.
            generator: What draws them (a CPU generator); seeded with 0 by default.

        Returns:
            The step, in units of the input.
        """
        linear = self.structure == "linear"
        require(not linear, "structure", 'be other than "linear", which needs no step', self.structure)
        count("samples", samples, hint="It is how many inputs are looked at.")
        drawing = torch.Generator().manual_seed(0) if generator is None else generator
        x = x.detach()
        y = self._operation(x)

        def signs(like: Tensor) -> Tensor:
            return torch.randint(2, like.shape, generator=drawing).to(like).mul_(2).sub_(1)

        lines = []
        for _ in range(samples):
            direction = signs(x)
            if self.structure != "elementwise":
                flat = torch.zeros_like(direction).reshape(len(x), -1)
                column = int(torch.randint(flat.shape[1], (), generator=drawing))
                flat[:, column] = direction.reshape(len(x), -1)[:, column]
                direction = flat.view(x.shape)
            lines.append((direction, signs(y)))

        def along(offsets: Tensor) -> Tensor:
            values = [(self._operation(x + t.to(x) * line) * weights).sum() for line, weights in lines for t in offsets]
            return torch.stack(values).reshape(len(lines), -1).double().cpu()

        widest = max(1.0, float(x.abs().max()))
        return step_along(along, torch.finfo(x.dtype).eps ** 0.5 * widest, widest)[0]

    def checked(self, y: Any) -> Tensor:
        """What the function returned, which must be a tensor."""
        require(isinstance(y, Tensor), "function", "return a tensor", y, "Use torch.as_tensor on its result.")
        found: Tensor = y
        return found


def opaque(call: Call, given: tuple[Sensitivity, ...], wanted: Iterable[int]) -> dict[int, Tensor]:
    """The sensitivities of an opaque node's input and of its parameters, as its structure allows."""
    owner = call.node.op.owner  # type: ignore[attr-defined]
    (out,) = given
    if out is None:
        return {}
    before = call.inquiry
    call.inquiry = Inquiry(before.step if owner.step is None else owner.step, queries=before.queries)
    found: dict[int, Tensor] = {}
    for at in wanted:
        if at != 0 and owner.channels:
            found[at] = _channels(call, out, at)
        elif at != 0 and owner.affine:
            found[at] = _affine(call, out, at)
        elif at != 0:
            found[at] = probed(call, given, at, False, call.inputs[at].numel())
        elif owner.structure == "elementwise":
            found[at] = out * difference(call, at)
        elif owner.structure == "local":
            found[at] = _local(call, out, at, owner.reach)
        elif owner.structure == "linear":
            found[at] = _linear(call, out, at)
        elif owner.structure == "sparse":
            found[at] = _sparse(call, out, at, owner.pattern)
        elif owner.structure == "samplewise":
            found[at] = probed(call, given, at, True, call.inputs[at].numel())
        else:
            found |= unknown(call, given, [at])
    before.work += call.inquiry.work
    call.inquiry = before
    return found


def _linear(call: Call, out: Tensor, at: int) -> Tensor:
    """Contracted with the answers to unit impulses, which are the same for every sample."""
    x = call.inputs[at]
    elements = x[0].numel()
    rows = min(MOST_ROWS, max(1, len(x)))
    still = call({at: torch.zeros_like(x[:1]).expand(rows, *x.shape[1:]).clone()})[0][:1].reshape(1, -1)
    found = []
    for start in range(0, elements, rows):
        impulses = x.new_zeros(rows, elements)
        number = min(rows, elements - start)
        impulses[torch.arange(number), torch.arange(start, start + number)] = 1.0
        answers = call({at: impulses.view(rows, *x.shape[1:])})[0][:number].reshape(number, -1) - still
        found.append(out.reshape(len(x), -1) @ answers.T)
    return torch.cat(found, 1).view(x.shape)


def _affine(call: Call, out: Tensor, at: int) -> Tensor:
    """One entry after another, a unit further: the outputs follow in a straight line."""
    x = call.inputs[at]
    still = call({at: x.clone()})[0]
    found = torch.zeros_like(x).flatten()
    for entry in range(x.numel()):
        ahead = x.flatten().clone()
        ahead[entry] += 1.0
        found[entry] = ((call({at: ahead.view(x.shape)})[0] - still) * out).sum() / (ahead[entry] - x.flatten()[entry])
    return found.view(x.shape)


def _sparse(call: Call, out: Tensor, at: int, pattern: Tensor) -> Tensor:
    """All inputs of one colour at once: no output depends on two of them."""
    x = call.inputs[at]
    flat, change_of = x.reshape(len(x), -1), out.reshape(len(out), -1)
    fits = pattern.shape == (change_of.shape[1], flat.shape[1])
    shapes = f"{tuple(pattern.shape)} for {change_of.shape[1]} outputs of {flat.shape[1]} inputs"
    require(fits, "pattern", "have shape (outputs, inputs) of one sample", shapes, "Count entries through, row by row.")
    column, row = pattern.T.cpu().nonzero().T
    colour = colours(flat.shape[1], column, row, len(pattern))
    found = torch.zeros_like(flat)
    for each in range(int(colour.max()) + 1):
        group = (colour == each).nonzero().squeeze(1).to(x.device)
        size = call.inquiry.steps(flat[:, group])
        ahead, behind = flat.clone(), flat.clone()
        ahead[:, group] += size
        behind[:, group] -= size
        change = call({at: ahead.view(x.shape)})[0] - call({at: behind.view(x.shape)})[0]
        sums = (change.reshape(len(x), -1) * change_of) @ pattern[:, group].to(out)
        found[:, group] = sums / (ahead - behind)[:, group]
    return found.view(x.shape)


def _channels(call: Call, out: Tensor, at: int) -> Tensor:
    """One entry of every channel at once: each changes the outputs of its own channel only."""
    x = call.inputs[at]
    fits = out.ndim > 1 and x.ndim > 0 and x.shape[0] == out.shape[1]
    hint = "Leave out channels=True where a parameter has another first index."
    shapes = f"{tuple(x.shape)} and outputs {tuple(out.shape)}"
    require(fits, "function", "have parameters of shape (channels, ...) for outputs (n, channels, ...)", shapes, hint)
    flat = x.reshape(len(x), -1)
    found = torch.zeros_like(flat)
    for entry in range(flat.shape[1]):
        size = call.inquiry.steps(flat[:, entry])
        ahead, behind = flat.clone(), flat.clone()
        ahead[:, entry] += size
        behind[:, entry] -= size
        change = (call({at: ahead.view(x.shape)})[0] - call({at: behind.view(x.shape)})[0]) * out
        found[:, entry] = change.transpose(0, 1).flatten(1).sum(1) / (ahead - behind)[:, entry]
    return found.view(x.shape)


def _local(call: Call, out: Tensor, at: int, reach: int) -> Tensor:
    """All pixels of one colour of one channel at once, so far apart that no output sees two of them."""
    x = call.inputs[at]
    period = 2 * reach + 1
    height, width = x.shape[-2:]
    found = torch.zeros_like(x)
    tall, wide = (-(-size // period) * period for size in (height, width))
    for channel in range(x.shape[1]):
        for i in range(min(period, height)):
            for j in range(min(period, width)):
                here = (slice(None), channel, slice(i, None, period), slice(j, None, period))
                size = call.inquiry.steps(x[here])
                ahead, behind = x.clone(), x.clone()
                ahead[here] += size
                behind[here] -= size
                change = ((call({at: ahead})[0] - call({at: behind})[0]) * out).sum(1, keepdim=True)
                # Each moved pixel in the middle of a block of its own.
                top, left = reach - i, reach - j
                below, right = tall + period - height - top, wide + period - width - left
                blocks = F.pad(change, (left, right, top, below))
                sums = F.avg_pool2d(blocks, period, divisor_override=1)
                moved = x[here]
                found[here] = sums[:, 0, : moved.shape[1], : moved.shape[2]] / (ahead - behind)[here]
    return found
