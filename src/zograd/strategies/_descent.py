"""Descent: an estimator for the gradient and an optimiser for the step."""

import copy
from collections.abc import Callable, Iterable
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.linalg import vector_norm

from zograd._arrays import array
from zograd._checks import instance, require
from zograd._errors import ArgumentError
from zograd._parameters import Parameters
from zograd._probes import Dense, Probes
from zograd._typing import Values, Vector
from zograd.estimators import Estimate, GradientEstimator
from zograd.optim import StepRule
from zograd.strategies._strategy import Step, Strategy
from zograd.strategies._watch import Watch

OptimizerFactory = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
"""A ``torch.optim`` class, or a ``functools.partial`` of one: given the parameters, it makes the optimiser."""

SchedulerFactory = Callable[[Any], torch.optim.lr_scheduler.LRScheduler]


@final
class Descent(Strategy):
    """Descend along estimated gradients: ask and tell, so that anything may do the evaluating.

    One step asks for one estimate (``estimator.evaluations(d)`` rows). A `zograd.optim.StepRule` may ask for a
    few trial steps after it, and takes the one that was best. Under an estimator that asks for exact derivatives alone
    no value is seen: the answer is then the last centre, and its value NaN.

    Args:
        x0: Where to start: a tensor, an array, a number, a structure of them, or `Parameters`.
        estimator: Where to look and what to conclude.
        optimizer: A ``torch.optim`` class, or a `functools.partial` of one with its settings, or a
            `zograd.optim` rule, which needs no learning rate. Lengths are in units of the parameters' scale.
        scheduler: A learning-rate scheduler's class or partial, stepped once after every step; not with a
            `zograd.optim` rule, which finds its own length.
        seed: Of the directions and starting points; nothing is drawn from the global generator.

    Raises:
        ArgumentError: When an argument is not of its kind.

    Example:
        >>> import functools, torch, zograd as zo
        >>> descent = zo.Descent(
        ...     torch.tensor([3.0, -2.0]),
        ...     estimator=zo.CoordinateGradient(),
        ...     optimizer=functools.partial(torch.optim.SGD, lr=0.25),
        ... )
        >>> for _ in range(20):
        ...     probes = descent.ask()
        ...     step = descent.tell((probes.points() ** 2).sum(1))  # any program, anywhere
        >>> step.best_value < 1e-6
        True
    """

    def __init__(
        self,
        x0: Any,
        *,
        estimator: GradientEstimator,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        seed: int = 0,
    ) -> None:
        self.parameters = x0 if isinstance(x0, Parameters) else Parameters(x0)
        instance("estimator", estimator, GradientEstimator, "a GradientEstimator", "Try zo.RandomGradient().")
        self.estimator = estimator
        self.center = torch.nn.Parameter(self.parameters.clip(self.parameters.initial.clone()), requires_grad=False)
        self.optimizer = _made(optimizer, self.center)
        if scheduler is not None and isinstance(self.optimizer, StepRule):
            raise ArgumentError(
                f"`scheduler` must be None with {type(self.optimizer).__name__}, which finds the length of its steps "
                f"itself, found {scheduler!r}. Leave it out, or pass optimizer=torch.optim.Adam.",
                argument="scheduler",
                found=scheduler,
            )
        self.scheduler = scheduler(self.optimizer) if scheduler is not None else None
        self.generator = torch.Generator().manual_seed(seed)
        self._rule = self.optimizer if isinstance(self.optimizer, StepRule) else None
        if self._rule is not None:
            self._rule.begin(self.parameters, self.generator)
        self.watch = Watch(adapts=self._rule is not None)
        self.best_value = float("inf")
        self.best_point = self.center.detach().clone()
        self.number = 0
        self.evaluations = 0
        self._asked: Probes | None = None
        self._refined = estimator

    @property
    def answer(self) -> tuple[Vector, float]:
        """The best point and its value: the best seen, or under noise what the step rule settled on."""
        settled = self._rule.answer if self._rule is not None else None
        if settled is None and self._blind:
            return self.center.detach().clone(), float("nan")
        return settled if settled is not None else super().answer

    def ask(self) -> Probes:
        """The probes of the next gradient, or the trial steps of a step rule."""
        if self._asked is None:
            center = self.center.detach().clone()
            trials = self._rule.trials() if self._rule is not None else None
            if trials is not None:
                self._asked = Probes(center, Dense(trials))
            else:
                self._refined = self._rule.refine(self.estimator) if self._rule is not None else self.estimator
                self._asked = self._refined.propose(center, self.generator)
        return self._asked

    def tell(self, values: Values) -> Step:
        """Make a step of the values of the probes last asked for.

        Args:
            values: Shape (n,), in the order of the probes; NaN where an evaluation was lost.

        Raises:
            ArgumentError: When there is not one value a probe.
            GradientError: When too much was lost to tell a gradient.
        """
        probes = self.ask()
        require(
            values.shape == (len(probes),),
            "values",
            f"have shape ({len(probes)},), one value a probe asked for",
            values,
        )
        values = values.detach().to(probes.center)
        self.notice(values)
        diagnostics: dict[str, float] = {}
        value: float | None = None
        if self._rule is not None and self._rule.trying:
            self._rule.settle(values)
        else:
            estimate = self._refined.gradient(probes, values)
            value = estimate.value
            diagnostics = _diagnostics(estimate)
            self.watch.gradient(self._refined, probes, array(values))
            self._step(estimate, probes, values)
        center = self.center.detach()
        center.copy_(self.parameters.clip(center))
        diagnostics["step_length"] = length = float(vector_norm(center - probes.center))
        if self._rule is None or not self._rule.trying:  # else the step is still to come
            diagnostics |= self.watch.step_over_spread(length)
        self.number += 1
        self.evaluations += len(probes)
        self._asked = None
        return Step(
            self.number,
            self.evaluations,
            value,
            self.best_value,
            self.best_point,
            int(np.count_nonzero(~np.isfinite(array(values)))),
            diagnostics,
        )

    def notice(self, values: Values) -> None:
        """Remember the best of ``values``; derivatives are none."""
        if self.ask().quantity == "value":
            super().notice(values)

    @property
    def _blind(self) -> bool:
        """Whether steps were made and not one value seen."""
        return self.number > 0 and self.best_value == float("inf")

    def _step(self, estimate: Estimate, probes: Probes, values: Values) -> None:
        self.center.grad = estimate.gradient
        if self._rule is not None:
            self._rule.take(estimate, probes, values)  # not by `step`, for torch's wrapper around it costs 20 us
        else:
            self.optimizer.step()
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(estimate.value if estimate.value is not None else self.best_value)
        elif self.scheduler is not None:
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Centre, optimiser, scheduler, estimator, generator and the best so far."""
        state: dict[str, Any] = {
            "center": self.center.detach().clone(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "estimator": self.estimator.state_dict(),
            "generator": self.generator.get_state(),
            "watch": self.watch.state_dict(),
            "best_value": self.best_value,
            "best_point": self.best_point.clone(),
            "number": self.number,
            "evaluations": self.evaluations,
        }
        return copy.deepcopy(state)  # torch's optimisers hand out their live tensors

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, between two steps."""
        with torch.no_grad():
            self.center.copy_(state["center"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.estimator.load_state_dict(state["estimator"])
        self.generator.set_state(state["generator"])
        self.watch.load_state_dict(state["watch"])
        self.best_value = state["best_value"]
        self.best_point = state["best_point"].clone()
        self.number = state["number"]
        self.evaluations = state["evaluations"]
        self._asked = None


def _made(optimizer: OptimizerFactory, center: torch.nn.Parameter) -> torch.optim.Optimizer:
    hint = "Pass torch.optim.Adam, functools.partial(torch.optim.SGD, lr=0.1), or a rule of zograd.optim."
    require(callable(optimizer), "optimizer", "be a torch.optim class or a partial of one", optimizer, hint)
    made = optimizer([center])
    require(isinstance(made, torch.optim.Optimizer), "optimizer", "make a torch.optim.Optimizer", made, hint)
    if isinstance(made, torch.optim.LBFGS):
        raise ArgumentError(
            "`optimizer` must take its step from .grad alone, found torch.optim.LBFGS, which evaluates inside its "
            "step. Use zo.optim.QuasiNewton, which asks for its trial steps as evaluations.",
            argument="optimizer",
            found=optimizer,
        )
    return made


def _diagnostics(estimate: Estimate) -> dict[str, float]:
    numbers = {"gradient_norm": float(vector_norm(estimate.gradient)), **estimate.diagnostics}
    ratio = estimate.signal_to_noise
    if ratio is not None:
        numbers["signal_to_noise"] = ratio
    return numbers
