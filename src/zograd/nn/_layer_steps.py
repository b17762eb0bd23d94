"""Steps of differences for each layer, from the noise that its values are measured to have."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from zograd._backward import chosen_parameters, reusing
from zograd._checks import count, instance, require
from zograd._probes import Coordinates, Probes
from zograd._typing import Vector
from zograd.blackbox import BlackBox, ModuleLoss, ModuleState, Stage
from zograd.nn._noise import step_along


@final
@dataclass(frozen=True, eq=False)
class LayerStep:
    """What was found for one parameter tensor.

    Args:
        name: The parameter's name.
        step: How far its coordinates should be moved.
        noise: The standard deviation of the loss's noise along its coordinates, rounding and quantisation included.
        third: The third derivative along them, 0 where noise hides it.
    """

    name: str
    step: float
    noise: float
    third: float


@final
@dataclass(frozen=True, eq=False)
class LayerSteps:
    """A step for each parameter of a network: printed, a table.

    Attributes:
        step: The steps in the flat vector of the parameters, shape (d,): pass it as ``step=``.
        layers: What was found for each parameter tensor.
        evaluations: What it cost.
    """

    step: Vector
    layers: list[LayerStep]
    evaluations: int

    def __str__(self) -> str:
        width = max(len(layer.name) for layer in self.layers)
        lines = [f"{'parameter':{max(9, width)}}  {'step':>9}  {'noise':>9}  {'third derivative':>16}"]
        lines += [
            f"{layer.name:{max(9, width)}}  {layer.step:9.2e}  {layer.noise:9.2e}  {layer.third:16.2e}"
            for layer in self.layers
        ]
        return "\n".join([*lines, f"{self.evaluations:,} evaluations"])


def layer_steps(
    model: nn.Module,
    loss_fn: Callable[[Any], Any],
    inputs: Any,
    *,
    parameters: Iterable[Tensor] | None = None,
    samples: int = 4,
    generator: torch.Generator | None = None,
    reuse: bool = True,
    stages: Sequence[Stage] | None = None,
) -> LayerSteps:
    r"""How far to move the coordinates of each parameter tensor where a loss is noisy, rounded or quantised.

    The default step of `CoordinateGradient` is for smooth functions in full precision. A loss with noise of standard
    deviation :math:`\varepsilon`, and be it the stairs of a quantiser, needs

    .. math:: h = \Big(\frac{3\,\varepsilon}{|f'''|}\Big)^{1/3}

    where the difference's noise, :math:`\varepsilon / h`, and its bias, :math:`|f'''| h^2 / 6`, are least together.
    Both are measured along a few coordinates of each tensor: the noise from tables of seven equally spaced values whose
    differences stop shrinking (ECNoise), 7.3 times wider until the values are not all the same; the third derivative
    at the shortest of a ladder of steps at which it is larger than that noise.

    **Cost**: ``samples`` times 20 to 80 evaluations for each parameter tensor, whatever its size; with reuse, each is a
    part of a forward pass. **Bias, variance**: those of a sample of a tensor's coordinates; the step is right within
    a small factor, which the error forgives. **When**: once before training and again when it slows down; not for
    smooth losses, for which the default is as good and free.

    Args:
        model: As for `zograd.backward`, like ``loss_fn`` and ``inputs``.
        loss_fn: See there.
        inputs: See there.
        parameters: See there.
        samples: The coordinates of each tensor that are looked at.
        generator: What draws them (a CPU generator); seeded with 0 by default.
        reuse: Whether probes reuse features, as they will in the gradient: then their rounding is that of reuse.
        stages: As for `zograd.backward`.

    Returns:
        `LayerSteps`. Its ``step`` goes into ``CoordinateGradient(step=...)``, and into `zograd.nn.backward` with
        ``method="reuse"`` or ``"plain"``.

    Raises:
        ArgumentError: When an argument is not of its kind.

    Example:
        >>> import torch, zograd as zo
        >>> model = torch.nn.Linear(4, 1).double()
        >>> x = torch.randn(32, 4).double()
        >>> def eight_levels(output):  # its default step would see one stair, or none
        ...     return ((output.tanh() * 8).round() / 8).square().mean()
        >>> steps = zo.nn.layer_steps(model, eight_levels, x)
        >>> len(steps.step), bool((steps.step > 0.01).all())
        (5, True)
        >>> loss = zo.backward(model, eight_levels, x, estimator=zo.CoordinateGradient(step=steps.step))

    References:
        - Moré and Wild, Estimating computational noise, SIAM J. Sci. Comput. 2011.
        - Moré and Wild, Estimating derivatives of noisy simulations, ACM Trans. Math. Softw. 2012 (the step).
    """
    instance("model", model, nn.Module, "an nn.Module")
    require(callable(loss_fn), "loss_fn", "be callable", loss_fn, "It takes the model's output and returns one number.")
    require(reuse or stages is None, "stages", "be left out with reuse=False", stages, "They are for reuse.")
    count("samples", samples, hint="It is how many coordinates of each tensor are looked at.")
    chosen = chosen_parameters(model, parameters, narrow=True)
    drawing = torch.Generator().manual_seed(0) if generator is None else generator
    names = {id(p): name for name, p in model.named_parameters()}
    before = ModuleState(model)
    layers, evaluations, start = [], 0, 0
    with torch.no_grad():
        try:
            plain = ModuleLoss(model, loss_fn, inputs, chosen)
            box = reusing(plain, stages) if reuse else plain
            step = torch.empty_like(plain.center)
            for at, p in enumerate(chosen):
                index = start + torch.randperm(p.numel(), generator=drawing)[:samples]
                found, looked = _found(box, plain.center, index, names.get(id(p), f"parameter {at}"))
                layers.append(found)
                evaluations += looked
                step[start : start + p.numel()] = found.step
                start += p.numel()
        finally:
            before.restore()
    return LayerSteps(step, layers, evaluations)


def _found(box: BlackBox, center: Vector, index: Tensor, name: str) -> tuple[LayerStep, int]:
    """The step for the coordinates that ``index`` is a sample of, and the evaluations spent."""

    def along(offsets: Tensor) -> Tensor:
        rows = Coordinates(
            index.repeat_interleave(len(offsets)).to(center.device), offsets.repeat(len(index)).to(center)
        )
        return box.probe(Probes(center, rows)).reshape(len(index), len(offsets)).cpu()

    widest = max(1.0, float(center[index.to(center.device)].abs().max()))
    shortest = torch.finfo(center.dtype).eps ** 0.5 * widest
    step, noise, third, looked = step_along(along, shortest, widest)
    return LayerStep(name, step, noise, third), looked * len(index)
