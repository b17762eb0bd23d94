"""`backward` and `plan`: the gradient of a network's loss by the cheapest way that gives the same gradient."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zograd._backward import chosen_parameters
from zograd._checks import instance, one_of, positive, require
from zograd.blackbox import Stage
from zograd.evaluate import Evaluator
from zograd.nn._call import Inquiry
from zograd.nn._plan import Method, Plan


def backward(
    model: nn.Module,
    loss_fn: Callable[[Any], Any],
    inputs: Any,
    *,
    parameters: Iterable[Tensor] | None = None,
    active: Tensor | None = None,
    method: Method = "auto",
    step: float | Tensor | None = None,
    autograd: bool = False,
    stages: Sequence[Stage] | None = None,
    evaluator: Evaluator | None = None,
) -> Tensor:
    r"""The gradient of a network's loss into ``.grad``, for the price of a few forward passes, from function values.

    What coordinate-wise differences (CGE) would give for every parameter, without a pass for each: the forward pass is
    recorded as the operations that it is made of, and then each operation is asked *on its own* how its output answers
    to its arguments, from the loss backwards. With s the sensitivity of a value, dL/d(value),

    .. math:: s_x = \sum_{y = f(x, \dots)} \Big(\frac{\Delta f}{\Delta x}\Big)^{\!\top} s_y, \qquad
       s_W = \text{input} \star s_{\text{output}} \quad\text{for a layer linear in } W

    Element-wise operations are asked in two to four calls for all elements at once, operations that move elements in
    two, sums and poolings by unit impulses, an `Opaque` part as its structure allows. A product's answer to a unit of
    one factor is the other factor, which is known; a fused operation is taken apart. Nothing is differentiated: no
    formula of a derivative and no autograd is used, unless allowed.

    **Cost**: a few forward passes' time whatever the number of parameters, recording included: 6 to 8 for ResNet-20
    (``benchmarks/network_gradient.py``); all activations in memory, as backpropagation. The first two calls for a
    model spend two more passes on checking that the record is complete. **Bias**: O(step^2) of each operation that
    bends, none of those that do not; the same gradient as `CoordinateGradient`'s up to that. At a corner the mean of
    both sides. **Variance**: none. **When**: a network holds parts that cannot be differentiated, or a runtime has no
    backward pass. Where ``loss.backward()`` works it is more than twice as fast, and exact: use it.

    Values pass through ``detach()`` and ``torch.no_grad()``, which are about graphs and not about values.

    Args:
        model: Any module; its code runs as it is, once. Where a value that depends on the parameters leaves torch
            (``.item()``, NumPy, an ``if``), no record can be made: wrap that part in `Opaque`, or every probe is a
            forward pass (``method="auto"`` does that, with a warning).
        loss_fn: From the model's output to one number; targets are closed over.
        inputs: A tuple is unpacked to positional arguments, a dict to keyword arguments; anything else is the one
            argument.
        parameters: The parameters to differentiate; by default all that require a gradient. Any floating dtype, also
            bfloat16: element-wise operations are asked in 32 bits then.
        active: Coordinates of the flat vector of the parameters, int64, without repetition: the others' ``.grad`` gets
            nothing added. All by default.
        method: ``"contraction"`` as above; ``"reuse"``: coordinate-wise differences that run again only what a
            coordinate touches; ``"plain"``: the same with whole forward passes; ``"auto"``: contraction, reuse for the
            parameters before an operation that nothing is known of, stages or plain where no record can be made.
        step: How far elements are moved: wide enough to be seen where a network rounds.
            With ``"reuse"`` and ``"plain"`` the distance that coordinates move, also one for each, shape (d,), as
            `layer_steps` finds them. ``None`` is for smooth functions.
        autograd: Whether torch operations may be differentiated by autograd, one by one, so that function values are
            used for `Opaque` parts only.
        stages: For ``"reuse"`` and ``"auto"`` where no record can be made: functions or modules whose composition is
            the model, ``stages[-1](...stages[0](inputs))``. Coordinates of a stage run that stage and those after it,
            whatever Python is in them, from its kept input (`zograd.blackbox.StagedLoss`). An ``nn.Sequential`` gives
            its parts by itself.
        evaluator: Who moves the coordinates of ``"reuse"`` and ``"plain"``, as for `zograd.backward`: a `zograd.Pool`,
            `zograd.evaluate.Ranks`. Contraction is done here.

    Returns:
        The loss before the step, detached, shape ().

    Raises:
        ArgumentError: When an argument is not of its kind, or the loss is not one number.
        EvaluationError: When the loss is not finite.
        GradientError: When ``method="contraction"`` meets an operation that nothing is known of, or no record can be
            made for it or, without ``stages``, for ``method="reuse"``.

    Example:
        >>> import torch, zograd as zo
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
        >>> x = torch.randn(16, 3).double()
        >>> loss = zo.nn.backward(model, lambda y: y.square().mean(), x)
        >>> found = model[0].weight.grad.clone()
        >>> model.zero_grad()
        >>> model(x).square().mean().backward()
        >>> bool((found - model[0].weight.grad).norm() < 1e-8 * found.norm())
        True

    References:
        - Chen et al., DeepZero: scaling up zeroth-order optimization for deep model training, ICLR 2024.
        - Curtis, Powell and Reid, On the estimation of sparse Jacobian matrices, IMA J. Appl. Math. 1974 (many columns
          from one difference).
        - Griewank and Walther, Evaluating derivatives, 2008, chapters 3 and 8 (the order of elimination).
    """
    if evaluator is not None:
        instance("evaluator", evaluator, Evaluator, "an Evaluator", "Leave it out to run in this process.")
        hint = "What stages keep is in this process; workers would run whole passes."
        require(stages is None, "stages", "be left out with an evaluator", stages, hint)
    return _plan(model, loss_fn, inputs, parameters, active, method, step, autograd, stages).backward(evaluator)


def plan(
    model: nn.Module,
    loss_fn: Callable[[Any], Any],
    inputs: Any,
    *,
    parameters: Iterable[Tensor] | None = None,
    active: Tensor | None = None,
    method: Method = "auto",
    step: float | Tensor | None = None,
    autograd: bool = False,
    stages: Sequence[Stage] | None = None,
) -> Plan:
    """What the gradient of a network's loss will cost, before it is paid: print it.

    Three forward passes are made: one to record the network's operations, one to time it, one to time each of them.
    The table has queries, floating-point operations, peak memory and seconds for each module, as it is going to be
    done, and for all of it by each method. Seconds are those measured forward times what going back usually takes.

    Args:
        model: As for `backward`, like all other arguments.
        loss_fn: See there.
        inputs: See there.
        parameters: See there.
        active: See there.
        method: See there.
        step: See there.
        autograd: See there.
        stages: See there.

    Returns:
        A `Plan`. Its ``backward()`` does what it says, ``cost`` is then what it took.

    Raises:
        ArgumentError: When an argument is not of its kind.

    Example:
        >>> import torch, zograd as zo
        >>> model = torch.nn.Linear(3, 2)
        >>> plan = zo.nn.plan(model, lambda y: y.square().mean(), torch.randn(4, 3))
        >>> [(part.coordinates, part.method) for part in plan.parts]
        [(8, 'contraction')]
        >>> loss = plan.backward()
        >>> plan.cost.queries < 20
        True
    """
    made = _plan(model, loss_fn, inputs, parameters, active, method, step, autograd, stages)
    with torch.no_grad():
        return made.estimate()


def _plan(
    model: nn.Module,
    loss_fn: Callable[[Any], Any],
    inputs: Any,
    parameters: Iterable[Tensor] | None,
    active: Tensor | None,
    method: Method,
    step: float | Tensor | None,
    autograd: bool,
    stages: Sequence[Stage] | None,
) -> Plan:
    """Check what was given, and record."""
    instance("model", model, nn.Module, "an nn.Module")
    require(callable(loss_fn), "loss_fn", "be callable", loss_fn, "It takes the model's output and returns one number.")
    one_of("method", method, ("auto", "contraction", "reuse", "plain"))
    fits = stages is None or method in ("auto", "reuse")
    require(fits, "stages", 'be given with method="reuse" or "auto" only', method, "They are for reuse.")
    instance("autograd", autograd, bool, "True or False")
    chosen = chosen_parameters(model, parameters, narrow=True)
    size = sum(p.numel() for p in chosen)
    if isinstance(step, Tensor):
        coordinates = method in ("reuse", "plain")
        hint = "Steps for each parameter are distances of coordinates; contraction moves what is between the layers."
        require(coordinates, "step", 'be one number but with method="reuse" or "plain"', step, hint)
        require(step.shape == (size,), "step", f"have one entry for each of {size} parameters", step)
    elif step is not None:
        positive("step", step, "In units of the values that are moved.")
    if active is not None:
        hint = "It names coordinates of the flat vector of the parameters."
        good = isinstance(active, Tensor) and active.ndim == 1 and active.dtype == torch.int64
        require(good, "active", "be an int64 tensor of shape (k,)", active, hint)
        inside = len(active) == 0 or (int(active.min()) >= 0 and int(active.max()) < size)
        require(inside, "active", f"lie from 0 to {size - 1}", active.tolist(), hint)
        active = active.to(chosen[0].device)
    inquiry = Inquiry(None if isinstance(step, Tensor) else step, autograd)
    return Plan(model, loss_fn, inputs, chosen, step=step, active=active, method=method, inquiry=inquiry, stages=stages)
