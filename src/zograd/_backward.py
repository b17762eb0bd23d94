"""`backward`: the gradient of a network's loss without a backward pass."""

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from zograd._checks import instance, require
from zograd._errors import EvaluationError
from zograd._probes import Coordinates
from zograd._typing import Vector
from zograd.blackbox import ModuleLoss, ModuleState, Stage, StagedLoss, TracedLoss, own_stages
from zograd.estimators import GradientEstimator
from zograd.estimators._default import default_estimator
from zograd.evaluate import Collector, Evaluator, FailurePolicy, InProcess, failure_policy, last_words

_generators: weakref.WeakKeyDictionary[nn.Module, torch.Generator] = weakref.WeakKeyDictionary()


def backward(
    model: nn.Module,
    loss_fn: Callable[[Any], Any],
    inputs: Any,
    *,
    estimator: GradientEstimator | None = None,
    parameters: Iterable[Tensor] | None = None,
    on_failure: str | FailurePolicy = "drop",
    generator: torch.Generator | None = None,
    reuse: bool = True,
    stages: Sequence[Stage] | None = None,
    evaluator: Evaluator | None = None,
) -> Tensor:
    r"""The gradient of a network's loss into ``.grad``, from forward passes alone.

    It takes the place of ``loss = loss_fn(model(inputs)); loss.backward()`` in a training loop: the model may hold
    black boxes, rounding, Python, or more activations than fit in memory. With w all parameters in one vector,

    .. math:: \texttt{.grad} \mathrel{+}= \hat\nabla_w\, \ell(\mathrm{model}_w(\mathrm{inputs}))

    **Cost**: one forward pass for the loss and ``estimator.evaluations(d)`` for its gradient, d the number of
    parameters; memory O(d) on top of a forward pass. **Bias, variance**: those of the estimator, for the loss *of this
    batch*: every probe sees the same inputs, dropout masks and, in training mode, batch statistics. **When**: there is
    no backward pass, or no room for one; with one, backpropagation is exact and costs two forward passes.

    What is left behind is what one forward pass leaves: buffers such as running statistics, and torch's random numbers.
    Parameters keep their values bit for bit. Nothing but the ``.grad`` of the parameters is new, and it is added to
    what is there, as autograd does; tensor hooks are not called, forward hooks are, once a probe. If anything raises,
    all is as before the call.

    Args:
        model: Any module; its parameters are float32 or float64. The model must not keep state outside its buffers.
        loss_fn: From the model's output to one number; targets are closed over. It is called without a graph.
        inputs: A tuple is unpacked to positional arguments, a dict to keyword arguments; anything else (a tensor, a
            list) is the one argument.
        estimator: Where to look. ``None`` takes `CoordinateGradient` (central) for up to 64 parameters and
            ``RandomGradient(samples=32)`` for more: a descent direction at the price of 64 forward passes, with a
            variance of about d / 32 times the squared length of the gradient. `ForwardGradient` works where model and
            loss are made of torch operations. With float32 and float64 parameters in one model, steps are taken in
            float32.
        parameters: The parameters to estimate, as tensors; by default all of the model that require a gradient.
        on_failure: Of a probe that raises or is NaN or inf: ``"drop"`` leaves it out of the gradient, ``"raise"``
            stops, ``zo.value(x)`` counts it as x.
        reuse: Whether the probes of `CoordinateGradient` may reuse what the coordinate that they move does not reach
            (`TracedLoss`): the same gradient for a part of the price. Python code of model and loss then runs once.
            A model that cannot be recorded is evaluated as it is, but for an ``nn.Sequential``, whose parts are its
            stages. `zograd.nn.backward` is faster still.
        stages: Functions or modules whose composition is the model, ``stages[-1](...stages[0](inputs))``: coordinates
            of a stage then run that stage and those after it from its kept input, whatever Python is in them
            (`StagedLoss`). The gradient is that of whole passes, bit for bit; without ``.item()`` and the like, leave
            it out: a record reuses more. Four forward passes are spent on comparing stages and model.
        generator: What directions are drawn from (a CPU generator). ``None`` keeps one for each model, seeded with
            ``torch.initial_seed()`` at its first call: ``torch.manual_seed`` before it makes a training run repeat.
        evaluator: Who runs the probes; this process by default. A `zograd.Pool` keeps a copy of the model in each
            worker, here or on other machines, and sends what has changed; `zograd.evaluate.Ranks` shares the work among
            the processes of torch.distributed. The gradient is the same bit for bit, as long as this process has one
            torch thread, as workers have.

    Returns:
        The loss before the step, detached, shape ().

    Raises:
        ArgumentError: When an argument is not of its kind, the loss is not one number, or model, loss or inputs cannot
            be pickled for a pool.
        EvaluationError: When the loss at the parameters is not finite and no value stands in for it, or every probe is
            lost. An exception of the model at the parameters themselves is raised as it is.

    Example:
        >>> import torch, zograd as zo
        >>> model = torch.nn.Linear(2, 1).double()
        >>> x, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double(), torch.tensor([[1.0], [0.0]]).double()
        >>> loss = zo.backward(model, lambda output: (output.round(decimals=9) - y).square().mean(), x)
        >>> error = model(x) - y
        >>> bool((model.weight.grad - error.T @ x).norm() < 1e-3)  # what backpropagation gives without the rounding
        True

    References:
        - Malladi et al., Fine-tuning language models with just forward passes, NeurIPS 2023 (directions from seeds).
        - Chen et al., DeepZero: scaling up zeroth-order optimization for deep model training, ICLR 2024.
        - Baydin, Pearlmutter, Syme, Wood and Torr, Gradients without backpropagation, arXiv:2202.08587, 2022.
    """
    instance("model", model, nn.Module, "an nn.Module")
    require(reuse or stages is None, "stages", "be left out with reuse=False", stages, "They are for reuse.")
    hint = "What stages keep is in this process; workers would run whole passes."
    require(evaluator is None or stages is None, "stages", "be left out with an evaluator", stages, hint)
    require(callable(loss_fn), "loss_fn", "be callable", loss_fn, "It takes the model's output and returns one number.")
    if estimator is not None:
        instance("estimator", estimator, GradientEstimator, "a GradientEstimator", "Try zo.RandomGradient().")
    if evaluator is not None:
        instance("evaluator", evaluator, Evaluator, "an Evaluator", "Leave it out to run in this process.")
    policy = failure_policy(on_failure)
    chosen = chosen_parameters(model, parameters)
    with torch.no_grad():
        box = ModuleLoss(model, loss_fn, inputs, chosen)
        before = ModuleState(model)
        try:
            loss = finite_loss(box.loss().detach().clone(), policy)
            after = ModuleState(model)
            before.restore()
            chosen_estimator = estimator or default_estimator(len(box.center))
            drawing = _drawing(model, generator)
            reused = (lambda: reusing(box, stages)) if reuse else None
            gradient = estimated(box, chosen_estimator, policy, drawing, loss, reused, evaluator)
        except BaseException:
            before.restore()
            raise
        after.restore()
        for parameter, piece in zip(chosen, box.pieces(gradient), strict=True):
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter).copy_(piece)
            else:
                parameter.grad.add_(piece)
    return loss


