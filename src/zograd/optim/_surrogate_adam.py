"""Several Adam steps along one surrogate, before it learns again."""

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor

from zograd._checks import count, positive
from zograd._errors import ArgumentError
from zograd._probes import Probes
from zograd._typing import Values
from zograd.estimators import Estimate, GradientEstimator, PublishedSurrogate
from zograd.optim._step_rule import StepRule


@final
class SurrogateAdam(StepRule, torch.optim.Adam):
    """Adam that steps ``steps`` times along a `PublishedSurrogate` for each batch of samples (ZeroGrads' k_theta).

    Cost: no evaluations. With ``steps=1`` it is ``torch.optim.Adam``.

    Args:
        params: One flat tensor.
        lr: The learning rate (the released ``lr_theta``), in units of the parameters.
        steps: Steps on the same network.

    References:
        - Fischer and Ritschel, ZeroGrads, SIGGRAPH 2024, and its code.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 5e-4, steps: int = 3) -> None:
        positive("lr", lr, "It is the length of a step, in units of the parameters; the released one is 5e-4.")
        torch.optim.Adam.__init__(self, params, lr=lr)
        self.param_groups[0]["steps"] = count("steps", steps, hint="The released code takes 3, or 1.")
        self._surrogate: PublishedSurrogate | None = None

    def refine(self, estimator: GradientEstimator) -> GradientEstimator:
        """Remember the surrogate, to ask it for more slopes."""
        if not isinstance(estimator, PublishedSurrogate):
            must = "`estimator` must be a PublishedSurrogate, which tells its slope anywhere"
            raise ArgumentError(f"{must}, found {estimator!r}.", argument="estimator", found=estimator)
        self._surrogate = estimator
        return estimator

    def settle(self, values: Values) -> None:
        """Nothing: there are no trial steps."""

    def take(self, estimate: Estimate, probes: Probes, values: Values) -> None:
        """Step along the estimate, then along the surrogate's slope at each new centre."""
        group = self.param_groups[0]
        center = group["params"][0]
        center.grad = estimate.gradient
        torch.optim.Adam.step(self)
        for _ in range(group["steps"] - 1):
            if self._surrogate is not None:
                center.grad = self._surrogate.slope(center.detach())
                torch.optim.Adam.step(self)
