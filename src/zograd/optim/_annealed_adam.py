"""Adam with a length that follows from the number of steps, and probes that stay above the noise."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam

from zograd._arrays import array
from zograd._checks import count, positive
from zograd._probes import Probes
from zograd._typing import Points, Values, Vector
from zograd.estimators import Estimate, GradientEstimator, RandomGradient
from zograd.optim._falling import ended, falling
from zograd.optim._step_rule import StepRule

TRAVEL = 0.4
"""The first step is this over the root of the number of steps, in units of the parameters."""
WIDEST = 0.3
"""Probes are made longer up to this, in units of the parameters."""
UNCLEAR, CLEAR = 2.5, 10.0
"""Probes become longer while half-differences have less than so many noise variances, shorter above so many."""
CHECKS = 8
"""Evaluations of the last centre in one wave, under noise: their mean is the value of the answer."""


@final
class AnnealedAdam(StepRule, torch.optim.Adam):
    r"""Adam whose rate falls from :math:`0.4 / \sqrt{T}` units to zero over T steps: no learning rate to tune.

    Where there are more steps than T, because a run goes on with a larger budget, the rate begins again at a quarter,
    and falls to zero over T / 4 steps, again and again; these stretches double whenever the steps have. What was done
    before stays as it was.

    The unit is that of `Parameters`: the range of a bounded parameter. Adam's ratio of mean to root mean square is
    itself the root of a signal-to-noise ratio, so that coordinates whose gradient is mostly noise hardly move. With
    central `RandomGradient` it also keeps the probes above the ``noise``: their length grows while the differences
    between the two sides of the pairs, :math:`\delta_k`, are no larger than noise makes them,
    :math:`\operatorname{mean} \delta_k^2 / 4 < 2.5\, \sigma^2 / 2`, or are all zero (a plateau), and shrinks back when
    they are clear.

    The lowest value seen is luck under noise: once the rate is zero, the centre is evaluated 8 times, and it is the
    `answer`, with the mean of its values; where that happens again, the lower mean counts.

    Cost: none of its own; under noise a wave of 8 evaluations after the last step. When: thousands of parameters under
    noise, or an estimator that is not along coordinates; `BlockNewton` is faster where values are exact, see
    ``benchmarks/many_parameters.py``.

    Args:
        params: One flat tensor, in units in which 1 is a large step (as `Parameters` makes them).
        steps: The number of steps T that the budget pays for; under noise leave 8 evaluations.
        noise: The standard deviation of one value.
        shared: Whether the two sides of a pair share the noise (common random numbers): probes are then made longer
            only where they show nothing at all.

    References:
        - Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015.
    """

    def __init__(self, params: Iterable[Tensor], steps: int, noise: float = 0.0, shared: bool = False) -> None:
        count("steps", steps, hint="It is the number of gradients that the budget pays for.")
        torch.optim.Adam.__init__(self, params, lr=TRAVEL / steps**0.5, betas=(0.9, 0.99))
        self.param_groups[0].update(first=TRAVEL / steps**0.5, steps=steps, done=0, widened=1.0, noise=noise)
        self.param_groups[0].update(checked_at=-1, settled=None, shared=shared)
        if noise:
            positive("noise", noise, "It is the standard deviation of one value.")
        self._widens = False

    @property
    def trying(self) -> bool:
        """Whether the last centre is being evaluated."""
        group = self.param_groups[0]
        if group["noise"] == 0.0 or group["checked_at"] == group["done"]:
            return False
        return ended(group["done"], group["steps"])

    @property
    def answer(self) -> tuple[Vector, float] | None:
        """Under noise, once all steps are made: the last centre, and the mean of its values."""
        group = self.param_groups[0]
        if group["settled"] is None:
            return None
        return self.state[group["params"][0]]["answer"].clone(), group["settled"]

    def trials(self) -> Points | None:
        """The last centre, some times over, where the rate has come to zero under noise."""
        center = self.param_groups[0]["params"][0]
        return center.new_zeros(CHECKS, len(center)) if self.trying else None

    def refine(self, estimator: GradientEstimator) -> GradientEstimator:
        """Longer probes where shorter ones would drown in noise, or show nothing."""
        self._widens = isinstance(estimator, RandomGradient) and estimator.central
        if isinstance(estimator, RandomGradient) and self._widens:
            return replace(estimator, step=estimator.step * self.param_groups[0]["widened"])
        return estimator

    def settle(self, values: Values) -> None:
        """Take the mean of the values of the last centre for its value, and the centre for the answer if that is lower.

        Where all of them are lost, the next wave asks again.
        """
        group, told = self.param_groups[0], values[values.isfinite()]
        if len(told) == 0:
            return
        group["checked_at"], mean = group["done"], float(told.mean())
        if group["settled"] is None or mean < group["settled"]:
            group["settled"] = mean
            center = group["params"][0]
            self.state[center]["answer"] = center.detach().clone()

    def take(self, estimate: Estimate, probes: Probes, values: Values) -> None:
        """Adam's step; the rate falls, and the length of the next probes follows from ``values``."""
        group = self.param_groups[0]
        group["lr"] = group["first"] * falling(group["done"], group["steps"])
        group["done"] += 1
        self._move(group, estimate.gradient)
        if not self._widens:
            return
        ahead, behind = np.split(array(values), 2)
        halves = np.square((ahead - behind) / 2)
        half = float(halves[~np.isnan(halves)].mean())  # of one at least, or there were no estimate
        noise = 0.0 if group["shared"] else group["noise"] ** 2 / 2
        if half <= UNCLEAR * noise:
            length = float(probes.offsets.squared_norms(probes.center).max() / probes.dimension) ** 0.5
            group["widened"] *= 1.5 if length < WIDEST else 1.0
        elif half > CLEAR * noise and group["widened"] > 1.0:
            group["widened"] = max(1.0, group["widened"] / 1.5)

    @torch.no_grad()
    def _move(self, group: dict[str, Any], gradient: Vector) -> None:
        """Adam's step, by torch's function: its method costs twice as much, for what there is no use for here."""
        center = group["params"][0]
        state = self.state[center]
        if "step" not in state:
            step = torch.zeros((), dtype=torch.get_default_dtype())
            state.update(step=step, exp_avg=torch.zeros_like(center), exp_avg_sq=torch.zeros_like(center))
        beta1, beta2 = group["betas"]
        adam(
            [center], [gradient], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]],
            foreach=False, amsgrad=False, maximize=False, weight_decay=0.0,
            lr=group["lr"], beta1=beta1, beta2=beta2, eps=group["eps"],
        )  # fmt: skip