def chosen_parameters(model: nn.Module, parameters: Iterable[Tensor] | None, narrow: bool = False) -> list[Tensor]:
    """The parameters to estimate, each once; of fewer than 32 bits where ``narrow`` allows it."""
    hint = "Pass some of model.parameters(), or leave it out for all that require a gradient."
    given = [p for p in model.parameters() if p.requires_grad] if parameters is None else list(parameters)
    chosen = list({id(p): p for p in given}.values())
    require(
        not any(is_lazy(p) for p in model.parameters()), "model", "have parameters of known shape", model, "Call it."
    )
    require(len(chosen) > 0, "parameters", "hold at least one parameter that requires a gradient", chosen, hint)
    for p in chosen:
        good = isinstance(p, Tensor) and p.requires_grad and p.is_leaf
        require(good, "parameters", "hold tensors that require a gradient, leaves of the graph", p, hint)
        wide = p.dtype in (torch.float32, torch.float64) or (narrow and p.is_floating_point())
        require(wide, "parameters", "be float32 or float64", p, "16 bits do not tell a probe from the centre.")
    return chosen


def finite_loss(loss: Tensor, policy: FailurePolicy) -> Tensor:
    """The loss at the parameters themselves, or what stands in for it."""
    if loss.isfinite():
        return loss
    if math.isnan(policy.fill):
        raise EvaluationError(
            f"the loss at the parameters must be finite, found {float(loss)}. Look for a diverged step or a bad batch; "
            f"on_failure=zo.value(number) counts it as that number.",
            status="invalid",
        )
    return torch.full_like(loss, policy.fill)


def estimated(
    plain: ModuleLoss,
    estimator: GradientEstimator,
    policy: FailurePolicy,
    generator: torch.Generator,
    loss: Tensor,
    reused: Callable[[], ModuleLoss | TracedLoss | StagedLoss] | None,
    evaluator: Evaluator | None = None,
) -> Vector:
    """The gradient of the loss in the flat vector of the parameters; ``reused`` makes the loss that coordinates see."""
    probes = estimator.propose(plain.center, generator)
    box: ModuleLoss | TracedLoss | StagedLoss = plain
    wave, order = probes, None
    if reused is not None and isinstance(probes.offsets, Coordinates) and probes.quantity == "value":
        box = reused()
        if isinstance(box, StagedLoss) and evaluator is not None:
            box = plain  # what stages keep is in this process
        if isinstance(box, TracedLoss):
            wave, order = box.arranged(probes)
            if box.relative:
                policy = replace(policy, fill=policy.fill - float(loss))
    if probes.quantity == "derivative":  # a penalty is a loss, not a slope
        policy = replace(policy, fill=math.nan)
    collector = Collector([wave], policy, shape=())
    for finished in (evaluator or InProcess()).stream(box, [wave]):
        collector.add(finished)
    values, tally = collector.values()[0], collector.tally
    if order is not None:
        values = torch.empty_like(values).index_copy_(0, order.to(values.device), values)
    if not values.isfinite().any():
        raise EvaluationError(
            f"every one of the {len(probes)} probes was lost ({tally}).{last_words(tally)} Look closer to the "
            f"centre with a smaller step, or pass on_failure=zo.value(number)."
        ) from (tally.last.exception if tally.last is not None else None)
    return estimator.gradient(probes, values).gradient


def reusing(plain: ModuleLoss, stages: Sequence[Stage] | None) -> ModuleLoss | TracedLoss | StagedLoss:
    """The loss as it costs least for coordinates: by the stages given, by a record, by stages of its own, or as is."""
    if stages is not None:
        return StagedLoss(plain, stages)
    # Differences where there are less than 64 bits: the values would hide them.
    traced = TracedLoss(plain, relative=plain.center.dtype != torch.float64)
    return traced if traced.tape is not None else own_stages(plain) or plain


def _drawing(model: nn.Module, generator: torch.Generator | None) -> torch.Generator:
    """The generator given, or the model's own."""
    if generator is not None:
        return instance("generator", generator, torch.Generator, "a torch.Generator")
    return _generators.setdefault(model, torch.Generator().manual_seed(torch.initial_seed()))
