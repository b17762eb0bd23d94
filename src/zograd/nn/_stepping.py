"""One step of a training: the gradient by the way that was asked for, of active coordinates only."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from zograd._backward import backward as estimate
from zograd._checks import instance, require
from zograd._errors import EvaluationError
from zograd.estimators import GradientEstimator
from zograd.evaluate import Evaluator
from zograd.nn._backward import backward
from zograd.nn._batches import moved, samples
from zograd.nn._masks import Active, Masks
from zograd.nn._seeded_descent import SeededDescent

Way = Literal["auto", "contraction", "reuse", "plain", "autograd"] | GradientEstimator
WAYS = ("auto", "contraction", "reuse", "plain", "autograd")
Loss = Callable[[Any, Any], Any]
Batch = tuple[Any, Any]


@final
class Stepping:
    """Takes steps of one optimiser.

    Args:
        model: The network.
        loss_fn: From outputs and targets to one number.
        optimizer: Any torch optimiser, or `SeededDescent`.
        gradient: How the gradient is found.
        masks: What draws the active coordinates, or None.
        generator: What estimators and masks draw from.
        evaluator: Who moves coordinates and directions; this process by default.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss,
        optimizer: torch.optim.Optimizer,
        gradient: Way,
        masks: Masks | None,
        generator: torch.Generator,
        evaluator: Evaluator | None = None,
    ) -> None:
        if evaluator is not None:
            instance("evaluator", evaluator, Evaluator, "an Evaluator", "Leave it out to run in this process.")
        alone = gradient in ("autograd", "contraction") or isinstance(optimizer, SeededDescent)
        hint = "Only probes can be shared out: take an estimator, or 'reuse'."
        require(evaluator is None or not alone, "evaluator", "be None with this gradient or optimiser", evaluator, hint)
        good = gradient in WAYS if isinstance(gradient, str) else isinstance(gradient, GradientEstimator)
        hint = "Take 'auto', or an estimator such as zo.RandomGradient()."
        require(good, "gradient", "be an estimator or one of " + ", ".join(map(repr, WAYS)), gradient, hint)
        by_coordinate = isinstance(gradient, str) and not isinstance(optimizer, SeededDescent)
        hint = "Random directions move all coordinates at once."
        require(masks is None or by_coordinate, "masks", "be None with this estimator or optimiser", masks, hint)
        self.model, self.loss_fn, self.optimizer = model, loss_fn, optimizer
        self.gradient, self.masks, self.generator = gradient, masks, generator
        self.evaluator = evaluator
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.active: Active | None = None

    def draw(self, now: Literal["epoch", "step"]) -> None:
        """New active coordinates, if this is when they are drawn."""
        if self.masks is not None and self.masks.every == now:
            self.active = self.masks.draw(self.generator)

    def step(self, group: Sequence[Batch]) -> float:
        """One step by the mean gradient of some batches; the mean of their losses before it."""
        group = [self._here(pair) for pair in group]
        if isinstance(self.optimizer, SeededDescent):
            return self.optimizer.step(lambda: torch.stack([self._loss(batch) for batch in group]).mean())
        self.draw("step")
        for p in self.parameters:
            p.grad = None
        losses = [self._backward(batch) for batch in group]
        for p in self.parameters:
            if p.grad is not None:
                p.grad /= len(group)
        if self.masks is None or self.active is None:
            self.optimizer.step()
        else:
            self._masked(self.masks, self.active)
        return sum(losses) / len(losses)

    def judge(self, pairs: Iterable[Batch]) -> dict[str, float]:
        """The mean loss and, for classes, the share of right answers, in ``eval()`` mode."""
        total, right, size, classes = 0.0, 0, 0, False
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            with torch.no_grad():
                for inputs, targets in map(self._here, pairs):
                    outputs = self.outputs(inputs)
                    n = samples(targets)
                    total += n * float(self.loss_fn(outputs, targets))
                    size += n
                    if isinstance(outputs, Tensor) and isinstance(targets, Tensor) and targets.dtype == torch.int64:
                        classes = outputs.ndim == 2 and targets.ndim == 1
                        right += int((outputs.argmax(1) == targets).sum()) if classes else 0
        finally:
            for module, mode in modes.items():
                module.training = mode
        return {"loss": total / max(size, 1)} | ({"accuracy": right / max(size, 1)} if classes else {})

    def _here(self, pair: Batch) -> Batch:
        """On the model's device."""
        device = self.parameters[0].device
        return moved(pair[0], device), moved(pair[1], device)

    def outputs(self, inputs: Any) -> Any:
        """The model's: a tuple is unpacked to positional arguments, a dict to keyword arguments."""
        if isinstance(inputs, tuple):
            return self.model(*inputs)
        return self.model(**inputs) if isinstance(inputs, dict) else self.model(inputs)

    def _loss(self, batch: Batch) -> Tensor:
        return self.loss_fn(self.outputs(batch[0]), batch[1])  # type: ignore[no-any-return]

    def _backward(self, batch: Batch) -> float:
        """Add one batch's gradient."""
        inputs, targets = batch
        if self.gradient == "autograd":
            loss = self._loss(batch)
            if not bool(loss.isfinite()):
                raise EvaluationError(f"the loss must be finite, found {float(loss.detach())}.", status="invalid")
            loss.backward()  # type: ignore[no-untyped-call]
            return float(loss.detach())

        of_output = _OfOutput(self.loss_fn, targets)

        if isinstance(self.gradient, GradientEstimator):
            drawing: dict[str, Any] = {"generator": self.generator, "evaluator": self.evaluator}
            return float(estimate(self.model, of_output, inputs, estimator=self.gradient, **drawing))
        index = None if self.active is None else self.active.index
        asked: dict[str, Any] = {"active": index, "method": self.gradient, "evaluator": self.evaluator}
        return float(backward(self.model, of_output, inputs, **asked))

    def _masked(self, masks: Masks, active: Active) -> None:
        """A step in which parameters and the optimiser's state are touched where they are active only."""
        size = sum(p.numel() for p in self.parameters)
        flat = torch.cat(
            [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in self.parameters]
        )
        masks.observe(flat, active)
        factors = torch.zeros(size, dtype=flat.dtype)
        factors[active.index] = 1.0 if active.weights is None else active.weights.to(flat.dtype)
        sizes = [p.numel() for p in self.parameters]
        kept = []
        for p, piece in zip(self.parameters, torch.split(factors.to(flat.device), sizes), strict=True):
            if p.grad is not None:
                factor = piece.view_as(p)
                p.grad *= factor
                kept.append((p, factor == 0, p.detach().clone(), self._copies(p)))
        self.optimizer.step()
        for p, still, before, states in kept:
            p.data[still] = before[still]
            for name, value in self._copies(p, copy=False).items():
                value[still] = states[name][still] if name in states else 0.0

    def _copies(self, p: Tensor, copy: bool = True) -> dict[str, Tensor]:
        """The optimiser's state of a parameter that has its shape: momentum and the like."""
        state = self.optimizer.state.get(p, {})
        found = {k: v for k, v in state.items() if isinstance(v, Tensor) and v.shape == p.shape}
        return {k: v.clone() for k, v in found.items()} if copy else found


@final
class _OfOutput:
    """The loss of outputs alone: what may travel to a worker, without the trainer."""

    def __init__(self, loss_fn: Loss, targets: Any) -> None:
        self.loss_fn, self.targets = loss_fn, targets

    def __call__(self, output: Any) -> Any:
        return self.loss_fn(output, self.targets)
