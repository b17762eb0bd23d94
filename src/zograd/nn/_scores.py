"""What each weight is worth before training, and the share of each layer that follows."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zograd._backward import backward as estimate
from zograd._checks import instance, one_of, positive, require
from zograd._errors import EvaluationError
from zograd.blackbox import ModuleState
from zograd.estimators import GradientEstimator
from zograd.nn._backward import backward

Scores = dict[str, Tensor]
Order = Literal["lowest", "highest", "largest"]


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained parameters that are matrices or more: not biases, not those of normalisations."""
    instance("model", model, nn.Module, "an nn.Module")
    found = {name: p for name, p in model.named_parameters() if p.requires_grad and p.ndim >= 2}
    require(len(found) > 0, "model", "have a weight of two dimensions or more that requires a gradient", model)
    return found


def magnitude_scores(model: nn.Module) -> Scores:
    """The absolute value of each weight: what costs nothing to know. Take ``order="highest"``.

    Args:
        model: Its parameters of two dimensions or more are scored.

    Returns:
        For each parameter's name a tensor of its shape.
    """
    return {name: p.detach().abs() for name, p in weights_of(model).items()}


def grasp_scores(
    model: nn.Module,
    loss_fn: Callable[[Any], Any],
    inputs: Any,
    *,
    step: float = 1e-2,
    estimator: GradientEstimator | None = None,
    generator: torch.Generator | None = None,
) -> Scores:
    r"""GraSP's scores from function values (ZO-GraSP): what removing a weight does to the gradient's length.

    .. math:: S = -w \odot H g, \qquad
       H g \approx \|g\|\, \frac{\nabla \ell(w + h\, g / \|g\|) - \nabla \ell(w - h\, g / \|g\|)}{2 h}

    with g the gradient of the loss in the weights and h = ``step`` times the length of w. The sign counts: a weight
    with a *low* score keeps the gradient long, and removing one with a high score makes it longer; `layer_ratios`
    keeps the lowest. A gradient here is `zograd.nn.backward`, from function values and without noise.

    **Cost**: three gradients. **Bias**: O(h^2) of the curvature along g. **Variance**: none by default. With an
    ``estimator`` all three gradients are its estimates, along the same directions; with q random directions the noise
    in each is sqrt(d / q) times its length, and with fewer directions than weights the scores are mostly
    :math:`|w|` times noise: it is for those who can do nothing else.

    Everything is as before the call: parameters, ``.grad``, buffers, random numbers.

    Args:
        model: Its parameters of two dimensions or more are scored and moved, the others stay.
        loss_fn: From the model's output to one number. GraSP divides the outputs by a temperature of 200 here.
        inputs: A batch, as for `zograd.nn.backward`; a few samples of each class are enough.
        step: How far to look along the gradient, as a share of the length of the weights.
        estimator: Another way to a gradient, such as ``zo.RandomGradient(samples=1000)``.
        generator: What the estimator's directions are drawn from.

    Returns:
        For each parameter's name a tensor of its shape.

    Raises:
        ArgumentError: When an argument is not of its kind.
        EvaluationError: When a loss is not finite, or the gradient is zero.

    Example:
        >>> import torch, zograd as zo
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        >>> scores = zo.nn.grasp_scores(model, lambda y: y.square().mean(), torch.randn(32, 4))
        >>> {name: tuple(score.shape) for name, score in scores.items()}
        {'0.weight': (8, 4), '2.weight': (1, 8)}
        >>> zo.nn.layer_ratios(scores, keep=0.25)
        {'0.weight': 0.1875, '2.weight': 0.5}

    References:
        - Wang, Zhang and Grosse, Picking winning tickets before training by preserving gradient flow, ICLR 2020.
        - Chen et al., DeepZero, ICLR 2024, equation 3.
    """
    weights = weights_of(model)
    positive("step", step, "It is a share of the length of the weights; try 1e-2.")
    drawing = generator or torch.Generator().manual_seed(0)
    start = drawing.get_state()
    parameters = list(weights.values())
    kept = [(p, p.detach().clone(), p.grad) for p in parameters]
    before = ModuleState(model)

    def gradient() -> list[Tensor]:
        for p in parameters:
            p.grad = None
        if estimator is None:
            backward(model, loss_fn, inputs, parameters=parameters)
        else:
            drawing.set_state(start)  # the same directions: their noise has no part in the difference
            estimate(model, loss_fn, inputs, parameters=parameters, estimator=estimator, generator=drawing)
        before.restore()
        return [torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in parameters]

    def moved(amount: float) -> list[Tensor]:
        for (p, value, _), way in zip(kept, direction, strict=True):
            p.data.copy_(value + amount * way)
        return gradient()

    try:
        direction = gradient()
        length = _length(direction)
        if not length > 0:
            raise EvaluationError("the gradient must not be zero, found no change of the loss with any weight.")
        h = step * _length([value for _, value, _ in kept]) or step
        above, below = moved(h / length), moved(-h / length)
    finally:
        for p, value, old in kept:
            p.data.copy_(value)
            p.grad = old
    return {
        name: -value * (a - b) * (length / (2 * h))
        for name, (_, value, _), a, b in zip(weights, kept, above, below, strict=True)
    }


def layer_ratios(scores: Mapping[str, Tensor], keep: float, order: Order = "lowest") -> dict[str, float]:
    """The share of each layer that a threshold common to all layers would keep.

    Args:
        scores: For each parameter's name a tensor, of `grasp_scores` or any other.
        keep: The share of all weights to keep, above 0 and at most 1 (1 minus the sparsity).
        order: Which are kept: the ``"lowest"`` (GraSP), the ``"highest"``, or the ``"largest"`` in absolute value.

    Returns:
        For each name a share from 0 to 1; weighted by size they come to ``keep`` up to one weight.

    Raises:
        ArgumentError: When ``keep`` is not a share, or a score is not finite.

    Example:
        >>> import torch, zograd as zo
        >>> zo.nn.layer_ratios({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([-5.0, 3.0])}, keep=0.5)
        {'a': 0.5, 'b': 0.5}
    """
    share("keep", keep)
    one_of("order", order, ("lowest", "highest", "largest"))
    require(len(scores) > 0, "scores", "hold at least one tensor", dict(scores))
    flat = torch.cat([value.detach().double().flatten() for value in scores.values()])
    require(bool(flat.isfinite().all()), "scores", "be finite", flat, "Look for a diverged network.")
    rank = {"lowest": flat, "highest": -flat, "largest": -flat.abs()}[order]
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[rank.argsort(stable=True)[: max(1, round(keep * len(flat)))]] = True
    pieces = torch.split(kept, [value.numel() for value in scores.values()])
    return {name: float(piece.double().mean()) for name, piece in zip(scores, pieces, strict=True)}


def share(argument: str, value: float) -> float:
    """Return ``value``, above 0 and at most 1."""
    positive(argument, value, "It is a share: 0.1 is a tenth.")
    require(value <= 1, argument, "be at most 1", value, "It is a share: 0.1 is a tenth.")
    return float(value)


def _length(pieces: list[Tensor]) -> float:
    return float(torch.stack([piece.double().square().sum() for piece in pieces]).sum().sqrt())
